"""Typed domains of hyperparameters.

A rule declares ``hyper={"beta": Real(0.9, low=0, high=1, high_open=True)}`` once. The declaration validates
values, words the error, gives Hypothesis its strategies, draws non-neutral conformance cases and fills the
table of the rule's documentation page.
"""

from __future__ import annotations

import math
import numbers
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import array_api_compat

REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "required"})()


class DomainError(ValueError):
    """A hyperparameter outside its domain: one line, what, allowed, got."""


@dataclass(frozen=True)
class Domain(ABC):
    """What every domain has. ``static`` values are Python values when a rule is traced, never symbols."""

    default: Any = REQUIRED

    #: True: each value has a program of its own. False: the value is an input of the program.
    static = False
    #: whether a value may be a schedule, or an array of JAX, which is one
    schedulable = False

    @abstractmethod
    def check(self, label: str, value: Any) -> Any:
        """Return the value in normal form, or raise ``DomainError`` naming ``label``."""

    @abstractmethod
    def describe(self) -> str:
        """The allowed values in words, as used in errors and tables."""

    def allows(self, value: Any) -> bool:
        """Whether a value is inside."""
        try:
            self.check("", value)
        except DomainError:
            return False
        return True

    def is_static(self, value: Any) -> bool:
        """Whether this very value is part of the program's structure."""
        return self.static


def _fail(label: str, allowed: str, value: Any) -> DomainError:
    return DomainError(f"{label} must be {allowed}, got {_on_one_line(value)}")


def _on_one_line(value: Any) -> str:
    return " ".join(map(str.strip, repr(value).splitlines()))  # arrays take several


def _of_jax(value: Any) -> bool:
    """Whether it is an array of JAX, which may be traced; without JAX there are none."""
    return sys.modules.get("jax") is not None and array_api_compat.is_jax_array(value)


def _fail_static(label: str, allowed: str, value: Any) -> DomainError:
    """As ``_fail``, of what no array can stand for."""
    if not _of_jax(value):
        return _fail(label, allowed, value)
    how = "it shapes the program, so pass Python's own; optax.inject_hyperparams: in static_args"
    return DomainError(f"{_fail(label, allowed, value)}; {how}")


class Held:
    """An array of JAX as a hyperparameter: to the rule a schedule that always has this value, traced or not.

    So nothing about it is static, and the rule is the same one inside of ``jit`` and outside.
    """

    def __init__(self, array: Any) -> None:
        self.array = array

    def __call__(self, done: Any) -> Any:
        return self.array

    def __repr__(self) -> str:
        return _on_one_line(self.array)


def _scheduled(label: str, allowed: str, value: Any, inside: Callable[[float], bool]) -> Any:
    """A schedule as it is, or an array of JAX as one; None if ``value`` is neither."""
    if _of_jax(value):
        number = _number(label, allowed, value) if tuple(value.shape) == () else math.nan
        if number is not None and not (math.isfinite(number) and inside(number)):
            raise _fail(label, allowed, value)
        return Held(value)
    return value if callable(value) and not isinstance(value, numbers.Number) else None


@dataclass(frozen=True)
class Real(Domain):
    """A real number of an interval; a callable of the steps already done (``t - 1``) is a schedule of it.

    ``zero_is_static``: zero is a structural choice (no momentum, no decay), so a rule may write
    ``if momentum:`` and a program with zero carries neither the state nor the arithmetic.
    ``none_is_infinite``: None is no bound at all, and so is infinity, as others write it: it becomes None.
    ``cases`` are the non-neutral values that conformance uses; without it they are drawn from the interval.
    """

    schedulable = True

    low: float | None = None
    high: float | None = None
    low_open: bool = field(default=False, kw_only=True)
    high_open: bool = field(default=False, kw_only=True)
    zero_is_static: bool = field(default=False, kw_only=True)
    optional: bool = field(default=False, kw_only=True)
    none_is_infinite: bool = field(default=False, kw_only=True)
    cases: tuple[float, ...] = field(default=(), kw_only=True)
    doc: str = field(default="", kw_only=True)
    unit: str = field(default="", kw_only=True)

    def describe(self) -> str:
        if self.low is None and self.high is None:
            text = "a finite number"
        elif self.high is None:
            text = f"{'>' if self.low_open else '>='} {self.low:g}"
        elif self.low is None:
            text = f"{'<' if self.high_open else '<='} {self.high:g}"
        else:
            left, right = "(["[not self.low_open], ")]"[not self.high_open]
            text = f"in {left}{self.low:g}, {self.high:g}{right}"
        return f"None or {text}" if self.optional else text

    def check(self, label: str, value: Any) -> Any:
        if value is None and self.optional:
            return None
        schedule = _scheduled(label, self.describe(), value, self._inside)
        if schedule is not None:
            return schedule
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            value = _number(label, self.describe(), value)
        number = _as_float(value)
        if self.none_is_infinite and number == math.inf:
            return None
        if not math.isfinite(number) or not self._inside(number):
            raise _fail(label, self.describe(), value)
        return number

    def _inside(self, x: float) -> bool:
        if self.low is not None and (x < self.low or (self.low_open and x == self.low)):
            return False
        return not (
            self.high is not None and (x > self.high or (self.high_open and x == self.high))
        )

    def is_static(self, value: Any) -> bool:
        return value is None or (self.zero_is_static and not callable(value) and value == 0.0)


