"""Which arrays of an optimizer's state are a rule's, and a run that goes on in an optimizer of ours."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

from isostep_conformance.identify import TargetError, identify, taken_over

torch = pytest.importorskip("torch")

SHAPES = ((4, 3), (5,), (2, 3, 2, 2), ())


class Momentum(torch.optim.Optimizer):
    """Keras's: the rate is in the buffer. It goes by names that nobody else has."""

    def __init__(self, params, speed=0.01, inertia=0.9):
        super().__init__(params, {"speed": speed, "inertia": inertia})

    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                v = self.state[p].setdefault("v", torch.zeros_like(p))
                v.mul_(group["inertia"]).sub_(p.grad, alpha=group["speed"])
                p.data.add_(v)


class Adam(torch.optim.Optimizer):
    """As its paper has it, with numbers and arrays under other names; ``counted`` says where it counts."""

    counted = "group"

    def __init__(self, params, lr=1e-3, first=0.9, second=0.999, eps=1e-8):
        super().__init__(params, {"lr": lr, "first": first, "second": second, "eps": eps})
        self.count = 0

    def step(self):
        self.count += 1
        for group in self.param_groups:
            if self.counted == "group":
                group["done"] = self.count
            for p in group["params"]:
                own = self.state[p]
                m, v = (own.setdefault(n, torch.zeros_like(p)) for n in ("m", "v"))
                m.lerp_(p.grad, 1 - group["first"])
                v.lerp_(p.grad**2, 1 - group["second"])
                c1, c2 = (1 - group[n] ** self.count for n in ("first", "second"))
                p.data.sub_(group["lr"] * (m / c1) / ((v / c2).sqrt() + group["eps"]))


class Uncounted(Adam):
    counted = "nowhere that anybody finds"


def run(made, steps=13, **settings):
    """A run of two groups, that has come to a place."""
    torch.manual_seed(3)
    params = [torch.nn.Parameter(torch.randn(s)) for s in SHAPES]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.003}]
    optimizer = made(groups, **settings)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()
    return optimizer


def parameters(optimizer):
    return [p for g in optimizer.param_groups for p in g["params"]]


def assert_goes_on(old, **how):
    """What has taken over takes the steps that the old one would have taken."""
    there = copy.deepcopy(old)
    vars(there).update({n: v for n, v in vars(old).items() if n not in vars(there)})
    new = taken_over(old, **how)
    assert all(p is q for p, q in zip(parameters(old), parameters(new), strict=True))
    for _ in range(3):
        before = [p.detach().clone() for p in parameters(there)]
        for p, q in zip(parameters(there), parameters(new), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        there.step()
        new.step()
        for start, p, q in zip(before, parameters(there), parameters(new), strict=True):
            torch.testing.assert_close(q - start, p - start, rtol=2e-4, atol=1e-6)
    return new


@pytest.mark.parametrize(
    ("given", "rule", "where"),
    [
        ("torch.optim.AdamW", "adamw", {"exp_avg": "state[p]['exp_avg']", "step": "state[p]['step']"}),
        ("optax.adamw", "adamw", {"exp_avg_sq": "state[0].nu", "step": "state[0].count"}),
        ("torch.optim.Adafactor", "adafactor", {"row_var": "state[p]['row_var']"}),
        (Adam, "adam", {"exp_avg": "state[p]['m']", "step": "group['done']"}),
        (Uncounted, "adam", {"exp_avg_sq": "state[p]['v']", "step": ""}),
    ],
)  # fmt: skip
def test_arrays_are_known_by_their_numbers(given, rule, where):
    if given == "optax.adamw":
        pytest.importorskip("optax")
    found = {m.name: m for m in identify(given, rule=rule, with_state=True).state}
    assert {n: found[n].where for n in where} == where
    assert all(m.factor == 1 for m in found.values())


def test_a_factor_is_told():
    answer = identify(Momentum, {"speed": 0.02, "inertia": 0.8}, rule="sgd", with_state=True)
    (buffer,) = (m for m in answer.state if m.name == "momentum_buffer")
    assert buffer.where == "state[p]['v']"
    assert buffer.factor == pytest.approx(-0.02)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("AdamW", {"lr": 0.01, "betas": (0.8, 0.95), "amsgrad": True}),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
        ("SGD", {"lr": 0.1}),
        ("Adafactor", {"lr": 0.01}),
        ("NAdam", {"lr": 0.01}),
    ],
)
def test_torchs_own_go_on_as_ours(name, settings):
    pytest.importorskip("isostep_torch")
    new = assert_goes_on(run(getattr(torch.optim, name), **settings), rule=name.lower())
    assert [g["lr"] for g in new.param_groups] == [settings["lr"], 0.003]
    assert all(new.param_groups[0][n] == v for n, v in settings.items())


