"""What every schedule has: a call that checks its step, and arguments that are checked when it is made."""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from isostep import nm


class Schedule(ABC):
    """A scalar function of the steps already done, ``schedule(0)`` before the first step.

    An int (or any host number) gives a Python float, computed in float64. A framework's scalar,
    such as one traced by JAX, gives one of that framework's, of its floating dtype. Schedules are
    frozen data: they can be compared, hashed and pickled, and hold no state; to go on with a run
    is to call them with a later step.
    """

    def __call__(self, done: Any, /) -> Any:
        """The value after ``done`` steps.

        Raises:
            TypeError: ``done`` is not a number.
            ValueError: ``done`` is negative, infinite or NaN.
        """
        t = steps_done(self, done)
        found = self.at(t)
        return float(found) if on_host(t) and isinstance(found, numbers.Real) else found

    @abstractmethod
    def at(self, t: Any, /) -> Any:
        """The value after t steps; t is a float of at least 0 or a framework's floating scalar."""


def on_host(t: Any) -> bool:
    """Whether a step is a plain number, so that Python may decide by it."""
    return isinstance(t, float)


def steps_done(schedule: Any, step: Any) -> Any:
    """A checked step: a float where it is known on the host, else a framework's floating scalar."""
    name = type(schedule).__name__
    if isinstance(step, bool) or not hasattr(step, "__truediv__"):
        message = f"{name}: the step must be a number, got {step!r}; pass the steps already done"
        raise TypeError(message)
    if not isinstance(step, numbers.Real):
        step = 1.0 * step  # a framework's scalar, made floating; NumPy's is then a host number
    if not isinstance(step, numbers.Real):
        return step
    try:
        done = float(step)
    except OverflowError:  # an int beyond every float
        done = math.inf
    if done == math.inf:
        message = f"{name}: the step must be below 2**1024; pass the steps already done"
        raise ValueError(message)
    if not done >= 0:
        message = f"{name}: the step must be >= 0, got {step!r}; pass the steps already done"
        raise ValueError(message)
    return done


def power(base: float, n: Any) -> Any:
    """base**n for n >= 0, with the logarithm taken in float64 where n is a framework's scalar.

    In float32 the rounding of ``base`` itself would be raised to the power: at n = 1000 that costs
    four digits, the rounded logarithm costs none that n does not cost.
    """
    if on_host(n):
        try:
            return base**n
        except OverflowError:  # on every other path it is infinite
            return math.inf
    if base == 0.0:
        return nm.where(n > 0, 0.0 * n, 0.0 * n + 1.0)
    return nm.exp(n * math.log(base))


def quotient(t: Any, n: float) -> Any:
    """How many times n > 0 goes into t, exactly where t and n are whole.

    XLA divides by a constant by multiplying with its rounded inverse, so 13 / 13 may be below 1.
    """
    if on_host(t):
        return t // n
    q = 1.0 * nm.floor(t / n)
    q = nm.where(t - n * q >= n, q + 1.0, q)
    return nm.where(t - n * q < 0.0, q - 1.0, q)


def check(
    schedule: Any,
    name: str,
    value: Any,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    whole: bool = False,
    optional: bool = False,
    hint: str,
) -> None:
    """Raise a one-line error unless an argument is a finite number of its range.

    Raises:
        TypeError: it is no number (or, with ``whole``, no integer).
        ValueError: it is out of its range.
    """
    if optional and value is None:
        return
    bounds = [f">= {at_least:g}"] if at_least > -math.inf else []
    bounds += [f"> {above:g}"] if above > -math.inf else []
    bounds += [f"<= {at_most:g}"] if at_most < math.inf else []
    allowed = " ".join(["an integer" if whole else "a finite number", " and ".join(bounds)]).strip()
    allowed = f"None or {allowed}" if optional else allowed
    owner = schedule if isinstance(schedule, str) else type(schedule).__name__
    message = f"{owner}: {name} must be {allowed}, got {value!r}; {hint}"
    kind = numbers.Integral if whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(message)
    number = float(value)
    inside = at_least <= number <= at_most and number > above
    if not (math.isfinite(number) and inside):
        raise ValueError(message)
    if isinstance(value, np.generic) and name in getattr(schedule, "__dict__", ()):
        # A field of NumPy's narrow numbers would make what is computed with it as narrow.
        object.__setattr__(schedule, name, value.item())


def check_value(schedule: Any, value: Any) -> None:
    """The number that a schedule starts from or scales."""
    check(schedule, "value", value, hint="pass the value that the schedule changes, such as the lr")


def check_callable(schedule: Any, name: str, value: Any, hint: str) -> None:
    """Raise unless an argument can be called."""
    if not callable(value):
        owner = schedule if isinstance(schedule, str) else type(schedule).__name__
        message = f"{owner}: {name} must be a callable of the steps done, got {value!r}; {hint}"
        raise TypeError(message)


def check_choice(schedule: Any, name: str, value: Any, options: tuple[str, ...]) -> None:
    """Raise unless an argument is one of a few words."""
    if value not in options:
        allowed = ", ".join(map(repr, options))
        message = (
            f"{type(schedule).__name__}: {name} must be one of {allowed}, got {value!r}; choose one"
        )
        raise ValueError(message)


def whole_step(t: Any) -> Any:
    """The step as users' callables expect it: an int where it is a whole number on the host."""
    return int(t) if on_host(t) and t == math.floor(t) else t
