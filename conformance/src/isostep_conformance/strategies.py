"""Hypothesis strategies of hyperparameters, derived from their domains.

Where ``hypers`` draws values that matter, these roam: bounds included, defaults included, schedules among them.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from isostep.domains import Choice, Domain, DomainError, Flag, Integer, Pair, Real, Scheduled
from isostep.rule import Part
from isostep_conformance.hypers import Wave, decays, whole_numbers

#: Nothing is gained by a learning rate of 1e300.
_WIDEST = 4.0


def values(domain: Domain) -> st.SearchStrategy[Any]:
    """Values of one domain."""
    if isinstance(domain, Flag):
        return st.booleans()
    if isinstance(domain, Choice):
        return st.sampled_from(domain.options)
    if isinstance(domain, Pair):
        return st.tuples(*(values(part) for part in domain.parts))
    if isinstance(domain, Scheduled):
        return st.none() | st.sampled_from(decays())
    if isinstance(domain, Integer):
        return st.sampled_from(whole_numbers(domain))
    if isinstance(domain, Real):
        return _reals(domain)
    message = (
        f"no strategy for a {type(domain).__name__} domain; teach isostep_conformance.strategies"
    )
    raise TypeError(message)


def _reals(domain: Real) -> st.SearchStrategy[Any]:
    start = domain.default if isinstance(domain.default, int | float) else 0.0
    low = domain.low if domain.low is not None else min(start, 0.0) - _WIDEST
    high = domain.high if domain.high is not None else max(start, 0.0) + _WIDEST
    numbers = st.floats(
        low,
        high,
        exclude_min=domain.low is not None and domain.low_open,
        exclude_max=domain.high is not None and domain.high_open,
    )
    # Between 0 and 1e-8 lie most floats and no hyperparameters, but zero itself.
    found: st.SearchStrategy[Any] = numbers.map(lambda x: float(f"{x:.6g}")).filter(
        lambda x: domain.allows(x) and (x == 0 or abs(x) > 1e-8)
    )
    if domain.optional:
        found = found | st.none()
    if domain.zero_is_static:
        found = found | st.just(0.0)
    positive = found.filter(lambda x: x is not None and x > 0 and domain.allows(x / 2))
    return (
        found | positive.map(Wave)
        if (domain.low is None or domain.low >= 0) and domain.high is None
        else found
    )


def hypers(part: Part) -> st.SearchStrategy[dict[str, Any]]:
    """Hyperparameters of a rule or piece that its own check accepts."""

    def accepted(found: dict[str, Any]) -> bool:
        try:
            part.bind_values(found)
        except DomainError:
            return False
        return True

    return st.fixed_dictionaries({n: values(d) for n, d in part.hyper.items()}).filter(accepted)
