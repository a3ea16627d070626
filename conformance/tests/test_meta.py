"""The suite is tested too: every wrong rule and wrong backend here must be rejected, the right ones must not."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import wrong_rules
import wrong_steps

import isostep
from isostep.backends.numpy import NumpyReference
from isostep_conformance import cases, contract, hypers, runner
from isostep_conformance.budget import FACTOR, MARGIN
from isostep_conformance.cases import Case


def torch_dialect(name: str) -> list[Case]:
    """The rule's cases that the wrong formulas are slips of, in the dtype that sees most."""
    found = [s for s in cases.of_rule(name) if s.rule.values["dialect"] == "torch"]
    return [Case(s, "float64") for s in found]


def outcome(backend: Any, name: str) -> tuple[float, list[str]]:
    """The worst ratio over all cases and scenarios, and what was said at the first rejection."""
    worst, said = 0.0, []
    for case in torch_dialect(name):
        for scenario in ("run", "exact"):
            tally = runner.check(backend, "wrong", case, scenario)
            worst = max(worst, tally.worst)
            said = said or tally.failures
        if worst > 1e6:
            break
    return worst, said


@pytest.mark.parametrize(("name", "coupled"), [("adam", True), ("adamw", False)])
def test_the_formula_that_the_slips_start_from_is_right(name: str, coupled: bool) -> None:
    worst, said = outcome(wrong_rules.WrongRule(functools.partial(slip, coupled, {})), name)
    assert not said, "\n".join(said)
    assert worst * MARGIN < FACTOR


def slip(
    coupled: bool, wrong: dict[str, Any], p: Any, g: Any, /, *state_t: Any,
    lr: Any, betas: Any, eps: Any, weight_decay: Any, decoupled_weight_decay: bool = False,
) -> Any:  # fmt: skip
    return wrong_rules.adam(
        p,
        g,
        *state_t,
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        coupled=coupled and not decoupled_weight_decay,
        wrong=wrong,
    )


def test_there_are_21_wrong_adams() -> None:
    assert len(wrong_rules.WRONG_ADAMS) == 21


@pytest.mark.parametrize("label", wrong_rules.WRONG_ADAMS)
def test_every_wrong_adam_is_rejected(label: str) -> None:
    wrong = wrong_rules.WRONG_ADAMS[label]
    worst, said = outcome(wrong_rules.WrongRule(functools.partial(slip, True, wrong)), "adam")
    assert said
    assert worst > FACTOR * MARGIN


@pytest.mark.parametrize("label", wrong_rules.WRONG_ADAMWS)
def test_every_wrong_adamw_is_rejected(label: str) -> None:
    wrong = wrong_rules.WRONG_ADAMWS[label]
    worst, said = outcome(wrong_rules.WrongRule(functools.partial(slip, False, wrong)), "adamw")
    assert said
    assert worst > FACTOR * MARGIN


def test_a_rejection_says_everything() -> None:
    wrong = wrong_rules.WRONG_ADAMWS["lr 1% off"]
    _, said = outcome(wrong_rules.WrongRule(functools.partial(slip, False, wrong)), "adamw")
    for part in (
        "adamw.",
        "float64",
        "on wrong",
        "run, step",
        "params[0] element (",
        "got ",
        "expected ",
        "budget 64 x",
    ):
        assert part in said[0], said[0]
    assert said[-1].startswith("rule: adamw(lr=")


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (wrong_rules.GivesNaN, "got nan"),
        (wrong_rules.LeaksDtype, "got dtype float64, expected float32"),
        (wrong_rules.WritesGradient, "gradient[0] was written"),
    ],
)
def test_a_backend_that_breaks_a_step_is_rejected(
    backend: type[NumpyReference], words: str
) -> None:
    tally = runner.check(backend(), "wrong", Case(cases.of_rule("adamw")[0], "float32"), "run")
    assert any(words in line for line in tally.failures), tally.failures[:3]


@pytest.mark.parametrize(
    ("backend", "check"),
    [
        (wrong_rules.DependsOnGrouping, "grouping_bits"),
        (wrong_rules.NeverTheSame, "same_bits_twice"),
        (wrong_rules.WritesOnError, "errors"),
        (wrong_rules.LooksBeforeItChecks, "errors"),
        (wrong_rules.TakesMemoryForRows, "transposed"),
        (wrong_rules.GoesByPlace, "as_dict"),
        (wrong_rules.NarrowScalars, "slow_averages"),
        (wrong_steps.UncorrectedLate, "slow_averages"),
        (wrong_steps.OneCount, "own_counts"),
        (wrong_steps.FirstNumbers, "changed_numbers"),
        (wrong_steps.CutsHalves, "rounded_once"),
        (wrong_steps.ComputesInHalf, "rounded_once"),
    ],
)
def test_a_backend_that_breaks_the_contract_is_rejected(
    backend: type[NumpyReference], check: str
) -> None:
    case = Case(cases.of_rule("adamw")[0], "float32")
    assert contract.check(backend(), "wrong", case, check)
    assert not contract.check(NumpyReference(), "right", case, check)


def test_what_a_backend_raises_is_told_with_its_place() -> None:
    case = Case(cases.of_rule("adamw")[0], "float32")
    said = contract.check(wrong_rules.LooksBeforeItChecks(), "wrong", case, "errors")
    assert re.fullmatch(
        r"adamw\.0-float32 on wrong, errors: too few gradients: must raise a ValueError or TypeError, such as "
        r"isostep\.StepError; raised IndexError: list index out of range \(wrong_rules\.py:\d+\)",
        said[0],
    )
    assert len(said) == 2  # and what is no array has no shape
    broken = runner.check(Raises(), "wrong", case, "run")
    assert re.match(
        r".*run: raised RuntimeError: not today \(test_meta\.py:\d+\)$", broken.failures[0]
    )


class Raises(NumpyReference):
    """Not even a first step."""

    def step(self, *args: Any, **inputs: Any) -> Any:
        message = "not today\nnor tomorrow"
        raise RuntimeError(message)


def test_averages_are_slow_where_rates_are_no_choice_of_structure() -> None:
    rule = isostep.rule("adamw", lr=lambda done: 0.1, betas=(0.5, 0.75), weight_decay=0.5)
    found = hypers.slow(rule)
    assert found is not None
    assert found.values == {**rule.values, "betas": (hypers.SLOW, hypers.SLOW)}
    assert hypers.slow(isostep.rule("sgd", momentum=0.0)) is None
