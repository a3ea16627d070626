"""Every mutant of every rule, piece and composition is killed or explained."""

from __future__ import annotations

import zlib

import pytest

from isostep_conformance.budget import FACTOR, MARGIN
from isostep_conformance.cases import Subject, subjects
from isostep_conformance.kill import Toll, judge
from isostep_conformance.mutants import mutants

NAMES = sorted({s.name for s in subjects()})


def sample(name: str) -> list[Subject]:
    """The first setting, and of every third rule one more; `nox -s full` takes all."""
    own = [s for s in subjects() if s.name == name]
    further = "+" not in name and zlib.crc32(name.encode()) % 3 == 0
    return own[:1] + own[1:][-1:] * further


@pytest.mark.whole  # not for want of a package: minutes of arithmetic, and once is enough
@pytest.mark.parametrize("name", NAMES)
def test_all_are_killed_or_equivalent_by_a_wide_margin(name: str) -> None:
    toll = Toll([fate for subject in sample(name) for fate in judge(subject)])
    assert len(toll.fates) > 20
    assert [f.id for f in toll.survivors] == []
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