def test_settings_and_arrays_of_other_names_go_on():
    pytest.importorskip("isostep_torch")
    new = assert_goes_on(run(Adam, first=0.7, second=0.9), rule="adam")
    assert new.param_groups[0]["betas"] == (0.7, 0.9)
    assert all(int(e["step"]) == 16 for e in new.state.values())


def test_who_does_not_count_is_told_to():
    pytest.importorskip("isostep_torch")
    old = run(Uncounted)
    before = [p.detach().clone() for p in parameters(old)]
    with pytest.raises(TargetError, match=r"say how many it has taken \(steps=\)"):
        taken_over(old, rule="adam")
    assert all(map(torch.equal, before, parameters(old)))
    assert old.count == 13
    assert_goes_on(old, rule="adam", steps=13)


def test_before_the_first_step():
    pytest.importorskip("isostep_torch")
    new = assert_goes_on(run(Adam, steps=0), rule="adam")
    assert all(int(e["step"]) == 3 for e in new.state.values())


def test_the_old_one_is_as_it_was():
    """Also what torch's copies of optimizers leave out."""
    pytest.importorskip("isostep_torch")

    class Logged(Adam):
        def __init__(self, params, **settings):
            super().__init__(params, **settings)
            self.log = []

        def step(self):
            super().step()
            self.log.append(self.count)

    old = run(Logged)
    params = [p.detach().clone() for p in parameters(old)]
    arrays = [copy.deepcopy(old.state[p]) for p in parameters(old)]
    taken_over(old, rule="adam")
    assert old.log == [*range(1, 14)]
    assert all(map(torch.equal, params, parameters(old)))
    assert all(
        torch.equal(own[n], a)
        for own, p in zip(arrays, parameters(old), strict=True)
        for n, a in old.state[p].items()
    )


def test_the_readme_s_example():
    isostep_torch = pytest.importorskip("isostep_torch")
    page = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    (source,) = (block for block in blocks if "= taken_over(" in block)
    names = {"optimizer": run(torch.optim.AdamW, lr=0.01)}
    exec(source, names)
    assert isinstance(names["optimizer"], isostep_torch.Optimizer)
    assert names["optimizer"].param_groups[0]["rule"] == "adamw"


def test_what_cannot_be_taken_over_is_refused():
    pytest.importorskip("isostep_torch")
    with pytest.raises(TargetError, match="takes the steps of no rule here"):
        taken_over(run(Adam), rule="lion")
    p = torch.nn.Parameter(torch.randn(3, 4))
    old = Momentum([p])
    p.grad = torch.randn_like(p)
    old.step()
    with pytest.raises(TargetError, match="'momentum_buffer' is only by a factor in the state of"):
        taken_over(old, rule="sgd")
    with pytest.raises(
        TargetError, match=r"needs an optimizer with param_groups and state, .* got int"
    ):
        taken_over(3)


def test_what_keeps_lists_of_tensors_is_refused():
    class Boxed(Adam):
        def step(self):
            super().step()
            for p in parameters(self):
                self.state[p].setdefault("box", [torch.zeros_like(p.grad.sum())])[0].lerp_(
                    p.grad.sum(), 0.1
                )

    with pytest.raises(TargetError, match="a copy of it in float64 does not step: RuntimeError"):
        taken_over(run(Boxed), rule="adam")
