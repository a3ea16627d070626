"""``isostep-identify``: optimizers are known by their steps, and wrong ones by what is wrong with them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import isostep
from isostep_conformance.identify import TargetError, identify, target
from isostep_conformance.identify.command import main
from isostep_conformance.identify.search import ROUNDED, problem, steps

torch = pytest.importorskip("torch")

#: torch.optim's classes that step by gradients alone, and how near a rule of the same name comes.
TORCH = {
    "ASGD": "rounded",  # eta is float32
    "Adadelta": "same",
    "Adafactor": "same",
    "Adagrad": "same",
    "Adam": "same",
    "AdamW": "same",
    "Adamax": "same",
    "NAdam": "rounded",  # the product of momenta is float32
    "RAdam": "same",
    "RMSprop": "same",
    "Rprop": "same",
    "SGD": "same",
}


@pytest.mark.parametrize("name", TORCH)
def test_torchs_own_are_known(name):
    answer = identify(f"torch.optim.{name}", rule=name.lower())
    assert answer.verdict == TORCH[name]
    best = (answer.same or answer.rounded)[0]
    assert best.rule.name == name.lower()
    assert best.rule.values["lr"] == answer.settings["lr"]


def test_of_all_rules_the_right_one_and_its_dialect():
    answer = identify("torch.optim.RMSprop", {"centered": True})
    assert {f.rule.name for f in answer.same} == {"rmsprop"}
    assert {f.rule.values["dialect"] for f in answer.same} == {"torch"}
    assert all(f.rule.values["centered"] for f in answer.same)


def test_optax_and_other_names_for_the_same_numbers():
    pytest.importorskip("optax")
    answer = identify("optax.rmsprop", {"decay": 0.83}, rule="rmsprop")
    best = answer.same[0].rule
    assert (best.values["alpha"], best.values["dialect"]) == (0.83, "optax")
    assert identify("optax:lamb", rule="lamb").verdict == "same"


def test_a_wrong_one_is_explained():
    """optax's Adan weighs the differences with 1 - b2, in two places, where the authors have b2."""
    pytest.importorskip("optax")
    answer = identify("optax.adan", {"eps_root": 0.0}, rule="adan")
    if answer.verdict == "same":
        pytest.skip("this optax has mended its Adan")
    assert answer.verdict == "slip"
    slips = answer.slipped[0].slip.split("; ")
    assert [s.partition(":")[0] for s in slips] == ["betas[1] -> 1 - betas[1]"] * 2


