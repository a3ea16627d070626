"""Which arrays of an optimizer's state are which of a rule's: by their numbers, step for step.

Two programs that take the same steps need not keep the same arrays, nor call them alike. What is told here is what a
run can be moved by, from one library to another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isostep.rule import BoundRule
from isostep.state import State
from isostep_conformance.identify.targets import States, Target
from isostep_conformance.identify.trial import Trial, stepped

Array = np.ndarray | None
#: Series that differ by no more than this part of themselves are the same: some are kept in float32.
ENOUGH = 2e-6
#: What the rule's count of steps is called.
STEP = "step"


@dataclass(frozen=True)
class Match:
    """An array of a rule's state, and where the optimizer has it, times a factor; ``where`` is empty if nowhere."""

    name: str
    where: str = ""
    factor: float = 1.0
    off: float = np.inf


def matches(
    rule: BoundRule, unknown: Target, settings: Mapping[str, Any], trial: Trial
) -> list[Match]:
    """For every array of the rule's state and the count of its steps, the optimizer's that is nearest to it.

    Each step of the trial counts; arrays that are zero throughout are nowhere, since they could be anything.
    """
    own, which = trial.taken_by(rule), trial.taken(rule)
    kept = unknown.kept(settings, trial.start, trial.gradients)
    theirs = _series(kept, which)
    ours = _series([_named(state, own) for _, state in stepped(rule, own)], range(len(which)))
    return [_nearest(name, series, theirs) for name, series in ours.items()]


def _named(state: State, trial: Trial) -> States:
    """The reference's state as an optimizer's; a number that stands where an array has no such part is none."""
    shapes = trial.shapes
    names = dict.fromkeys(n for arrays in state.arrays for n in arrays)
    found: States = {n: [None] * len(shapes) for n in names}
    for i, (shape, arrays) in enumerate(zip(shapes, state.arrays, strict=True)):
        for n, a in arrays.items():
            found[n][i] = np.array(a, np.float64) if np.ndim(a) or not shape or a else None
    found |= {n: [np.array(v, np.float64)] * len(shapes) for n, v in state.group.items()}
    return found | {STEP: [np.array(t, np.float64) for t in state.t]}


def _series(kept: Sequence[States], which: Sequence[int]) -> dict[str, list[Array]]:
    """Name -> what is kept under it of these parameters, one after the other, step by step."""
    names = dict.fromkeys(n for states in kept for n in states)
    nothing = [None] * (max(which) + 1)
    return {n: [states.get(n, nothing)[i] for states in kept for i in which] for n in names}


def _nearest(name: str, series: list[Array], theirs: Mapping[str, list[Array]]) -> Match:
    found = []
    for where, other in theirs.items():
        pairs = [(a, b) for a, b in zip(series, other, strict=True) if a is not None]
        flat = [(a.ravel(), b.ravel()) for a, b in pairs if b is not None and a.size == b.size]
        if not flat or len(flat) < len(pairs):
            continue
        ours, own = (np.concatenate(arrays) for arrays in zip(*flat, strict=True))
        if not ours.any() or not np.isfinite([*ours, *own]).all():
            continue
        factor = float(own @ ours / (ours @ ours))
        factor = 1.0 if abs(factor - 1) < ENOUGH else factor
        far = [np.linalg.norm(b - factor * a) / (np.linalg.norm(b) or 1.0) for a, b in flat]
        found.append(Match(name, where, factor, float(max(far))))
    fitting = [m for m in found if m.off <= ENOUGH and m.factor]
    likely = sorted(fitting, key=lambda m: (m.factor != 1, repr(name) not in m.where, m.off))
    return likely[0] if likely else Match(name)


def told(found: Sequence[Match]) -> Iterator[str]:
    """How the rule's state is made of the optimizer's, line by line."""
    width = max(len(m.name) for m in found)
    for m in found:
        over = "" if m.factor == 1 else f" / {m.factor:.6g}"
        yield (
            f"  {m.name:{width}} = {m.where}{over}"
            if m.where
            else f"  {m.name:{width}}   is nowhere"
        )
