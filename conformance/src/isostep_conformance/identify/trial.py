"""The trials: parameters, gradients, and how far two runs over them are apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isostep.backends.numpy import NumpyReference
from isostep.rule import BoundRule
from isostep.state import State
from isostep_conformance.identify.targets import Arrays

#: Steps of a trial: schedules of the first few steps are over.
STEPS = 8
#: Steps of the second, harder trial of what takes the same steps in the first.
LONGER = 24
#: Steps that differ by no more than this part of themselves are the same.
SAME = 1e-9
#: Arrays of a trial: of one and two axes, or matrices alone for what takes nothing else.
SHAPES: tuple[tuple[tuple[int, ...], ...], ...] = (((4, 3), (5,)), ((4, 3), (3, 5)))
#: Arrays of the second trial: of every number of axes, or of fewer for what takes no others; the last begins at zero.
HARDER: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((4, 3), (5,), (), (2, 3, 2, 2), (3, 4)),
    ((4, 3), (5,), (3, 4)),
    ((4, 3), (3, 5), (5, 2)),
)


@dataclass(frozen=True)
class Distance:
    """How far two runs are apart.

    ``off`` is the largest difference of an element's update as a part of itself (elements that hardly move count as
    a thousandth of the one that moves most), ``far`` that of an array's updates, ``first`` the first step that differs.
    ``parted`` are the step and the shape of the array where ``far`` passed what was enough.
    """

    off: float
    far: float
    first: int
    parted: tuple[int, tuple[int, ...]] | None = None


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
        return self.only(self.taken(rule))

    def taken(self, rule: BoundRule) -> list[int]:
        """Which of the arrays a rule takes."""
        ranks = rule.rule.ndim
        return [i for i, s in enumerate(self.shapes) if ranks is None or len(s) in ranks]

    def distance(self, steps: Iterable[Arrays], enough: float = np.inf) -> Distance:
        """How far these parameters' updates are from the optimizer's; no further than until ``enough`` is passed."""
        before, off, far, first = self.start, 0.0, 0.0, 0
        for k, (updates, after) in enumerate(zip(self.updates, steps, strict=False), 1):
            for p, q, u in zip(before, after, updates, strict=True):
                with np.errstate(all="ignore"):  # whatever overflows is far
                    own = q - p
                    size = np.abs(u).max(initial=0.0)
                    off = max(off, _ratio(own - u, np.maximum(np.abs(u), 1e-3 * size)))
                    norms = np.linalg.norm(own), np.linalg.norm(u)
                    far = max(far, _ratio(np.linalg.norm(own - u), max(norms)))
                if far > enough:
                    return Distance(off, far, first or k, (k, p.shape))
            first = first or (k if off > SAME else 0)
            before = after
        return Distance(off, far, first)


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


def harder(shapes: Sequence[tuple[int, ...]]) -> tuple[Arrays, list[Arrays]]:
    """A longer problem of what shows only now and then: clipped, skipped, synchronized, or of other arrays.

    An element's gradient is zero now and then, the first array's wholly in the sixth step; gradients are three hundred
    times as large as usual in one step and as small in another; the last array begins at zero; the first gradients are
    at right angles to arrays, but not to their rows.
    """
    rng = np.random.default_rng(21)
    start = [np.asarray(rng.normal(0.0, 2.0, s)) for s in shapes]
    start[-1] *= 0.0
    sizes = [np.asarray(10.0 ** rng.uniform(-2.0, 1.0, s)) for s in shapes]
    gradients = []
    for t in range(LONGER):
        scale = {10: 300.0, 16: 1 / 300.0}.get(t, 1.0)
        drawn = [(rng.normal(0.0, scale, s.shape) * s, rng.random(s.shape)) for s in sizes]
        gradients.append([np.where((t > 0) & (x < 0.15), 0.0, g) for g, x in drawn])
    gradients[5][0] *= 0.0
    for p, g in zip(start[:-1], gradients[0], strict=False):
        if p.size > 1:
            g -= p * ((g * p).sum() / (p * p).sum())
    return start, gradients


def steps(rule: BoundRule, trial: Trial) -> Iterator[Arrays]:
    """The reference's parameters after each step."""
    for params, _ in stepped(rule, trial):
        yield params


def stepped(rule: BoundRule, trial: Trial) -> Iterator[tuple[Arrays, State]]:
    """The same, and its state, which the next step goes on with."""
    backend = NumpyReference()
    params = [p.copy() for p in trial.start]
    state = backend.init(rule, params)
    for grads in trial.gradients:
        with np.errstate(all="ignore"):
            params, state = backend.step(rule, params, [g.copy() for g in grads], state)
        yield [np.array(p) for p in params], state
