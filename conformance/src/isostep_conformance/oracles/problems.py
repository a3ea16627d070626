"""The problems that library checks run on: parameters, gradients, learning rates, all in float64.

What peers' suites get wrong decides what is here: float64, no neutral setting, a learning rate that
changes at every step, gradients over ten decades with zeros, -0 and sign flips, 24 steps, arrays of
several shapes, and the state compared at every step beside the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .outcome import NOTHING, Deviation, compare

Floats = NDArray[np.float64]
STEPS = 24


@dataclass(frozen=True)
class Problem:
    """Start values, the gradients of every step, the learning rate of every step, more inputs."""

    start: tuple[Floats, ...]
    gradients: tuple[tuple[Floats, ...], ...]
    lrs: tuple[float, ...]
    inputs: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # of every step


@dataclass
class Record:
    """The parameters and named state arrays after each step, one list per step."""

    p: list[list[Floats]] = field(default_factory=list)
    state: dict[str, list[list[Floats]]] = field(default_factory=dict)
    group: dict[str, list[float]] = field(default_factory=dict)

    def add(
        self,
        p: Sequence[object],
        state: Mapping[str, Sequence[object]] | None = None,
        group: Mapping[str, float] | None = None,
    ) -> None:
        """Note the values after one step, copied."""
        self.p.append([np.array(value, np.float64) for value in p])
        for name, arrays in (state or {}).items():
            copies = [np.array(value, np.float64) for value in arrays]
            self.state.setdefault(name, []).append(copies)
        for name, value in (group or {}).items():
            self.group.setdefault(name, []).append(float(value))


MIXED_SHAPES = ((4, 3), (7,), (2, 3, 5), (), (5, 2))
MATRIX_SHAPES = ((4, 6), (6, 4), (5, 5), (1, 3))
CONV_SHAPES = ((3, 2, 2, 3), (4, 6), (5,))


def learning_rates(base: float) -> tuple[float, ...]:
    """Another learning rate for every step: it falls, rises, and is never the same twice."""
    return tuple(base * (1.0 + 0.5 * np.cos(0.7 * t)) * 0.97**t for t in range(STEPS))


def wild(shapes: Sequence[tuple[int, ...]], lr: float = 0.02, seed: int = 1) -> Problem:
    """Gradients over ten decades, with zeros, -0, sign flips, dead elements and quiet spells."""
    rng = np.random.default_rng(seed)
    start = tuple(rng.standard_normal(shape) for shape in shapes)
    scales = [10.0 ** rng.uniform(-6.0, 4.0, shape) for shape in shapes]
    gradients = []
    for t in range(STEPS):
        step = []
        for shape, scale in zip(shapes, scales, strict=True):
            g = rng.standard_normal(shape) * scale * 10.0 ** rng.uniform(-1.0, 1.0, shape)
            g = np.where(rng.random(shape) < 0.1, rng.choice([0.0, -0.0], shape), g)
            step.append(-g if t % 5 == 4 else g)
        gradients.append(tuple(step))
    return Problem(start, tuple(gradients), learning_rates(lr))


def mild(shapes: Sequence[tuple[int, ...]], lr: float = 0.02, seed: int = 2) -> Problem:
    """Gradients of one magnitude, for rules whose norms or dot products a wild one would rule."""
    rng = np.random.default_rng(seed)
    start = tuple(rng.standard_normal(shape) for shape in shapes)
    lean = [rng.standard_normal(shape) for shape in shapes]
    gradients = tuple(
        tuple(0.5 * bias + rng.standard_normal(bias.shape) for bias in lean) for _ in range(STEPS)
    )
    return Problem(start, gradients, learning_rates(lr))


def with_curvature(problem: Problem, seed: int = 3) -> Problem:
    """The same problem with a Hessian diagonal per step, negative entries included."""
    rng = np.random.default_rng(seed)
    diagonals = tuple(
        tuple(
            rng.standard_normal(p.shape) * 10.0 ** rng.uniform(-2, 1, p.shape)
            for p in problem.start
        )
        for _ in problem.gradients
    )
    return Problem(problem.start, problem.gradients, problem.lrs, {"hessian_diag": diagonals})


def with_noise(problem: Problem, noise: tuple[tuple[Floats, ...], ...]) -> Problem:
    """The same problem with normal numbers like the parameters per step."""
    return Problem(problem.start, problem.gradients, problem.lrs, {"noise": noise})


def with_losses(problem: Problem, seed: int = 4) -> Problem:
    """The same problem with a loss per step, which falls and now and then jumps."""
    rng = np.random.default_rng(seed)
    losses = tuple(float(20.0 * 0.8**t * rng.uniform(0.3, 3.0)) for t in range(STEPS))
    return Problem(problem.start, problem.gradients, problem.lrs, {"loss": losses})


def transposed(problem: Problem) -> Problem:
    """The same problem with the axes of every array reversed: (out, in) becomes (in, out)."""
    return Problem(
        tuple(p.T.copy() for p in problem.start),
        tuple(tuple(g.T.copy() for g in step) for step in problem.gradients),
        problem.lrs,
    )


def deviation(
    ours: Record, theirs: Record, problem: Problem, states: Sequence[str], *, whole: bool = False
) -> Deviation:
    """The worst deviation of the parameters, the named states and the group's state."""
    worst = NOTHING
    for index, first in enumerate(problem.start):
        pair = ([step[index] for step in run.p] for run in (ours, theirs))
        worst |= compare(*pair, first=first, whole=whole)
        for name in states:
            if theirs.state[name][0][index].size:
                pair = ([step[index] for step in run.state[name]] for run in (ours, theirs))
                worst |= compare(*pair, whole=whole)
    for name, values in theirs.group.items():
        got = [np.asarray(value) for value in ours.group[name]]
        worst |= compare(got, [np.asarray(value) for value in values])
    return worst
