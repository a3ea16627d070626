"""Combinators: schedules one after another, on top of each other, times a factor.

    sequential([a, b, c], milestones=[m, n])   a(t) before m, b(t - m) before n, then c(t - n)
    chained(a, b, c)                           the value of a, changed by each as it goes
    scale(a, factor)                           a(t) * factor, the factor a number or a schedule

Follows: torch.optim.lr_scheduler's SequentialLR and ChainedScheduler of 2.13.
Departs:
    - Each part of ``sequential`` has a value of its own; torch's parts share the optimizer's.
    - ``chained`` takes the schedules that torch defines by what a step multiplies (Multiplicative,
      Step, MultiStep, Constant, Linear, Exponential, Polynomial, CosineAnnealing). torch's others
      overwrite the value that they find; here they are refused, and ``scale`` multiplies any two.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from isostep import nm
from isostep.schedules.base import Schedule, check, check_callable, whole_step
from isostep.schedules.factors import Chainable, Factor, check_milestones
from isostep.schedules.recursion import Recursion


@dataclass(frozen=True)
class Sequential(Schedule):
    """See ``sequential``."""

    schedules: tuple[Callable[[Any], Any], ...]
    milestones: tuple[int, ...]

    def at(self, t: Any, /) -> Any:
        found = self.schedules[0](whole_step(t)) + 0.0 * t  # of the step's dtype, whatever it gives
        for schedule, milestone in zip(self.schedules[1:], self.milestones, strict=True):
            # A part that has not begun is asked for its beginning, which every schedule has.
            own = schedule(whole_step(nm.maximum(t - milestone, 0.0)))
            found = nm.where(t >= milestone, own, found)
        return found


def sequential(
    schedules: Sequence[Callable[[Any], Any]], *, milestones: Sequence[int]
) -> Sequential:
    """Schedules one after another; each sees its own steps, from 0 at its milestone.

    Args:
        schedules: callables of the steps done, at least one.
        milestones: steps done when the next one begins: one less than there are schedules, in order.

    Raises:
        TypeError: a part is not callable, a milestone no integer.
        ValueError: the numbers do not fit, or the milestones are out of order.
    """
    parts = tuple(schedules)
    for i, part in enumerate(parts):
        check_callable("sequential", f"schedules[{i}]", part, "pass schedules")
    steps = check_milestones("sequential", milestones)
    if not parts or len(steps) != len(parts) - 1:
        message = (
            f"sequential: needs one milestone less than schedules, got {len(steps)} for {len(parts)}; "
            "pass the steps at which the second, third, ... begin"
        )
        raise ValueError(message)
    return Sequential(parts, steps)


@dataclass(frozen=True)
class Scaled(Schedule):
    """See ``scale``."""

    schedule: Callable[[Any], Any]
    factor: Any

    def at(self, t: Any, /) -> Any:
        t = whole_step(t)
        return self.schedule(t) * (self.factor(t) if callable(self.factor) else self.factor)


def scale(schedule: Callable[[Any], Any], factor: Any) -> Scaled:
    """A schedule times a number or times another schedule.

    Raises:
        TypeError: the schedule is not callable, the factor neither callable nor a number.
        ValueError: the factor is not finite.
    """
    check_callable("scale", "schedule", schedule, "pass a schedule and a factor")
    if callable(factor):
        return Scaled(schedule, factor)
    if isinstance(factor, bool) or not isinstance(factor, numbers.Real):
        message = f"scale: factor must be a number or a schedule, got {factor!r}; pass one of them"
        raise TypeError(message)
    check("scale", "factor", factor, hint="pass a number or a schedule")
    return Scaled(schedule, float(factor))


@dataclass(frozen=True)
class Chained(Schedule):
    """See ``chained``."""

    schedules: tuple[Chainable, ...]
    _run: Recursion = field(default_factory=Recursion, init=False, repr=False, compare=False)

    def at(self, t: Any, /) -> Any:
        if all(isinstance(s, Factor) for s in self.schedules):
            return math.prod(s.at(t) for s in self.schedules)
        base = math.prod(s.value for s in self.schedules)
        start = math.prod(s.at(0.0) for s in self.schedules)
        return self._run(self, t, start, lambda value, k: self._advance(value, k, base))

    def _advance(self, value: float, k: int, base: float) -> float:
        """One step of every part, in order, each from what the one before left."""
        for s in self.schedules:
            value = s.advance(value, k, base)
        return value


def chained(*schedules: Any) -> Chained:
    """Schedules that all act on one value: each multiplies it by its own factor, at every step.

    Give the value to one of them and leave the others at 1:
    ``chained(Exponential(0.1, gamma=0.9), Constant(factor=0.5, total_iters=3))``. With a
    CosineAnnealing or a Multiplicative among them the value is stepped as torch steps it, from what
    the others left, and so is known on the host only.

    Raises:
        TypeError: a part is not one of those that can be chained.
        ValueError: there is none.
    """
    if not schedules:
        message = "chained: needs at least one schedule, got none; pass schedules"
        raise ValueError(message)
    for i, s in enumerate(schedules):
        if not isinstance(s, Chainable):
            message = (
                f"chained: schedules[{i}] must be a schedule that steps from the value it finds, "
                f"got {s!r}; use scale to multiply any two schedules"
            )
            raise TypeError(message)
    return Chained(tuple(schedules))
