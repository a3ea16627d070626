"""Hyperparameters that nobody drew: any that a rule accepts, one step of the reference within budget."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import isostep
from isostep.backends.numpy import NumpyReference
from isostep_conformance import cases, hypers, runner, strategies
from isostep_conformance.cases import Case


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", isostep.rules())
def test_the_reference_is_within_budget_whatever_the_hyperparameters(name: str) -> None:
    @settings(
        derandomize=True,
        max_examples=4,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(strategies.hypers(isostep.definition(name)))
    def holds(values: dict[str, object]) -> None:
        subject = cases.subject_of(name, 0, isostep.rule(name, **values))
        for scenario in ("exact", "corners"):
            tally = runner.check(
                NumpyReference(), "numpy:reference", Case(subject, "float32"), scenario
            )
            assert not tally.failures, "\n".join(tally.failures[:3])

    holds()


@pytest.mark.parametrize("name", isostep.rules())
def test_cases_are_the_same_every_time_and_never_neutral(name: str) -> None:
    part = isostep.definition(name)
    first, second = hypers.bound(part, name), hypers.bound(part, name)
    assert repr(first) == repr(second)
    scheduled = [any(callable(v) for v in values.values()) for values in first]
    assert any(scheduled)


@pytest.mark.parametrize("name", isostep.rules())
def test_every_option_of_every_static_choice_has_a_case(name: str) -> None:
    part = isostep.definition(name)
    bound = hypers.bound(part, name)
    for hyper, domain in part.hyper.items():
        if isinstance(domain, isostep.domains.Choice):
            assert {v[hyper] for v in bound} == set(domain.options)
        if isinstance(domain, isostep.domains.Flag):
            assert {v[hyper] for v in bound} == {True, False}
        if getattr(domain, "zero_is_static", False):
            assert {v[hyper] == 0.0 for v in bound} == {True, False}


@given(st.data())
@settings(derandomize=True, max_examples=30, deadline=None, database=None)
def test_strategies_stay_in_the_domain(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(isostep.rules()))
    isostep.rule(name, **data.draw(strategies.hypers(isostep.definition(name))))
