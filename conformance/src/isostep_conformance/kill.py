"""Killing mutants: each is run on its rule's cases until the budget tells it from the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from isostep.domains import DomainError, Real
from isostep.program import Program, trace
from isostep.rule import BoundRule
from isostep_conformance import exact
from isostep_conformance.bounds import Plain
from isostep_conformance.budget import FACTOR
from isostep_conformance.cases import Case, Subject
from isostep_conformance.equivalents import EQUIVALENTS, Equivalent
from isostep_conformance.formats import Format
from isostep_conformance.mutants import Mutant, mutants
from isostep_conformance.truth import Shot, Target, moved, run

#: Every phase of a rule comes within this many steps.
_LONGEST_CYCLE = 24
#: A mutant this far off needs no further case.
ENOUGH = 1e6
#: The dtype in which mutants are told apart: its ulp is the finest there is.
DTYPE = "float64"
#: The steps of the long run that show the most: early, in the middle, past a decay's end, at t = 1000.
_STEPS = {
    "run": (1, 0, 5, 2, 20, 9, 12, 21),
    "exact": (0, 1, 2, 3),
    "corners": (0, 1, 2, 3, 4, 5, 6),
    "nonfinite": (0, 1),
    "huge": (0,),
    "denormals": (1,),
}


@dataclass
class Fate:
    """What became of one mutant: the largest ratio on any case, and on which."""

    subject: str
    mutant: str
    ratio: float
    where: str
    equivalent: Equivalent | None = None

    @property
    def killed(self) -> bool:
        """Whether the budget rejects it."""
        return self.ratio > FACTOR

    @property
    def id(self) -> str:
        """Subject and mutant."""
        return f"{self.subject} | {self.mutant}"


@dataclass
class Toll:
    """The fates of all mutants of some subjects."""

    fates: list[Fate] = field(default_factory=list)

    @property
    def survivors(self) -> list[Fate]:
        """Those that nothing rejects and that no list explains."""
        return [f for f in self.fates if not f.killed and f.equivalent is None]

    @property
    def rate(self) -> float:
        """Killed out of those that are not equivalent."""
        real = [f for f in self.fates if f.equivalent is None]
        return sum(f.killed for f in real) / len(real) if real else 1.0

    @property
    def least(self) -> float:
        """The smallest ratio of a killed mutant at its most revealing case."""
        return min((f.ratio for f in self.fates if f.killed), default=np.inf)

    def unused(self) -> list[Equivalent]:
        """Entries of the list of equivalents that explain no survivor of these subjects."""
        used = {id(f.equivalent) for f in self.fates}
        names = {f.subject.rpartition(".")[0] for f in self.fates}
        return [e for e in EQUIVALENTS if id(e) not in used and any(e.speaks_of(n) for n in names)]


def judge(subject: Subject) -> Iterator[Fate]:
    """The fate of every mutant of a subject."""
    shots = list(_shots(subject))
    for program, context in programs(subject.rule, shots):
        own = [s for s in shots if _uses(s[1], program)]
        for mutant in mutants(program):
            label = f"{mutant.id}{context}"
            ratio, where = _worst(mutant, program, own)
            fate = Fate(subject.id, label, ratio, where)
            if not fate.killed:
                fate.equivalent = next(
                    (e for e in EQUIVALENTS if e.explains(subject.name, label)), None
                )
            yield fate


def _shots(subject: Subject) -> Iterator[tuple[str, Shot]]:
    """The steps that mutants are tried on: the cases' own, then variations that only mutants need."""
    case = Case(subject, DTYPE)
    chosen: list[tuple[str, Shot]] = []
    for scenario, steps in _STEPS.items():
        shots = run(case, scenario).shots
        chosen += [(f"{scenario} step {k}", shots[k]) for k in steps if k < len(shots)]
    yield from chosen
    yield from _other_phases(chosen, subject.rule)
    yield from _edges(chosen, subject.rule)


def _other_phases(chosen: list[tuple[str, Shot]], rule: BoundRule) -> Iterator[tuple[str, Shot]]:
    """The same steps at a t that falls into each other phase: zero norms meet every k-th step, too."""
    first_of = {}
    for t in range(_LONGEST_CYCLE, 0, -1):
        first_of[rule.phase(t)] = t
    for label, shot in chosen:
        for phase, t in first_of.items() if len(first_of) > 1 else ():
            if phase != rule.phase(shot.before.state.group_t + 1) and shot.rule.phase(t) == phase:
                yield f"{label} at t = {t}", moved(shot, shot.rule, t - 1)