class Adam(torch.optim.Optimizer):
    """Adam as somebody might write it, with a mistake or without."""

    mistake = ""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    def step(self):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                s = self.state[p]
                if not s:
                    s |= {"t": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
                s["t"] += 1
                t = s["t"] + (self.mistake == "t + 1")
                old = s["m"].clone()
                s["m"].mul_(b1).add_(p.grad, alpha=b1 if self.mistake == "1 - x -> x" else 1 - b1)
                s["v"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                root = s["v"] + (group["eps"] if self.mistake == "inside the root" else 0)
                root = root.sqrt()
                if self.mistake == "sqrt dropped":
                    root = s["v"].clone()
                bias = (1 - b2**t) ** 0.5
                if self.mistake == "before the division":
                    root = (root + group["eps"]) / bias
                else:
                    root = root / bias
                    if self.mistake == "a bound instead of a term":
                        root = root.clamp(min=group["eps"])
                    elif self.mistake != "inside the root":
                        root = root + group["eps"]
                m = old if self.mistake == "old exp_avg for new" else s["m"]
                sign = 1 if self.mistake == "update negated" else -1
                p.data.add_(sign * group["lr"] * (m / (1 - b1**t)) / root)


MISTAKES = (
    "1 - x -> x",
    "inside the root",
    "a bound instead of a term",
    "old exp_avg for new",
    "update negated",
    "sqrt dropped",
)


def wrong(mistake: str) -> type:
    return type("Adam", (Adam,), {"mistake": mistake})


def test_without_a_mistake_it_is_adam():
    assert identify(Adam, rule="adam").verdict == "same"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_told(mistake):
    answer = identify(wrong(mistake), rule="adam", slips_at_most=1)
    assert answer.verdict == "slip"
    assert mistake in {f.slip.partition(":")[0] for f in answer.slipped}
    assert answer.slipped[0].off <= ROUNDED < answer.nearest[0].off


def test_epsilon_before_the_bias_correction_is_a_dialect_of_its_own():
    answer = identify(wrong("before the division"), rule="adam")
    assert answer.verdict == "same"
    assert answer.same[0].rule.values["dialect"] == "keras"


def test_two_mistakes():
    answer = identify(wrong("t + 1"), rule="adam")  # of both corrections: two places
    assert answer.verdict == "slip"
    assert [s.partition(":")[0] for s in answer.slipped[0].slip.split("; ")] == ["t + 1"]


def test_a_rule_with_a_piece():
    class Decaying(Adam):
        def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
            super().__init__(params, lr, betas, eps)
            self.decay = weight_decay

        def step(self):
            for p in self.param_groups[0]["params"]:
                p.data.mul_(1 - self.param_groups[0]["lr"] * self.decay)
            super().step()

    assert "adamw" in {f.rule.name for f in identify(Decaying).same}


def test_what_is_no_rule_gets_the_nearest():
    class Odd(Adam):
        def step(self):
            for p in self.param_groups[0]["params"]:
                p.data.sub_(0.01 * torch.sin(p.grad * 3) * p)

    answer = identify(Odd, slips_at_most=0)
    assert answer.verdict == "none"
    assert answer.nearest
    assert "sophia" in answer.not_tried


def test_the_search_finds_every_rule_that_it_tries():
    """Each rule as a torch class of ours, whose arithmetic is another's: the rule itself is among the answers."""
    isostep_torch = pytest.importorskip("isostep_torch")
    for name in ("addsign", "lion", "adopt", "lars", "schedule_free_adamw", "sm3", "qhadam"):
        made = isostep_torch.load_optimizer(name)
        answer = identify(made, rule=name)
        assert answer.verdict == "same", name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("torch.optim.Nope", "has no 'Nope'"),
        ("nowhere.at.all", "no module of"),
        ("./missing.py:Mine", "is no file"),
        ("torch.optim.lr_scheduler", "is no class or function"),
        ("torch.optim.LBFGS", "closure"),
    ],
)
def test_what_cannot_be_found_or_stepped_is_one_line(text, says, capsys):
    assert main([text]) == 2
    told = capsys.readouterr()
    assert not told.out
    assert says in told.err
    assert told.err.count("\n") == 1


def test_settings_are_checked(capsys):
    assert main(["torch.optim.SGD", "--set", "speed=3"]) == 2
    assert "torch.optim.SGD has no setting 'speed'; it has lr, momentum" in capsys.readouterr().err
    assert main(["torch.optim.SGD", "--set", "lr"]) == 2
    assert "--set takes NAME=VALUE, got 'lr'" in capsys.readouterr().err
    assert main(["torch.optim.SGD", "--rule", "sdg"]) == 2
    assert "did you mean" in capsys.readouterr().err
    with pytest.raises(TargetError, match="unknown protocol"):
        target(torch.optim.SGD, "keras9")


def test_the_command_says_it_in_words_and_in_json(capsys, tmp_path):
    assert main(["torch.optim.Adamax", "--rule", "adamax"]) == 0
    told = capsys.readouterr().out
    assert "takes the steps of" in told
    assert "adamax(lr=0.0137" in told
    file = tmp_path / "mine.py"
    file.write_text("import torch\nclass Mine(torch.optim.SGD):\n    pass\n")
    assert main([f"{file}:Mine", "--rule", "sgd", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "same"
    assert found["same"][0]["rule"].startswith("sgd(lr=0.0137, momentum=0.872")


def test_its_own_gradients_tell_rules_apart():
    """No two settings of Adam's kin take the same steps of the problem, to well above what counts as the same."""
    start, gradients = problem([(4, 3), (5,)])
    assert all(g[0].flat[0] == 0 for g in gradients)
    sizes = np.abs(np.concatenate([a.ravel() for step in gradients for a in step]))
    assert sizes.max() / sizes[sizes > 0].min() > 1e3
    made = [isostep.rule(n, lr=0.01) for n in ("adam", "radam", "nadam", "adabelief", "laprop")]

    class Shown:
        def __init__(self) -> None:
            self.start, self.gradients = start, gradients

    runs = [np.concatenate([a.ravel() for a in list(steps(r, Shown()))[-1]]) for r in made]
    for i, one in enumerate(runs):
        assert all(np.abs(one - other).max() > 1e-4 for other in runs[:i])
