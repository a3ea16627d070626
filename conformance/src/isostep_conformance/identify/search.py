"""Which rule takes the steps that an optimizer takes: all are tried, and what comes nearest is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

import isostep
from isostep_conformance.identify import settings
from isostep_conformance.identify.answer import NEAREST, ROUNDED, Answer, Finding, simplest
from isostep_conformance.identify.candidates import Candidate, candidates, instead, left_out
from isostep_conformance.identify.explain import slipped
from isostep_conformance.identify.states import matches
from isostep_conformance.identify.targets import Arrays, Target, TargetError, target
from isostep_conformance.identify.trial import (
    HARDER,
    SAME,
    SHAPES,
    STEPS,
    Distance,
    Trial,
    harder,
    problem,
    steps,
)

#: An update this large is no longer compared in the second trial: it has left too few digits.
ASTRAY = 1e4
#: Arrays' updates that differ by no more than this part of themselves are the same there: rounding has grown.
SAME_HARDER, ROUNDED_HARDER = 1e-5, 1e-2


def identify(
    given: str | Callable[..., Any] | Target,
    values: Mapping[str, Any] | None = None,
    *,
    protocol: str | None = None,
    rule: str | None = None,
    slips_at_most: int = 2,
    with_state: bool = False,
) -> Answer:
    """Which rule takes an optimizer's steps, in float64: eight, then as many as three times those that are harder.

    The second trial has more arrays, zeros, and gradients that grow and shrink at once; it is passed over for an
    optimizer that raises or goes astray there.

    Args:
        given: a class, a function or a name (``"torch.optim.AdamW"``, ``"optax.adam"``, ``"mine.py:Mine"``).
        values: settings of the optimizer; telling numbers are taken for those of the others that have a name here.
        protocol: ``"torch"`` or ``"optax"``, where the guess (by ``step`` and the first argument's name) is wrong.
        rule: ask about this rule alone.
        slips_at_most: where no rule fits, how many mistakes are looked for in the nearest ones, and in the rule of the
            optimizer's own name.
        with_state: where a rule fits, tell which arrays of the optimizer's state are the rule's.

    Raises:
        TargetError: the optimizer cannot be found, made or stepped, or has no such setting.
        RuleError: there is no such rule.
    """
    if rule is not None:
        isostep.definition(rule)  # or an error, before anything runs
    unknown = given if isinstance(given, Target) else target(given, protocol)
    trial, used = run(unknown, values or {})
    answer = Answer(unknown.label, used, not_tried=left_out())
    every = candidates(settings.numbers(unknown.defaults, used), rule)
    findings = list(_nearest(every, trial, answer))
    if all(f.off > ROUNDED for f in findings):
        others = instead(settings.numbers(unknown.defaults, used), rule)
        findings += _nearest(others, trial, answer)
    fitting = list(_confirmed([f for f in findings if f.off <= ROUNDED], unknown, used))
    passed = [f for f in fitting if f.parted is None]
    answer.same = simplest((f for f in passed if f.off <= SAME), answer.label)
    answer.rounded = simplest((f for f in passed if f.off > SAME), answer.label)
    answer.parted = simplest(fitting, answer.label) if not passed else []
    if with_state and passed:
        answer.state = matches((answer.same or answer.rounded)[0].rule, unknown, used, trial)
    answer.nearest = _nearest_of(f for f in findings if f.off > ROUNDED)
    if not fitting:
        answer.slipped = simplest(
            slipped(answer, findings, trial, slips_at_most, rule), answer.label
        )
    return answer


def _confirmed(
    fitting: list[Finding], unknown: Target, used: Mapping[str, Any]
) -> Iterator[Finding]:
    """What took the same steps, and where it parts in the second trial."""
    second = _second(unknown, used) if fitting else None
    for finding in dict.fromkeys(fitting):
        if second is None:
            yield finding
            continue
        trial = second.taken_by(finding.rule)
        enough = SAME_HARDER if finding.off <= SAME else ROUNDED_HARDER
        try:
            d = trial.distance(steps(finding.rule, trial), enough)
        except (isostep.RuleError, isostep.BackendError, isostep.DomainError):
            d = Distance(np.inf, np.inf, 1, (1, trial.shapes[0]))
        yield replace(finding, parted=d.parted)


def _second(unknown: Target, used: Mapping[str, Any]) -> Trial | None:
    """The second trial, up to where the optimizer goes astray."""
    for shapes in HARDER:
        start, gradients = harder(shapes)
        try:
            trial = _trial(unknown, used, start, gradients)
        except TargetError:
            continue
        ends = [not all((np.abs(u) < ASTRAY).all() for u in step) for step in trial.updates]
        if True not in ends:
            return trial
        if (k := ends.index(True)) > STEPS:
            return replace(trial, gradients=gradients[:k], updates=trial.updates[:k])
    return None


def run(unknown: Target, values: Mapping[str, Any]) -> tuple[Trial, dict[str, Any]]:
    """The optimizer's own steps: with telling numbers if it takes them, on matrices alone if it wants those.

    What begins later than the trial ends has the second one alone.
    """
    strange = sorted(set(values) - set(unknown.defaults)) if not unknown.more else []
    if strange:
        known = ", ".join(unknown.defaults) or "none"
        message = f"{unknown.label} has no setting {strange[0]!r}; it has {known}"
        raise TargetError(message)
    told: TargetError | None = None
    telling = settings.chosen(unknown.defaults, values)
    plain = {
        n: v for n, v in telling.items() if n in values or settings.plain(n) in settings.ALWAYS
    }
    for used in (telling, plain):
        for make, shapes in (*((problem, s) for s in SHAPES), *((harder, s) for s in HARDER[1:])):
            try:
                trial = _trial(unknown, used, *make(shapes))
                _checked(trial, unknown.label)
            except TargetError as error:
                told = told or error
                continue
            return trial, used
    assert told is not None
    raise told


def _trial(
    unknown: Target, used: Mapping[str, Any], start: Arrays, gradients: list[Arrays]
) -> Trial:
    after = unknown.run(used, start, gradients)
    before = [start, *after[:-1]]
    with np.errstate(all="ignore"):
        updates = [
            [q - p for p, q in zip(*pair, strict=True)] for pair in zip(before, after, strict=True)
        ]
    return Trial(start, gradients, updates)


def _checked(trial: Trial, label: str) -> None:
    """Every rule takes steps like none at all, or like NaN, with some settings."""
    every = [u for step in trial.updates for u in step]
    if not any(u.any() for u in every):
        message = f"{label} does not move its parameters in {len(trial.updates)} steps"
        raise TargetError(message)
    if not all(np.isfinite(u).all() for u in every):
        message = f"{label} steps to numbers that are not finite"
        raise TargetError(message)


def _nearest(every: Iterable[Candidate], trial: Trial, answer: Answer) -> Iterator[Finding]:
    """What the candidates are off by; those far away are not run to their end."""
    best: list[float] = []
    for candidate in every:
        answer.tried += 1
        rule, own = candidate.rule, trial.taken_by(candidate.rule)
        if not own.start:
            continue
        # What may be the same is run to its end, however near others have come.
        enough = max(best[-1], ROUNDED) if len(best) >= NEAREST else np.inf
        try:
            d = own.distance(steps(rule, own), enough)
        except (isostep.RuleError, isostep.BackendError, isostep.DomainError):
            continue
        best = sorted([*best, d.far])[:NEAREST]
        yield Finding(rule, d.off, d.far, d.first, cost=candidate.cost)


def _nearest_of(findings: Iterable[Finding]) -> list[Finding]:
    """The nearest, one of each rule."""
    found: dict[str, Finding] = {}
    for finding in sorted(findings, key=lambda f: (f.far, f.cost)):
        found.setdefault(finding.rule.name, finding)
    return list(found.values())[:NEAREST]