def _edges(chosen: list[tuple[str, Shot]], rule: BoundRule) -> Iterator[tuple[str, Shot]]:
    """The same steps with one hyperparameter on the closed end of its interval, where guards against zero show."""
    for name, domain in rule.domains.items():
        if (
            not isinstance(domain, Real)
            or domain.low is None
            or domain.low_open
            or domain.is_static(rule.values[name])
        ):
            continue
        if domain.zero_is_static and domain.low == 0:
            continue  # another structure
        low = domain.low
        # A schedule stays one, or it would be another program.
        try:
            edge = rule.replace(**{name: _steady(low) if callable(rule.values[name]) else low})
        except DomainError:
            continue  # an end that this rule's other values do not allow
        for label, shot in chosen:
            if label.startswith("corners") or label == "run step 0":  # and from the first state
                done = shot.before.state.group_t
                phases = {edge.phase(t): t for t in range(done + _LONGEST_CYCLE, done, -1)}
                for t in phases.values():
                    yield f"{label} at t = {t} with {name} = {low}", moved(shot, edge, t - 1)


def _steady(value: float) -> Callable[[int], float]:
    """A schedule that does not move."""
    return lambda done: value


def programs(rule: BoundRule, shots: list[tuple[str, Shot]]) -> list[tuple[Program, str]]:
    """The distinct programs of a rule's run: one per phase, and per kind of shape where the rule looks at it."""
    found: dict[object, tuple[Program, str]] = {}
    for _, shot in shots:
        # An axis of length 1 hides what is done along it: other shapes speak first.
        for i, p in sorted(
            enumerate(shot.before.params), key=lambda x: (1 in x[1].shape, -x[1].size)
        ):
            phase = rule.phase(shot.before.state.t[i] + 1)
            program = trace(rule, phase, p.shape)
            context = f" [phase {phase}]" if any(phase) else ""
            rank = len(p.shape) if program.shape is not None else None
            if rank is not None:
                context += f" [{rank}-d]"
            if (p.size > 1 and 1 not in p.shape) or rank is None:
                found.setdefault(
                    (phase, tuple(n.op for n in program.live), rank), (program, context)
                )
    return list(found.values())


def _uses(shot: Shot, program: Program) -> bool:
    rule = shot.rule
    pairs = zip(shot.before.state.t, shot.before.params, strict=True)
    return any(trace(rule, rule.phase(t + 1), p.shape) is program for t, p in pairs)


def _worst(mutant: Mutant, program: Program, shots: list[tuple[str, Shot]]) -> tuple[float, str]:
    def tracer(rule: BoundRule, phase: tuple[int, ...], shape: tuple[int, ...]) -> Program:
        found = trace(rule, phase, shape)
        return mutant.program if found is program else found

    worst, where = 0.0, ""
    for label, shot in shots:
        ratio = ratio_of(shot, tracer)
        if ratio > worst:
            worst, where = ratio, label
        if worst > ENOUGH:
            break
    return worst, where


def ratio_of(shot: Shot, tracer: exact.Tracer) -> float:
    """How far a wrong program's step is from the truth, in units of the budget without FACTOR."""
    arith = Plain(shot.form)
    items, group = shot.befores(arith)
    try:
        done, after = exact.step(shot.rule, items, group, shot.before.state.group_t, arith, tracer)
    except (ValueError, IndexError, TypeError, ZeroDivisionError, exact.ExactError):
        return np.inf  # shapes do not fit: nobody could run it
    return compare(shot.forced, done, after, shot.form)


def compare(
    target: Target, done: list[exact.After], group: dict[str, np.ndarray], form: Format
) -> float:
    """The worst ratio over all arrays and group values."""
    worst = 0.0
    for expected, got in zip(target.arrays, done, strict=True):
        for n, e in expected.items():
            if e.v.size:
                worst = max(worst, float(e.ratios(got.arrays[n]).max()))
    for n, e in target.group.items():
        value = np.asarray(group[n])
        worst = max(worst, float(e.ratios(value).max()) if value.shape == e.v.shape else np.inf)
    return worst
