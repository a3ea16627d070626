"""Which rule takes the steps that an optimizer takes: all are tried, and what comes nearest is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import isostep
from isostep.backends.numpy import NumpyReference
from isostep.rule import BoundRule
from isostep_conformance.identify import settings
from isostep_conformance.identify.candidates import Candidate, candidates, left_out
from isostep_conformance.identify.slips import UNFIT, Slip, right, slips
from isostep_conformance.identify.targets import Arrays, Target, TargetError, target

#: Steps of a trial: schedules of the first few steps are over.
STEPS = 8
#: Steps that differ by no more than this part of themselves are the same.
SAME = 1e-9
#: The same formula, of which some numbers were rounded to float32.
ROUNDED = 2e-6
#: How many of the nearest are told, and tried with slips.
NEAREST = 6
#: How many settings of the rule of an optimizer's own name are tried with two slips.
NAMED = 2
#: What is further off than this is not like the optimizer at all.
LIKE = 0.7
#: Slips are told if they bring a rule nearer by this factor.
MUCH = 100.0
#: A step that is this far off, as a part of itself, is not run to its end with slips.
TOO_FAR = 3.0
#: How many first slips are looked behind for a second one.
BEAM = 8
#: Arrays of a trial: of one and two axes, or matrices alone for what takes nothing else.
SHAPES: tuple[tuple[tuple[int, ...], ...], ...] = (((4, 3), (5,)), ((4, 3), (3, 5)))


@dataclass(frozen=True)
class Distance:
    """How far two runs are apart.

    ``off`` is the largest difference of an element's update as a part of itself (elements that hardly move count as
    a thousandth of the one that moves most), ``far`` that of an array's updates, ``first`` the first step that differs.
    """

    off: float
    far: float
    first: int


def _ratio(gap: Any, unit: Any) -> float:
    """The largest part that ``gap`` is of ``unit``; nothing of nothing is none, and NaN is endless."""
    with np.errstate(all="ignore"):
        parts = np.where(gap == 0, 0.0, np.abs(gap) / unit)
    return float(np.where(np.isnan(parts), np.inf, parts).max(initial=0.0))


@dataclass(frozen=True)
class Trial:
    """Parameters and gradients, and the updates that the optimizer in question has made of them."""

    start: Arrays
    gradients: list[Arrays]
    updates: list[Arrays]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the arrays."""
        return [p.shape for p in self.start]

    def only(self, which: Sequence[int]) -> Trial:
        """The same of some of the arrays."""

        def those(step: Arrays) -> Arrays:
            return [step[i] for i in which]

        return Trial(
            those(self.start), [those(s) for s in self.gradients], [those(s) for s in self.updates]
        )

    def taken_by(self, rule: BoundRule) -> Trial:
        """The same of those arrays that a rule takes."""
        ranks = rule.rule.ndim
        return self.only([i for i, s in enumerate(self.shapes) if ranks is None or len(s) in ranks])

    def distance(self, steps: Iterable[Arrays], enough: float = np.inf) -> Distance:
        """How far these parameters' updates are from the optimizer's; no further than until ``enough`` is passed."""
        before, off, far, first = self.start, 0.0, 0.0, 0
        for k, (after, updates) in enumerate(zip(steps, self.updates, strict=True), 1):
            for p, q, u in zip(before, after, updates, strict=True):
                own = q - p
                size = np.abs(u).max(initial=0.0)
                off = max(off, _ratio(own - u, np.maximum(np.abs(u), 1e-3 * size)))
                norms = np.linalg.norm(own), np.linalg.norm(u)
                far = max(far, _ratio(np.linalg.norm(own - u), max(norms)))
            first = first or (k if off > SAME else 0)
            if far > enough:
                break
            before = after
        return Distance(off, far, first)


@dataclass(frozen=True, eq=False)
class Finding:
    """A rule, and how far its steps are from the optimizer's; ``cost`` counts what had to be guessed."""

    rule: BoundRule
    off: float
    far: float = 0.0
    first: int = 0
    slip: str = ""
    cost: int = 0