def _as_float(number: Any) -> float:
    """A real number rounded to float64: infinite where an integer or a fraction is too large for it."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _number(label: str, allowed: str, value: Any) -> float | None:
    """A 0-d array or framework scalar as a float, None if JAX traces it; anything else is an error."""
    dtype = str(getattr(value, "dtype", ""))
    unreal = "bool" in dtype or "complex" in dtype
    if isinstance(value, bool | str | bytes) or unreal or not hasattr(value, "__float__"):
        raise _fail(label, allowed, value)
    try:
        return float(value)
    except (TypeError, ValueError):
        if _of_jax(value) and ("float" in dtype or "int" in dtype):
            return None
        raise _fail(label, allowed, value) from None


@dataclass(frozen=True)
class Integer(Domain):
    """A whole number. Static ones (iteration counts, axes) shape the program."""

    low: int | None = None
    high: int | None = None
    static: bool = field(default=False, kw_only=True)
    optional: bool = field(default=False, kw_only=True)
    cases: tuple[int, ...] = field(default=(), kw_only=True)
    doc: str = field(default="", kw_only=True)
    unit: str = field(default="", kw_only=True)

    def describe(self) -> str:
        if self.low is not None and self.high is not None:
            text = f"an integer in [{self.low}, {self.high}]"
        elif self.low is not None:
            text = f"an integer >= {self.low}"
        else:
            text = "an integer" if self.high is None else f"an integer <= {self.high}"
        return f"None or {text}" if self.optional else text

    def check(self, label: str, value: Any) -> int | None:
        if value is None and self.optional:
            return None
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise _fail_static(label, self.describe(), value)
        number = int(value)
        if (self.low is not None and number < self.low) or (
            self.high is not None and number > self.high
        ):
            raise _fail(label, self.describe(), value)
        return number


@dataclass(frozen=True)
class Flag(Domain):
    """True or False; always static."""

    doc: str = field(default="", kw_only=True)
    static = True
    unit = ""

    def describe(self) -> str:
        return "True or False"

    def check(self, label: str, value: Any) -> bool:
        if type(value).__name__ not in ("bool", "bool_"):
            raise _fail_static(label, self.describe(), value)
        return bool(value)


@dataclass(frozen=True)
class Choice(Domain):
    """One of a few values; always static. Dialects are choices."""

    options: tuple[Any, ...] = field(default=(), kw_only=True)
    doc: str = field(default="", kw_only=True)
    static = True
    unit = ""

    def describe(self) -> str:
        return "one of " + ", ".join(repr(o) for o in self.options)

    def check(self, label: str, value: Any) -> Any:
        for option in self.options:
            if type(value) is type(option) and value == option:
                return option
        raise _fail_static(label, self.describe(), value)


@dataclass(frozen=True, init=False)
class Pair(Domain):
    """A tuple of numbers, such as ``betas``; the rule receives a tuple of the same length.

    Its default is the tuple of its parts' defaults.
    """

    parts: tuple[Real, ...] = ()
    doc: str = field(default="", kw_only=True)
    unit = ""
    schedulable = True

    def __init__(self, *parts: Real, doc: str = "") -> None:
        defaults = tuple(p.default for p in parts)
        object.__setattr__(self, "default", REQUIRED if REQUIRED in defaults else defaults)
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "doc", doc)

    def describe(self) -> str:
        kinds = [p.describe() for p in self.parts]
        if len(set(kinds)) == 1:
            return f"{len(kinds)} numbers, each {kinds[0]}"
        return f"{len(kinds)} numbers: " + ", ".join(kinds)

    def check(self, label: str, value: Any) -> tuple[Any, ...]:
        try:
            items = () if isinstance(value, str | bytes) else tuple(value)
        except TypeError:
            items = ()
        if len(items) != len(self.parts):
            raise _fail(label, self.describe(), value)
        return tuple(
            p.check(f"{label}[{i}]", v)
            for i, (p, v) in enumerate(zip(self.parts, items, strict=True))
        )

    def is_static(self, value: Any) -> bool:
        # The tuple is a value of the program; its elements are static one by one (see BoundRule.symbols).
        return False


@dataclass(frozen=True)
class Scheduled(Domain):
    """None, a number, or a callable of the steps already done; the rule sees None or this step's number."""

    default: Any = None
    doc: str = field(default="", kw_only=True)
    unit: str = field(default="", kw_only=True)
    schedulable = True

    def describe(self) -> str:
        return "None, a number, or a callable of the number of steps already done"

    def check(self, label: str, value: Any) -> Any:
        if value is None:
            return None
        schedule = _scheduled(label, self.describe(), value, lambda _: True)
        if schedule is not None:
            return schedule
        if (
            isinstance(value, bool)
            or not isinstance(value, numbers.Real)
            or not math.isfinite(_as_float(value))
        ):
            raise _fail(label, self.describe(), value)
        return float(value)

    def is_static(self, value: Any) -> bool:
        return value is None


class Passing(float):
    """A zero that a schedule is passing through: true, because a rule with a schedule has what zero leaves out."""

    def __bool__(self) -> bool:
        return True


def evaluate(label: str, domain: Domain, value: Any, done: int) -> Any:
    """The number that ``value`` has after ``done`` steps; a schedule's result is checked like any number."""
    found = _evaluated(label, domain, value, done)
    structural = callable(value) and getattr(domain, "zero_is_static", False)
    return Passing(found) if structural and found == 0 else found


def _evaluated(label: str, domain: Domain, value: Any, done: int) -> Any:
    if not callable(value):
        return value
    schedule: Callable[[int], Any] = value
    result, called = schedule(done), f"{label}({done})"
    if result is None or callable(result):
        raise _fail(called, Real().describe(), result)
    if isinstance(domain, Scheduled):
        domain = Real()
    found = domain.check(called, result)
    if found is None:  # None shapes the program, which has a number here
        raise _fail(called, Real().describe(), result)
    if not isinstance(found, Held):
        return found
    number = _number(called, domain.describe(), result)
    if number is None:
        raise _fail(called, f"{domain.describe()}, known to the host", result)
    return number
