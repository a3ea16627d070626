from __future__ import annotations

from typing import Any

import pytest
import wrong_rules
import wrong_steps

from isostep.backends.numpy import NumpyReference
from isostep_conformance import cases, gaps
from isostep_conformance.cases import Case
from isostep_conformance.gaps import GapError, never, notimpl, notyet
from isostep_conformance.paths import Path
from isostep_conformance.select import Unit, cells
from isostep_conformance.session import Session


def test_three_words_each_with_its_reason() -> None:
    assert notimpl("no kernel yet").word == "notimpl"
    assert notyet("https://example.org/1", rule="muon").rule == "muon"
    assert never("no float16 there", dtype="float16").dtype == "float16"
    with pytest.raises(GapError, match="never needs a reason"):
        never("")
    with pytest.raises(GapError, match="notyet needs a link"):
        notyet("")


def test_plain_dictionaries_do_as_well() -> None:
    assert gaps.read([{"word": "never", "reason": "none", "dtype": "float16"}]) == [
        never("none", dtype="float16")
    ]
    with pytest.raises(GapError, match="must be a Gap or a dict"):
        gaps.read([{"word": "never", "why": "none"}])


def test_an_entry_matches_a_rule_or_one_of_its_cases() -> None:
    gap = notimpl("x", rule=("adamw", "lamb.0"), check="huge")
    assert gap.matches("numpy:fused", "adamw.7", "float32", "huge")
    assert not gap.matches("numpy:fused", "lamb.1", "float32", "huge")
    assert not gap.matches("numpy:fused", "adamw.7", "float32", "run")


def session(backend: object, *entries: gaps.Gap) -> Session:
    return Session([Path("mine", backend, gaps=list(entries))])


def test_an_entry_that_matches_no_case_is_an_error() -> None:
    made = session(NumpyReference(), notimpl("typo", rule="adamww"))
    assert made.stale_gaps() == ["this gap matches no case: " + str(notimpl("typo", rule="adamww"))]
    assert gaps.unmatched([notimpl("x", rule="adamw")], cells(made.paths[0])) == []


def test_a_gap_that_passes_is_an_error_and_one_that_fails_is_not() -> None:
    unit = Unit("mine", Case(cases.of_rule("adamw")[0], "float32"))
    closed = session(NumpyReference(), notimpl("done long ago", rule="adamw", check="exact"))
    said = [line for o in closed.check_unit(unit) for line in o.failures]
    assert len(said) == 1
    assert "passes, yet is listed as a gap: notimpl: done long ago" in said[0]
    open_gap = session(wrong_rules.LeaksDtype(), notimpl("leaks", rule="adamw"))
    assert all(o.passed and o.gap is not None for o in open_gap.check_unit(unit))


def test_a_gap_may_speak_of_contract_checks_of_every_way() -> None:
    for rule, known in (("adam.0", True), ("adam.6", True), ("adam.5", False)):
        entry = notimpl("x", rule=rule, check="strided")
        assert (session(wrong_steps.SomeKernels(), entry).stale_gaps() == []) is known, rule


class WithoutFloat16(NumpyReference):
    """Refuses half of the halves."""

    def step(self, rule: Any, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        if params[0].dtype == "float16":
            message = "no float16 here"
            raise TypeError(message)
        return super().step(rule, params, grads, state, **inputs)


def test_a_gap_of_a_half_covers_the_check_that_steps_in_it() -> None:
    unit = Unit("mine", Case(cases.of_rule("adamw")[0], "float32"))
    gap = notimpl("x", rule="adamw", dtype="float16")
    outcome = session(WithoutFloat16(), gap).check_contract(unit, "rounded_once")
    assert (outcome.failures, outcome.gap) == ([], gap)
    outcome = session(NumpyReference(), gap).check_contract(unit, "rounded_once")
    assert (outcome.failures, outcome.gap) == ([], None)
    (said,) = session(WithoutFloat16()).check_contract(unit, "rounded_once").failures
    assert "no float16 here" in said


@pytest.mark.parametrize(
    ("rule", "asked", "said"),
    [
        ("*", {}, True),
        ("*", {"rules": ("adamw",)}, False),
        ("adamw", {"rules": ("adamw",)}, True),
        ("adamw", {"rules": ("adamw",), "dtypes": ("float32",)}, False),
        ("adamw", {"rules": ("adamw", "lion"), "dtypes": ("float64", "float32")}, False),
        ("*", {"dtypes": ("float16",)}, False),
    ],
)
def test_a_few_rules_that_pass_do_not_close_a_gap_of_all(
    rule: str, asked: dict[str, tuple[str, ...]], said: bool
) -> None:
    gap = notimpl("now and then", rule=rule, check="exact", partly=True)
    made = Session([Path("mine", NumpyReference(), gaps=[gap])], **asked)
    made.gap_results = [(gap, True)] * 12
    assert made.stale_gaps() == ([f"all cases of this gap pass: {gap}"] if said else [])
