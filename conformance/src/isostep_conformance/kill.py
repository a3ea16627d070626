"""Killing mutants: each is run on its rule's cases until the budget tells it from the truth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np

from isostep.domains import DomainError, Real
from isostep.program import Program, trace
from isostep.rule import BoundRule
from isostep_conformance import exact
from isostep_conformance.bounds import Plain
from isostep_conformance.cases import Case, Subject
from isostep_conformance.equivalents import EQUIVALENTS
from isostep_conformance.hypers import Wave
from isostep_conformance.mutants import Mutant, mutants
from isostep_conformance.toll import Fate, Key
from isostep_conformance.truth import Shot, Target, moved, run, shots

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


def judge(subject: Subject, only: Iterable[Key] | None = None, *, every: int = 1) -> Iterator[Fate]:
    """The fate of every mutant of a subject, of those that ``only`` names, or of each ``every``-th."""
    wanted = None if only is None else set(only)
    tried = list(_shots(subject))
    for program, context in programs(subject.rule, tried):
        own = [_Trial(label, s, program) for label, s in tried if _uses(s, program)]
        for mutant in islice(mutants(program), 0, None, every):
            label = f"{mutant.id}{context}"
            if wanted is not None and (subject.name, label, mutant.place) not in wanted:
                continue
            ratio, where = _worst(mutant, own)
            fate = Fate(subject.id, label, mutant.place, ratio, where)
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
    yield from _idle(case)
    yield from _turned(case)
    yield from _turned_factors(chosen, subject.rule)


def _other_phases(chosen: list[tuple[str, Shot]], rule: BoundRule) -> Iterator[tuple[str, Shot]]:
    """The same steps at a t that falls into each other phase: zero norms meet every k-th step, too."""
    first_of = _first_of(rule)
    for label, shot in chosen:
        for phase, t in first_of.items() if len(first_of) > 1 else ():
            if phase != rule.phase(shot.before.state.group_t + 1) and shot.rule.phase(t) == phase:
                yield f"{label} at t = {t}", moved(shot, shot.rule, t - 1)


def _first_of(rule: BoundRule) -> dict[tuple[int, ...], int]:
    """Each phase of a rule, and the first step that is of it."""
    return {rule.phase(t): t for t in range(_LONGEST_CYCLE, 0, -1)}


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
            scheduled = callable(rule.values[name])
            edge = rule.replace(**{name: Wave(low, depth=0.0) if scheduled else low})
        except DomainError:
            continue  # an end that this rule's other values do not allow
        for label, shot in chosen:
            if label.startswith("corners") or label == "run step 0":  # and from the first state
                done = shot.before.state.group_t
                phases = {edge.phase(t): t for t in range(done + _LONGEST_CYCLE, done, -1)}
                for t in phases.values():
                    yield f"{label} at t = {t} with {name} = {low}", moved(shot, edge, t - 1)


def _idle(case: Case) -> Iterator[tuple[str, Shot]]:
    """The first step without any gradient, at ordinary parameters and at zero: sums over a whole group are zero.

    Then without the other inputs of parameters as well.
    """
    shot = run(case, "corners").shots[0]
    still = replace(shot, grads=[0.0 * g for g in shot.grads])
    yield "without gradients", moved(still, still.rule, 0)
    nothing = replace(still.before, params=[0.0 * p for p in still.before.params])
    yield "without gradients at zero", moved(replace(still, before=nothing), still.rule, 0)
    given = {n: [0.0 * x for x in shot.inputs[n]] for n in shot.rule.input_names}
    if given:
        empty = replace(still, inputs=shot.inputs | given)
        for phase, t in _first_of(shot.rule).items():
            yield f"without gradients and inputs in phase {phase}", moved(empty, shot.rule, t - 1)


def _turned(case: Case) -> Iterator[tuple[str, Shot]]:
    """The corners with every gradient turned round: a sum over the group has the other sign."""
    found = run(case, "corners")
    script = replace(found.script, grads=[[-g for g in step] for step in found.script.grads])
    for k, shot in enumerate(shots(found.rule, case.form, script)):
        yield f"turned corners step {k}", shot


def _turned_factors(chosen: list[tuple[str, Shot]], rule: BoundRule) -> Iterator[tuple[str, Shot]]:
    """The corners with triangular factors of the other sign, which are as good, in every phase."""
    for label, shot in chosen:
        before = shot.before
        pairs = zip(before.params, before.state.arrays, strict=True)
        if not label.startswith("corners") or not any(
            _divides(rule, p.shape) for p in before.params
        ):
            continue
        arrays = [
            {n: -a if a.ndim == 2 and a.shape != p.shape else a for n, a in state.items()}
            for p, state in pairs
        ]
        turned = replace(shot, before=replace(before, state=replace(before.state, arrays=arrays)))
        for phase, t in _first_of(rule).items():
            yield f"{label}, factors turned, in phase {phase}", moved(turned, rule, t - 1)


def _divides(rule: BoundRule, shape: tuple[int, ...]) -> bool:
    """Whether some phase of an array of this shape divides by a triangular matrix."""
    programs = (trace(rule, phase, shape) for phase in _first_of(rule))
    return any(n.op == "over_triangle" for program in programs for n in program.live)


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


@dataclass(frozen=True)
class _Trial:
    """A step that the mutants of a program are tried on, and those of its parameters that they can reach."""

    label: str
    shot: Shot
    program: Program

    @cached_property
    def touched(self) -> list[list[int]]:
        """The parameters that run the program, each by itself, the longest first; or those that are taken together.

        All of a group where sums or its state join them, and those of a program that knows no arrays.
        """
        rule, before = self.shot.rule, self.shot.before
        every = range(len(before.params))
        if before.state.group or any(n.op == "sum_group" for n in self.program.live):
            return [list(every)]
        pairs = zip(before.state.t, before.params, strict=True)
        own = [trace(rule, rule.phase(t + 1), p.shape) is self.program for t, p in pairs]
        found = sorted((i for i in every if own[i]), key=lambda i: -before.params[i].size)
        return [found] if exact.elementwise(self.program) else [[i] for i in found]

    @cached_property
    def befores(self) -> tuple[list[exact.Before], dict[str, np.ndarray]]:
        """State and gradients of all, and the group's state."""
        return self.shot.befores(Plain(self.shot.form))

    def ratio(self, mutant: Mutant) -> float:
        """How far the mutant's step is from the truth, in units of the budget without FACTOR."""
        shot = self.shot

        def tracer(rule: BoundRule, phase: tuple[int, ...], shape: tuple[int, ...]) -> Program:
            found = trace(rule, phase, shape)
            return mutant.program if found is self.program else found

        items, state = self.befores
        t, worst = shot.before.state.group_t, 0.0
        for part in self.touched:
            own = [items[i] for i in part]
            try:
                done, group = exact.step(shot.rule, own, state, t, Plain(shot.form), tracer)
            except (ValueError, IndexError, TypeError, ZeroDivisionError, exact.ExactError):
                return np.inf  # shapes do not fit: nobody could run it
            expected = Target([shot.forced.arrays[i] for i in part], shot.forced.group)
            worst = max(worst, compare(expected, done, group))
            if worst > ENOUGH:
                break
        return worst


def _worst(mutant: Mutant, trials: list[_Trial]) -> tuple[float, str]:
    worst, where = 0.0, ""
    for trial in trials:
        ratio = trial.ratio(mutant)
        if ratio > worst:
            worst, where = ratio, trial.label
        if worst > ENOUGH:
            break
    return worst, where


def compare(target: Target, done: list[exact.After], group: dict[str, np.ndarray]) -> float:
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
