"""Every mutant of every rule, piece and composition is killed or explained."""

from __future__ import annotations

import pytest

from isostep_conformance.budget import FACTOR, MARGIN
from isostep_conformance.cases import subjects
from isostep_conformance.kill import Toll, judge
from isostep_conformance.mutants import mutants


@pytest.mark.whole  # not for want of a package: three minutes of arithmetic, and once is enough
def test_all_are_killed_or_equivalent_by_a_wide_margin() -> None:
    toll = Toll([fate for subject in subjects() for fate in judge(subject)])
    print(
        f"{len(toll.fates):,} mutants, kill rate {toll.rate:.2%}, the mildest {toll.least:.3g} x the allowed error"
    )
    assert len(toll.fates) > 10_000
    assert [f.id for f in toll.survivors] == []
    assert toll.unused() == []  # an equivalent that explains no survivor
    assert toll.least / MARGIN > FACTOR


def test_ids_are_distinct_and_say_what_was_done() -> None:
    from isostep import program, rule

    ids = [m.id for m in mutants(program(rule("adamw", lr=0.1, weight_decay=0.1)))]
    assert len(set(ids)) == len(ids) > 50
    for part in (
        "t + 1: t",
        "update negated",
        "exp_avg not stored",
        "old exp_avg for new",
        "x 1.01: lr",
    ):
        assert part in ids
