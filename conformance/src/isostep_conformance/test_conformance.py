"""The conformance suite itself, as pytest runs it; see ``plugin.py`` for the options."""

from __future__ import annotations

from typing import Any

import pytest

from isostep_conformance.select import Unit
from isostep_conformance.session import Outcome, Session


def _settle(outcomes: list[Outcome]) -> None:
    failures = [line for o in outcomes for line in o.failures]
    if failures:
        pytest.fail(
            "\n".join(
                failures[:8] + ([f"... and {len(failures) - 8} more"] if len(failures) > 8 else [])
            ),
            pytrace=False,
        )
    gaps = list(dict.fromkeys(str(o.gap) for o in outcomes if o.gap is not None))
    if gaps:
        # Failed as declared; a gap that passes is a failure above.
        pytest.xfail("; ".join(gaps))


def test_takes_the_same_step(conformance: Session, conformance_unit: Unit) -> None:
    """Every scenario, teacher-forced and free-running, within budget."""
    _settle(conformance.check_unit(conformance_unit))


def test_keeps_the_contract(conformance: Session, conformance_contract: tuple[Any, str]) -> None:
    """What a step keeps, leaves alone and refuses."""
    unit, name = conformance_contract
    _settle([conformance.check_contract(unit, name)])


def test_gaps_match_cases(conformance: Session) -> None:
    """A gap that speaks of nothing is an error."""
    assert conformance.stale_gaps() == []


def test_margins(conformance: Session) -> None:
    """What passed is far below the budget; where it is not, FACTOR has to be looked at again."""
    assert conformance.margin_faults() == []
