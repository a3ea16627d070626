"""Every mutant of every rule, piece and composition is killed or explained."""

from __future__ import annotations

import pytest

from isostep_conformance.budget import FACTOR, MARGIN
from isostep_conformance.cases import subjects
from isostep_conformance.equivalents import EQUIVALENTS, Equivalent
from isostep_conformance.kill import judge
from isostep_conformance.mutants import mutants
from isostep_conformance.toll import Fate, Toll

#: A composition's parts are judged by themselves, too.
NAMES = [
    pytest.param(name, marks=pytest.mark.sampled(4 if "+" in name else 2))
    for name in sorted({s.name for s in subjects()})
]
#: A rule of fewer mutants than this in all its settings is no rule, or was not traced.
FEWEST = 20
#: Which of the first setting's mutants are made here; `nox -s full` makes all, of every setting.
EVERY = 6


@pytest.mark.whole  # not for want of a package: minutes of arithmetic, and once is enough
@pytest.mark.parametrize("name", NAMES)
def test_all_are_killed_or_equivalent_by_a_wide_margin(name: str) -> None:
    """Every third of the first setting, all of it where they are few; of others what it takes to judge these."""
    first, *left = (s for s in subjects() if s.name == name)
    toll = Toll(list(judge(first, every=EVERY)))
    for setting in (first, *left):
        if len(toll.mutants) <= FEWEST:
            toll.fates += judge(setting)
    while left and toll.survivors:  # another setting may tell them from the truth
        toll.fates += judge(left.pop(0), only=[f.key for f in toll.survivors])
    assert len(toll.mutants) > FEWEST
    assert [f.id for f in toll.survivors] == []
    assert toll.least / MARGIN > FACTOR


def fate(subject: str, ratio: float, place: str = "", equivalent: Equivalent | None = None) -> Fate:
    return Fate(subject, "x 1.01: lr", place, ratio, "run step 0", equivalent)


def test_a_mutant_is_killed_where_one_setting_of_its_rule_tells_it_from_the_truth() -> None:
    alive, dead = fate("sgd.0", 3.0), fate("sgd.1", 1e6)
    assert Toll([alive]).survivors == [alive]
    for fates in ([alive, dead], [dead, alive]):
        toll = Toll(fates)
        assert toll.survivors == []
        assert (toll.mutants, toll.rate, toll.least) == ([dead], 1.0, 1e6)
    best = fate("sgd.2", 5.0)
    assert Toll([alive, best]).survivors == [best]


@pytest.mark.parametrize("other", [fate("adam.1", 1e6), fate("sgd.1", 1e6, place="(lr * g)")])
def test_another_rules_or_another_places_mutant_is_another(other: Fate) -> None:
    alive = fate("sgd.0", 3.0)
    toll = Toll([alive, other])
    assert toll.survivors == [alive]
    assert toll.rate == 0.5


def test_an_equivalent_that_explains_only_what_another_setting_kills_is_unused() -> None:
    entry = next(e for e in EQUIVALENTS if e.rule == "adai")
    alive, dead = fate("adai.0", 3.0, equivalent=entry), fate("adai.1", 1e6)
    assert entry not in Toll([alive]).unused()
    assert entry in Toll([alive, dead]).unused()


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


def test_a_place_is_what_an_expression_is_used_in() -> None:
    from isostep import program, rule

    places = {m.id: m.place for m in mutants(program(rule("sgd", lr=0.1)))}
    assert places["x 1.01: lr"] == "(-lr)"
    assert places["update negated"] == ""