@dataclass
class Answer:
    """What was found of an optimizer."""

    label: str
    settings: dict[str, Any]
    same: list[Finding] = field(default_factory=list)
    rounded: list[Finding] = field(default_factory=list)
    slipped: list[Finding] = field(default_factory=list)
    nearest: list[Finding] = field(default_factory=list)
    tried: int = 0
    not_tried: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """``same``, ``rounded``, ``slip`` or ``none``."""
        if self.same or self.rounded:
            return "same" if self.same else "rounded"
        return "slip" if any(f.off <= ROUNDED for f in self.slipped) else "none"


def identify(
    given: str | Callable[..., Any] | Target,
    values: Mapping[str, Any] | None = None,
    *,
    protocol: str | None = None,
    rule: str | None = None,
    slips_at_most: int = 2,
) -> Answer:
    """Which rule takes an optimizer's steps, in float64, over eight steps.

    Args:
        given: a class, a function or a name (``"torch.optim.AdamW"``, ``"optax.adam"``, ``"mine.py:Mine"``).
        values: settings of the optimizer; telling numbers are taken for those of the others that have a name here.
        protocol: ``"torch"`` or ``"optax"``, where the guess (by ``step`` and the first argument's name) is wrong.
        rule: ask about this rule alone.
        slips_at_most: where no rule fits, how many mistakes are looked for in the nearest ones, and in the rule of the
            optimizer's own name.

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
    answer.same = _simplest(f for f in findings if f.off <= SAME)
    answer.rounded = _simplest(f for f in findings if SAME < f.off <= ROUNDED)
    answer.nearest = _nearest_of(f for f in findings if f.off > ROUNDED)
    if answer.verdict == "none":
        answer.slipped = _simplest(_slipped(answer, findings, trial, slips_at_most))
    return answer


def run(unknown: Target, values: Mapping[str, Any]) -> tuple[Trial, dict[str, Any]]:
    """The optimizer's own steps: with telling numbers if it takes them, on matrices alone if it wants those."""
    strange = sorted(set(values) - set(unknown.defaults))
    if strange:
        known = ", ".join(unknown.defaults) or "none"
        message = f"{unknown.label} has no setting {strange[0]!r}; it has {known}"
        raise TargetError(message)
    told: TargetError | None = None
    telling = settings.chosen(unknown.defaults, values)
    plain = {n: v for n, v in telling.items() if n in values or settings.plain(n) == "lr"}
    for used in (telling, plain):
        for shapes in SHAPES:
            start, gradients = problem(shapes)
            try:
                after = unknown.run(used, start, gradients)
            except TargetError as error:
                told = told or error
                continue
            before = [start, *after[:-1]]
            with np.errstate(all="ignore"):
                updates = [
                    [q - p for p, q in zip(*pair, strict=True)]
                    for pair in zip(before, after, strict=True)
                ]
            return Trial(start, gradients, updates), used
    assert told is not None
    raise told


def problem(shapes: Sequence[tuple[int, ...]]) -> tuple[Arrays, list[Arrays]]:
    """Parameters, and gradients whose sizes span three decades and change from step to step, with a zero.

    The first gradients are at right angles to their parameters: projections show there.
    """
    rng = np.random.default_rng(20)
    start = [np.asarray(rng.normal(0.0, 0.5, s)) for s in shapes]
    sizes = [10.0 ** rng.uniform(-2.0, 1.0, s) for s in shapes]
    gradients = [
        [np.asarray(rng.normal(0.0, 1.0, s.shape) * s) for s in sizes] for _ in range(STEPS)
    ]
    for step in gradients:
        step[0].flat[0] = 0.0
    for p, g in zip(start, gradients[0], strict=True):
        rows = np.where(g == 0, 0.0, p).reshape(-1, p.shape[-1])
        own = g.reshape(rows.shape)  # the same memory
        own -= rows * ((own * rows).sum(-1) / (rows * rows).sum(-1))[:, None]
    return start, gradients


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


