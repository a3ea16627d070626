"""``isostep-identify``: optimizers are known by their steps, and wrong ones by what is wrong with them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import isostep
from isostep_conformance.identify import TargetError, identify, target
from isostep_conformance.identify.answer import ROUNDED
from isostep_conformance.identify.command import as_json, lines, main
from isostep_conformance.identify.slips import right, slips
from isostep_conformance.identify.trial import problem, steps

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


def decaying(fewest_axes):
    """Adam whose arrays decay beside it: those of so many axes or more."""

    class Decaying(Adam):
        def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
            super().__init__(params, lr, betas, eps)
            self.decay = weight_decay

        def step(self):
            for p in self.param_groups[0]["params"]:
                decays = p.ndim >= fewest_axes
                p.data.mul_(1 - self.param_groups[0]["lr"] * self.decay * decays)
            super().step()

    return Decaying


def test_a_rule_with_a_piece():
    assert "adamw" in {f.rule.name for f in identify(decaying(0)).same}


def changed(change):
    """Adam, before whose steps something is done to its parameters and gradients, by their place and step."""

    class Changed(Adam):
        def step(self):
            for i, p in enumerate(self.param_groups[0]["params"]):
                t = self.state[p].get("t", 0) + 1
                change(i, t, p)
            super().step()

    return Changed


@pytest.mark.parametrize(
    ("change", "step"),
    [
        # a threshold that usual gradients are below
        (lambda i, t, p: p.grad.clamp_(-100, 100), 11),
        (lambda i, t, p: p.data.mul_(0.5 if t == 12 else 1), 12),  # every twelfth step
        (lambda i, t, p: p.data.mul_(0.9 if p.ndim == 4 else 1), 1),  # other arrays
        (lambda i, t, p: p.grad.mul_(0 if i >= 2 else 1), 1),  # more of them
    ],
)
def test_what_eight_steps_do_not_show_is_seen_in_a_harder_run(change, step, capsys):
    answer = identify(changed(change), rule="adam")
    assert (answer.verdict, answer.same) == ("none", [])
    assert answer.parted[0].rule.name == "adam"
    assert answer.parted[0].parted[0] == step
    told = "\n".join(lines(answer))
    assert "but parts from them in a longer and harder run" in told
    assert f"at step {step}, in an array of shape" in told
    assert as_json(answer)["parted"][0]["parted"][0] == step


def test_elements_without_a_gradient_are_seen():
    class Lazy(Adam):
        def step(self):
            before = [(p, p.data.clone()) for p in self.param_groups[0]["params"]]
            super().step()
            for p, old in before:
                p.data = torch.where(p.grad == 0, old, p.data)

    assert identify(Lazy, rule="adam").verdict == "none"


def test_decay_of_matrices_alone_is_a_piece():
    answer = identify(decaying(2), rule="adam")
    assert answer.verdict == "same"
    assert "weight_decay(weight_decay=0.113, decoupled=True, min_ndim=2)" in repr(
        answer.same[0].rule
    )


def test_numbers_taken_for_each_other():
    class Swapped(Adam):
        def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
            super().__init__(params, lr, betas[::-1], eps)

    answer = identify(Swapped, rule="adam")
    assert answer.verdict == "slip"
    assert answer.slipped[0].slip == "exchanged: betas[0] and betas[1]"


def test_a_number_taken_twice():
    class Twice(torch.optim.AdamW):
        def step(self):
            for p in self.param_groups[0]["params"]:
                lr, decay = self.defaults["lr"], self.defaults["weight_decay"]
                p.data.mul_((1 - lr**2 * decay) / (1 - lr * decay))
            super().step()

    answer = identify(Twice, rule="adamw", slips_at_most=1)
    assert answer.verdict == "slip"
    assert answer.slipped[0].slip == "lr twice: (lr * weight_decay)"


@pytest.mark.parametrize(
    "arguments",
    [
        "self, params, lr, betas, eps",  # all required
        "self, *, params, lr=1e-3, betas=[0.9, 0.999], eps=1e-8",
        "self, lr, params, betas=(0.9, 0.999), eps=1e-8",
        "self, params, **rest",
    ],
)
def test_however_it_is_called(arguments):
    handed = "params, **rest" if "rest" in arguments else "params, lr, betas, eps"
    names: dict = {"base": Adam}
    exec(f"def __init__({arguments}): base.__init__(self, {handed})", names)
    answer = identify(type("Mine", (Adam,), {"__init__": names["__init__"]}), rule="adam")
    assert answer.verdict == "same"
    assert set(answer.settings) == {"lr", "betas", "eps"}
    assert 0.95 < answer.settings["betas"][1] < 0.999


def test_a_name_of_its_own_is_no_other_name():
    """beta3 is one of betas elsewhere, and eta is lr; adamod and amos have them themselves."""
    isostep_torch = pytest.importorskip("isostep_torch")
    for name in ("adamod", "amos", "adashift"):  # adashift's first eight steps go nowhere
        answer = identify(isostep_torch.load_optimizer(name), rule=name, slips_at_most=0)
        assert answer.verdict == "same", name


def test_noise_is_the_same_every_time_and_nobody_elses_changes():
    class Noisy(Adam):
        def step(self):
            for p in self.param_groups[0]["params"]:
                p.grad.add_(torch.randn_like(p))
            super().step()

    before = torch.random.get_rng_state()
    far = [identify(Noisy, rule="adam", slips_at_most=0).nearest[0].far for _ in range(2)]
    assert far[0] == far[1]
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_cannot_tell_rules_apart_is_refused():
    with pytest.raises(TargetError, match="does not move its parameters"):
        identify(torch.optim.SGD, {"lr": 0.0, "weight_decay": 0.0})
    with pytest.raises(TargetError, match="numbers that are not finite"):
        identify(torch.optim.SGD, {"lr": float("inf")}, rule="sgd")


def test_code_that_exits_prints_or_is_interrupted(capsys, tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text("import sys\nsys.exit(3)\n")
    assert main([f"{file}:Mine"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    file.write_text(
        "import torch\nclass Mine(torch.optim.SGD):\n"
        "    def step(self):\n        print('stepping')\n        super().step()\n"
    )
    assert main([f"{file}:Mine", "--rule", "sgd", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["verdict"] == "same"
    assert "stepping" in told.err

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("isostep_conformance.identify.command.identify", interrupted)
    assert main(["torch.optim.SGD"]) == 130
    assert capsys.readouterr().err == "isostep-identify: interrupted\n"


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


def test_slips_can_be_made_of_what_reads_less_than_the_rule():
    """A program that begins a sum anew does not read the old one: its mutants have no such input."""
    rule = isostep.rule("adasmooth", lr=0.1, window=5)
    first = next(slips(right(rule, [(4, 3)], 8)))
    names = [{n.attrs[0] for n in p.nodes if n.op == "input"} for p in first.wrong.values()]
    assert any("s" not in found for found in names)
    assert all(second.made[0] == first.made[0] for second in slips(first))
