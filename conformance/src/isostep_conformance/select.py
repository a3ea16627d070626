"""Which units run: the whole matrix, or the fixed sample that continuous integration has time for.

A unit is one path and one case, with all scenarios of the case; contract checks are run on the first case of each
rule. The sample is the first case of every rule on every path in float32, of every other composition on every other
path, of one subject in six a further case in another dtype on every other path, and a quarter of the contract checks,
all chosen by a hash: always the same. A path that stands in for other hardware, or whose twin is run too, takes part of
that; it and the compositions mostly go without the long run and half of the other scenarios. Where no more than two
paths are asked for, none of it is thinned.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from isostep.registry import FILE, module_of
from isostep_conformance.cases import DTYPES, Case, Subject, broken, of_file, subjects
from isostep_conformance.contract import CHECKS
from isostep_conformance.gaps import Gap
from isostep_conformance.paths import Path
from isostep_conformance.scenarios import SCENARIOS
from isostep_conformance.truth import FREE

#: So many paths at most are tested with all contract checks and both cases of a rule.
FEW = 2
#: The dtype in which every rule runs on every path, always.
FIRST = "float32"


class SelectionError(ValueError):
    """A selection that selects nothing, or names what is not there."""


@dataclass(frozen=True)
class Unit:
    """One cell of the matrix on one path."""

    path: str
    case: Case
    #: without the long run, which is most of the work, and with every other of the other scenarios
    brief: bool = False
    #: the first case of its rule that the path takes in its way: contract checks are run on it, and the large array
    first: bool = True

    @property
    def scenarios(self) -> tuple[str, ...]:
        """The scenarios of the case that are run."""
        every = tuple(s for s in SCENARIOS if s != "odd" or self.first)
        if not self.brief:
            return every
        some = [s for s in every if s not in FREE]
        first = _draw(self.path, self.case.subject.name) % 2
        return tuple(some[first::2])

    @property
    def id(self) -> str:
        """``numpy:fused-adamw.3-float32``."""
        return f"{self.path}-{self.case.id}"


def units(
    paths: Iterable[Path],
    *,
    full: bool = False,
    rules: Iterable[str] = (),
    dtypes: Iterable[str] = (),
) -> list[Unit]:
    """The units to run, case by case, so that all paths share one truth."""
    runnable = [p for p in paths if not p.missing]
    thin = len(runnable) > FEW
    names = {p.name for p in runnable}
    second = {p.name for p in runnable if thin and (p.stand_in or p.twin in names)}
    chosen = subjects_of(tuple(rules))
    wanted = tuple(dtypes) or DTYPES
    for d in wanted:
        if d not in DTYPES:
            message = f"unknown dtype {d!r}; known: {', '.join(DTYPES)}"
            raise SelectionError(message)
    found = []
    ways = {p.name: _firsts(p, chosen, thin) for p in runnable}
    for subject in chosen:
        count = sum(s.name == subject.name for s in chosen)
        for dtype in wanted:
            for path in runnable:
                part = path.name in second and not full
                first = subject.id in ways[path.name]
                named = bool(rules) and not thin
                picked = full or _sampled(
                    subject, dtype, path.name, count, wanted, thin, part, first or named
                )
                if path.offers(dtype) and picked:
                    composed = thin and not full and _composed(subject)
                    brief = (part or composed) and _draw(subject.name) % (12 if part else 6) > 0
                    found.append(Unit(path.name, Case(subject, dtype), brief, first))
    if not found:
        message = "nothing to run: no path that runs here offers any of the chosen rules and dtypes"
        raise SelectionError(message)
    return found


def extent(paths: Iterable[Path], rules: Iterable[str] = (), dtypes: Iterable[str] = ()) -> int:
    """How many units the whole matrix has."""
    chosen, wanted = subjects_of(tuple(rules)), tuple(dtypes) or DTYPES
    return len(chosen) * sum(p.offers(d) for p in paths if not p.missing for d in wanted)


def _firsts(path: Path, chosen: Iterable[Subject], thin: bool) -> set[str]:
    """The first case of each rule; of a few paths, the first of each way in which the path says that it runs it."""
    found: dict[tuple[str, str], str] = {}
    for s in chosen:
        if s.index == 0 or not thin:
            found.setdefault((s.name, "" if thin else _way(path, s)), s.id)
    return set(found.values())


def _way(path: Path, subject: Subject) -> str:
    """What a path says of how it runs a case; a rule that it cannot even speak of fails in its steps."""
    try:
        return str(path.backend.path(subject.rule))
    except Exception:  # a backend may raise anything, or have no ways
        return ""


def subjects_of(rules: tuple[str, ...]) -> list[Subject]:
    """What is tested of the rules asked for, by name or by the path of a file, or of all."""
    for name, fault in broken().items():
        if not rules or name in rules:
            raise SelectionError(fault)
    every = subjects()
    names = {s.name for s in every}
    own: list[Subject] = []
    for file in {module_of(r): r for r in rules if r.endswith(FILE)}.values():
        found = of_file(file)
        taken = {s.name for s in found} & {s.name for s in (*every, *own)}
        if taken:
            message = f"{file}: {min(taken)} is the name of another; call the file and what it declares otherwise"
            raise SelectionError(message)
        own += found
    for r in rules:
        if r not in names and not r.endswith(FILE):
            message = f"unknown rule {r!r}; known: {', '.join(sorted(names))}"
            raise SelectionError(message)
    return [*own, *(s for s in every if not rules or s.name in rules)]


def _sampled(
    subject: Subject,
    dtype: str,
    path: str,
    count: int,
    dtypes: tuple[str, ...],
    thin: bool,
    part: bool,
    first: bool,
) -> bool:
    """Whether a unit belongs to the sample: the first case in float32, and of some subjects one more.

    Subjects are drawn before paths, because what costs most is the truth of a case, which all paths share.
    """
    if dtype == (FIRST if FIRST in dtypes else dtypes[0]) and first:
        if not (thin and _composed(subject)):
            return True
        return subject.name in _some() and _draw(path, subject.name) % (6 if part else 2) == 0
    if part or (thin and (_draw("further", subject.name) % 6 or _draw(subject.name, path) % 2)):
        return False
    others = [d for d in dtypes if d != FIRST] or [FIRST]
    other = others[_draw(subject.name) % len(others)]
    return dtype == other and subject.index == _draw(subject.name, dtype) % count


def _composed(subject: Subject) -> bool:
    """Whether it is a composition: its parts are tested by themselves, so the sample may be thinner."""
    return "+" in subject.name


@cache
def _some() -> set[str]:
    """Every other composition: those of a piece with two rules follow each other, and one of them is taken."""
    composed = list(dict.fromkeys(s.name for s in subjects() if _composed(s)))
    return {name for place, name in enumerate(composed) if place % 4 in (0, 3)}


def _drawn(unit: Unit, check: str) -> bool:
    """Whether a contract check belongs to the sample: one of four, of compositions and second paths one of eight."""
    rare = unit.brief or _composed(unit.case.subject)
    return _draw(unit.case.subject.name, check) % (8 if rare else 4) == 0


def _draw(*key: str) -> int:
    return zlib.crc32("/".join(key).encode())


def contracts(chosen: Iterable[Unit], *, full: bool = False) -> list[tuple[Unit, str]]:
    """The contract checks on the first case of each rule and path and way, in the first dtype chosen."""
    chosen = [u for u in chosen if u.first]
    seen = {u.case.dtype for u in chosen}
    first = FIRST if FIRST in seen else next(iter(seen), FIRST)
    everything = full or len({u.path for u in chosen}) <= FEW
    return [
        (u, name)
        for u in chosen
        if full or u.case.dtype == first
        for name in CHECKS
        if everything or _drawn(u, name)
    ]


def cells(path: Path) -> list[tuple[str, ...]]:
    """Everything that a gap of this path may speak of, whether selected or not."""
    firsts = _firsts(path, subjects(), thin=False)
    return [
        (path.name, s.id, d, c, way)
        for s in subjects()
        for way in (_way(path, s),)
        for d in DTYPES
        for c in (*Case(s, d).scenarios, *(CHECKS if s.id in firsts else ()))
    ]


def gap_of(path: Path, case: Case, check: str) -> Gap | None:
    """The gap that speaks of this check, if any."""
    if not path.gaps:
        return None
    where = (path.name, case.subject.id, case.dtype, check, _way(path, case.subject))
    return next((g for g in path.gaps if g.matches(*where)), None)