def steps(rule: BoundRule, trial: Trial) -> Iterator[Arrays]:
    """The reference's parameters after each step."""
    backend = NumpyReference()
    params = [p.copy() for p in trial.start]
    state = backend.init(rule, params)
    for grads in trial.gradients:
        with np.errstate(all="ignore"):
            params, state = backend.step(rule, params, [g.copy() for g in grads], state)
        yield [np.array(p) for p in params]


def _slipped(
    answer: Answer, findings: list[Finding], trial: Trial, depth: int
) -> Iterator[Finding]:
    """The nearest rules, and those of the optimizer's own name, with slips that explain what it does.

    A second slip is looked for on top of the few first ones that bring a rule nearer.
    """
    named = [f for f in findings if _named_like(f.rule, answer.label)]
    likely = sorted(named, key=lambda f: (f.cost, f.far))[:NAMED]
    likely += sorted(named, key=lambda f: (f.far, f.cost))[:NAMED]
    likely = list(dict.fromkeys(likely))
    for finding in likely:
        yield from _explained(finding, trial, depth, answer)
    for finding in answer.nearest:
        if finding not in likely and finding.far <= LIKE:
            yield from _explained(finding, trial, min(depth, 1), answer)


def _explained(finding: Finding, trial: Trial, depth: int, answer: Answer) -> Iterator[Finding]:
    """One rule with the fewest slips that make it the optimizer, or bring it much nearer."""
    trial = trial.taken_by(finding.rule)
    level = [right(finding.rule, trial.shapes, STEPS)]
    for more in range(depth - 1, -1, -1):
        tries: list[tuple[float, Slip]] = []
        found = []
        for slip in (s for before in level for s in slips(before)):
            answer.tried += 1
            try:
                d = trial.distance(
                    slip.steps(trial.start, trial.gradients),
                    TOO_FAR if more else finding.far / MUCH,
                )
            except UNFIT:
                continue
            tries.append((d.far, slip))
            if d.far <= finding.far / MUCH:
                found.append(Finding(finding.rule, d.off, d.far, d.first, slip.text, finding.cost))
        yield from found
        if any(f.off <= ROUNDED for f in found):
            return
        level = _promising(tries, finding.far)


def _promising(tries: list[tuple[float, Slip]], far: float) -> list[Slip]:
    """The first slips that a second one is looked for behind.

    Those that come nearest; and of a mistake that can be made in several places all: one of them alone may lead away.
    """
    tries = sorted(tries, key=lambda x: x[0])
    kinds = Counter(slip.kinds[0] for _, slip in tries)
    nearest = [slip for off, slip in tries[:BEAM] if off < far]
    several = [s for _, s in tries if 1 < kinds[s.kinds[0]] <= BEAM and "->" in s.kinds[0]]
    return list(dict.fromkeys([*nearest, *several]))


def _nearest_of(findings: Iterable[Finding]) -> list[Finding]:
    """The nearest, one of each rule."""
    found: dict[str, Finding] = {}
    for finding in sorted(findings, key=lambda f: (f.far, f.cost)):
        found.setdefault(finding.rule.name, finding)
    return list(found.values())[:NEAREST]


def _named_like(rule: BoundRule, label: str) -> bool:
    name = label.rpartition(":")[2].rpartition(".")[2]
    return rule.rule.name.replace("_", "") == name.replace("_", "").lower()


def _simplest(findings: Iterable[Finding]) -> list[Finding]:
    """Those with the least that is guessed or wrong; what explains most, but not all, comes behind."""

    def order(f: Finding) -> tuple[Any, ...]:
        whole = f.off <= ROUNDED
        return (not whole, *((f.slip.count(";"), f.cost, f.off) if whole else (f.off, f.cost)))

    found: dict[tuple[str, frozenset[str]], Finding] = {}
    for finding in sorted(findings, key=order):
        found.setdefault((repr(finding.rule), frozenset(finding.slip.split("; "))), finding)
    return list(found.values())[:NEAREST]
