"""Schedules that multiply a value by a factor, in torch.optim.lr_scheduler's parametrization.

With t steps done, v the value and n = min(t, total_iters):

    Lambda           v * factor(t)
    Multiplicative   v * factor(1) * factor(2) * ... * factor(t)
    Step             v * gamma ** floor(t / step_size)
    MultiStep        v * gamma ** (milestones at or before t)
    Constant         v * factor until t = total_iters, then v
    Linear           v * (start_factor + (end_factor - start_factor) * n / total_iters)
    Exponential      v * gamma ** t
    Polynomial       v * (1 - n / total_iters) ** power

Follows: torch.optim.lr_scheduler of 2.13 (LambdaLR and so on), whose closed forms these are. torch
    steps by a recursion from the last value, which differs in rounding alone.
Departs:
    - The value is the schedule's first argument, 1 if it is left out; torch takes the optimizer's.
      It may be any hyperparameter, so factors above 1 are allowed.
    - ``factor`` of Multiplicative is called once for each step up to t, on the host: it has no
      value at a traced step.
    - Milestones have to be in order; torch sorts them.
    - Constant with ``total_iters=0`` is the value, as in torch's closed form; torch's recursion, which multiplies at
      step 0 and looks for the end behind it, stays at the product.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from isostep import nm
from isostep.schedules.base import (
    Schedule,
    check,
    check_callable,
    check_value,
    power,
    quotient,
    whole_step,
)
from isostep.schedules.recursion import Recursion

_LENGTH = "pass the number of steps that it lasts"
_FACTOR = "pass what the value is multiplied by"


class Chainable(Schedule):
    """A schedule that torch steps from the value that it finds, so that several act on one value."""

    value: float

    @abstractmethod
    def advance(self, value: float, k: int, base: float, /) -> float:
        """The value after step k >= 1, from the one before and the one that everything began with."""


class Factor(Chainable):
    """A schedule that is its value times a factor of the step alone."""

    def advance(self, value: float, k: int, base: float, /) -> float:
        before = self.at(k - 1.0)
        return float(value * (self.at(float(k)) / before)) if before else value


@dataclass(frozen=True)
class Lambda(Schedule):
    """The value times any function of the steps done.

    Args:
        value: what is multiplied.
        factor: a callable of the steps done (an int on the host).
    """

    value: float = 1.0
    factor: Callable[[Any], Any] = field(kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        check_callable(self, "factor", self.factor, "pass a function such as lambda t: 0.95**t")

    def at(self, t: Any, /) -> Any:
        return self.value * self.factor(whole_step(t))


@dataclass(frozen=True)
class Multiplicative(Chainable):
    """The value, multiplied at each step by a function of that step.

    Args:
        value: where it starts.
        factor: a callable of the steps done, called with 1, 2, ...
    """

    value: float = 1.0
    factor: Callable[[int], float] = field(kw_only=True)
    _run: Recursion = field(default_factory=Recursion, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        check_callable(self, "factor", self.factor, "pass a function such as lambda t: 0.95")

    def at(self, t: Any, /) -> Any:
        return self._run(self, t, self.value, lambda value, k: self.advance(value, k, self.value))

    def advance(self, value: float, k: int, base: float, /) -> float:
        return value * self.factor(k)


@dataclass(frozen=True)
class Step(Factor):
    """The value, multiplied by ``gamma`` every ``step_size`` steps."""

    value: float = 1.0
    step_size: int = field(kw_only=True)
    gamma: float = field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        check(self, "step_size", self.step_size, at_least=1, whole=True, hint=_LENGTH)
        check(self, "gamma", self.gamma, at_least=0, hint=_FACTOR)

    def at(self, t: Any, /) -> Any:
        return self.value * power(self.gamma, quotient(t, self.step_size))


@dataclass(frozen=True)
class MultiStep(Factor):
    """The value, multiplied by ``gamma`` at each of the ``milestones``; one that is named twice counts twice."""

    value: float = 1.0
    milestones: Sequence[int] = field(kw_only=True)
    gamma: float = field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        object.__setattr__(self, "milestones", check_milestones(self, self.milestones))
        check(self, "gamma", self.gamma, at_least=0, hint=_FACTOR)

    def at(self, t: Any, /) -> Any:
        passed = 0.0 * t
        for milestone in self.milestones:
            passed = passed + nm.where(t >= milestone, 1.0, 0.0)
        return self.value * power(self.gamma, passed)


@dataclass(frozen=True)
class Constant(Factor):
    """The value times ``factor`` for ``total_iters`` steps, then the value."""

    value: float = 1.0
    factor: float = field(default=1.0 / 3.0, kw_only=True)
    total_iters: int = field(default=5, kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        check(self, "factor", self.factor, at_least=0, hint=_FACTOR)
        check(self, "total_iters", self.total_iters, at_least=0, whole=True, hint=_LENGTH)

    def at(self, t: Any, /) -> Any:
        early = self.value * self.factor + 0.0 * t  # of the step's dtype, as both are plain numbers
        return nm.where(t >= self.total_iters, self.value, early)


@dataclass(frozen=True)
class Linear(Factor):
    """The value times a factor that goes straight from one number to another, and stays there."""

    value: float = 1.0
    start_factor: float = field(default=1.0 / 3.0, kw_only=True)
    end_factor: float = field(default=1.0, kw_only=True)
    total_iters: int = field(default=5, kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        check(self, "start_factor", self.start_factor, at_least=0, hint=_FACTOR)
        check(self, "end_factor", self.end_factor, at_least=0, hint=_FACTOR)
        check(self, "total_iters", self.total_iters, at_least=1, whole=True, hint=_LENGTH)

    def at(self, t: Any, /) -> Any:
        way = (self.end_factor - self.start_factor) * nm.minimum(t, float(self.total_iters))
        return self.value * (self.start_factor + way / self.total_iters)


@dataclass(frozen=True)
class Exponential(Factor):
    """The value, multiplied by ``gamma`` at every step."""

    value: float = 1.0
    gamma: float = field(kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        check(self, "gamma", self.gamma, at_least=0, hint=_FACTOR)

    def at(self, t: Any, /) -> Any:
        return self.value * power(self.gamma, t)


@dataclass(frozen=True)
class Polynomial(Factor):
    """The value, down to 0 after ``total_iters`` steps along a power of the steps left."""

    value: float = 1.0
    total_iters: int = field(default=5, kw_only=True)
    power: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        check(self, "total_iters", self.total_iters, at_least=1, whole=True, hint=_LENGTH)
        check(self, "power", self.power, above=0, hint="pass the exponent, 1 for a straight line")

    def at(self, t: Any, /) -> Any:
        left = self.total_iters - nm.minimum(t, float(self.total_iters))  # exactly 0 at the end
        return self.value * nm.pow(left / self.total_iters, self.power)


def check_milestones(owner: Any, milestones: Any) -> tuple[int, ...]:
    """Steps in order, as a tuple.

    Raises:
        TypeError: they are no sequence of integers.
        ValueError: one is negative, or they are out of order.
    """
    name = owner if isinstance(owner, str) else type(owner).__name__
    if isinstance(milestones, str) or not hasattr(milestones, "__iter__"):
        message = f"{name}: milestones must be a list of integers, got {milestones!r}; pass steps"
        raise TypeError(message)
    steps = tuple(milestones)
    for i, m in enumerate(steps):
        check(
            owner, f"milestones[{i}]", m, at_least=0, whole=True, hint="pass the steps done by then"
        )
    if list(steps) != sorted(steps):
        message = f"{name}: milestones must be in order, got {list(steps)}; sort them"
        raise ValueError(message)
    return tuple(int(m) for m in steps)
