"""``param_groups``: which parameter gets which decay and learning rate, and what is printed about it."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from isostep import schedules
from isostep_torch import AdamW, param_groups


class Model(torch.nn.Module):
    """An embedding, two blocks and a head."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 4)
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4)) for _ in range(2)
        )
        self.head = torch.nn.Linear(4, 1)


def settings(groups):
    return {n: (g.get("lr"), g.get("weight_decay")) for g in groups for n, _ in g["params"]}


def test_decay_and_learning_rates_by_pattern():
    model = Model()
    model.head.bias.requires_grad_(False)
    found = param_groups(
        model,
        lr=0.1,
        weight_decay=0.2,
        no_decay=["*.bias", "blocks.*.1.*"],
        lr_by={"blocks.*": 0.5, "blocks.1.*": 0.25},
        show=False,
    )
    assert settings(found) == {
        "embed.weight": (0.1, 0.2),
        "blocks.0.0.weight": (0.05, 0.2),
        "blocks.0.0.bias": (0.05, 0.0),
        "blocks.0.1.weight": (0.05, 0.0),
        "blocks.0.1.bias": (0.05, 0.0),
        "blocks.1.0.weight": (0.025, 0.2),
        "blocks.1.0.bias": (0.025, 0.0),
        "blocks.1.1.weight": (0.025, 0.0),
        "blocks.1.1.bias": (0.025, 0.0),
        "head.weight": (0.1, 0.2),
    }
    assert len(found) == 5
    optimizer = AdamW(found, lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["embed.weight", "head.weight"]
    assert optimizer.param_groups[1]["weight_decay"] == 0.2
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()


def test_layer_decay_falls_from_the_top():
    found = settings(param_groups(Model(), lr=1.0, layer_decay=0.5, show=False))
    rates = {n: rate for n, (rate, decay) in found.items() if decay is None}
    assert rates["head.weight"] == rates["head.bias"] == 1.0
    assert {rates[n] for n in rates if n.startswith("blocks.1")} == {0.5}
    assert {rates[n] for n in rates if n.startswith("blocks.0")} == {0.25}
    assert rates["embed.weight"] == 0.125


def test_without_settings_there_is_one_group_that_says_nothing():
    (group,) = param_groups(Model(), show=False)
    assert set(group) == {"params"}
    (one, bare) = param_groups(Model().named_parameters(), no_decay="*.bias", show=False)
    assert "weight_decay" not in one
    assert bare["weight_decay"] == 0.0


@pytest.mark.parametrize("rich", [True, False])
def test_the_table_shows_what_matched(rich, capsys, monkeypatch):
    if rich:
        pytest.importorskip("rich", reason="the other case prints without it")
        monkeypatch.setenv("COLUMNS", "160")
    else:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda n, *a: None if n == "rich" else find(n, *a)
        )
    param_groups(Model(), lr=0.1, weight_decay=0.2, no_decay=["*.bias"], lr_by={"head.*": 2.0})
    out = capsys.readouterr().out
    for text in ("weight_decay", "*.bias", "head.*", "blocks.0.0.weight", "0.2", "(2 more)"):
        assert text in out
    assert ("│" in out) == rich


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"no_decay": ["*.beta"]},
            r"pattern '\*.beta' of no_decay matches none of 11 parameters; names look like 'embed",
        ),
        ({"lr": 1.0, "lr_by": {"tail.*": 0.1}}, r"pattern 'tail.\*' of lr_by matches none"),
        ({"layer_decay": 0.9}, "multiply lr, got lr=None; pass lr"),
    ],
)
def test_errors(options, text):
    with pytest.raises(ValueError, match=text):
        param_groups(Model(), **options)


def test_a_frozen_model():
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        param_groups(Model().requires_grad_(False))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": "0.1"}, "lr must be a finite number >= 0, got '0.1'"),
        ({"weight_decay": -1.0}, "weight_decay must be a finite number >= 0, got -1.0"),
        ({"weight_decay": float("nan")}, "weight_decay must be a finite number >= 0, got nan"),
        ({"lr": 0.1, "lr_by": {"head.*": "2"}}, "lr_by['head.*'] must be a finite number > 0"),
        ({"lr": 0.1, "lr_by": ["head.*"]}, "lr_by must be a dict of pattern: factor"),
    ],
)
def test_numbers_are_checked(options, text):
    with pytest.raises((TypeError, ValueError)) as caught:
        param_groups(Model(), show=False, **options)
    assert str(caught.value).startswith(f"param_groups: {text}")


def test_weight_decay_may_be_a_schedule(capsys):
    decay = schedules.Linear(0.1)
    groups = param_groups(Model(), weight_decay=decay, no_decay=["*.bias"])
    assert {id(g["weight_decay"]) if g["weight_decay"] else 0 for g in groups} == {id(decay), 0}
    assert "Linear" in capsys.readouterr().out
    AdamW(groups)
