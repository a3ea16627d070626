"""The sign rules' internal decays.

Let t be the number of steps already done (0 before the first), T = ``T_max``, n = ``num_periods``.
All of them first clamp t to T, so every decay is constant from step T on.

    linear              (T - t) / T
    cosine              (1 + cos(2 pi n t / T)) / 2         n full periods until T
    restart cosine      (1 + cos(pi (n t mod T) / T)) / 2   n half periods until T, each from 1

Cosine and restart cosine are 0 once ``zero_after`` cycles are over, that is where
n t / T >= zero_after.

Follows: TensorFlow 1's ``contrib/opt/python/training/sign_decay.py``, written for Bello et al.,
    "Neural Optimizer Search with Reinforcement Learning", arXiv 1709.07417.
Departs:
    - float64, where TensorFlow computes in float32: up to 4e-7; of the cosine decay, whose angle is rounded there,
      up to 5e-7 n.
    - Arguments and steps are checked. TensorFlow checks nothing (T = 0 is NaN there), and wants
      some arguments to be whole.

Three surprises of TensorFlow's are kept, because a name is a specification. The restart decay is
back at 1 from step T on for a whole n, even the default n = 1 (``zero_after=n`` makes that 0). The
cosine decay with a whole n stays at 1 from there. With a T that is not whole, the linear decay is
(trunc(T) - trunc(t)) / T.

An int step gives a Python float. A framework's scalar, such as one traced by JAX, gives one of
that framework's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from isostep import nm
from isostep.schedules.base import check, on_host, quotient, steps_done

__all__ = [
    "CosineInternalDecay",
    "LinearInternalDecay",
    "RestartCosineInternalDecay",
    "RestartCosineInternalDecayTorchPort",
]


@dataclass(frozen=True)
class LinearInternalDecay:
    """From 1 at step 0 straight down to 0 at step ``T_max``.

    Args:
        T_max: the steps that the decay lasts, at least 1. A part of a step counts only in the
            divisor, as in TensorFlow.

    Raises:
        TypeError: an argument or a step is not a number.
        ValueError: an argument or a step is out of its range.
    """

    T_max: float

    def __post_init__(self) -> None:
        check(self, "T_max", self.T_max, at_least=1, hint=_LENGTH)

    def __call__(self, step: Any, /) -> Any:
        """The decay after ``step`` steps."""
        t = _clamped(self, step)
        return (math.trunc(self.T_max) - nm.floor(t)) / self.T_max


@dataclass(frozen=True)
class CosineInternalDecay:
    """``num_periods`` full periods of a cosine between 1 and 0 over ``T_max`` steps.

    Args:
        T_max: the steps that the decay lasts, at least 1.
        num_periods: full periods until then; 0.5 ends at 0.
        zero_after: the cycles after which the decay is 0 for good; None for never.

    Raises:
        TypeError: an argument or a step is not a number.
        ValueError: an argument or a step is out of its range.
    """

    T_max: float
    num_periods: float = 0.5
    zero_after: float | None = None

    def __post_init__(self) -> None:
        _check_periods(self, self.T_max, self.num_periods, self.zero_after)

    def __call__(self, step: Any, /) -> Any:
        """The decay after ``step`` steps."""
        t = _clamped(self, step)
        return _zeroed(self, t, _cosine(2.0 * self.num_periods * (t / self.T_max)))


@dataclass(frozen=True)
class RestartCosineInternalDecay:
    """``num_periods`` half periods of a cosine over ``T_max`` steps, each from 1 down towards 0.

    Args:
        T_max: the steps that the decay lasts, at least 1.
        num_periods: half periods until then.
        zero_after: the half periods after which the decay is 0 for good; None for never.
            ``zero_after=num_periods`` makes it end at 0 instead of 1.

    Raises:
        TypeError: an argument or a step is not a number.
        ValueError: an argument or a step is out of its range.
    """

    T_max: float
    num_periods: float = 1
    zero_after: float | None = None

    def __post_init__(self) -> None:
        _check_periods(self, self.T_max, self.num_periods, self.zero_after)

    def __call__(self, step: Any, /) -> Any:
        """The decay after ``step`` steps."""
        t = _clamped(self, step)
        return _zeroed(self, t, _cosine(_sawtooth(self.num_periods * t, self.T_max)))


@dataclass(frozen=True)
class RestartCosineInternalDecayTorchPort:
    """The restart decay of the PyTorch port (cydonia999/AddSign_PowerSign_in_PyTorch).

    It compares ``zero_after`` with the place in the current half period, not with the half periods
    done. From 0.5 on ``zero_after`` never acts; below, it zeroes the last part of every half
    period, each time anew. Without it this is ``RestartCosineInternalDecay``.

    Args:
        T_max: the steps that the decay lasts, at least 1.
        num_periods: half periods until then.
        zero_after: half the place in each half period from which the decay is 0; None for never.

    Raises:
        TypeError: an argument or a step is not a number.
        ValueError: an argument or a step is out of its range.
    """

    T_max: float
    num_periods: float = 1
    zero_after: float | None = None

    def __post_init__(self) -> None:
        _check_periods(self, self.T_max, self.num_periods, self.zero_after)

    def __call__(self, step: Any, /) -> Any:
        """The decay after ``step`` steps."""
        x = _sawtooth(self.num_periods * _clamped(self, step), self.T_max)
        decay = _cosine(x)
        return decay if self.zero_after is None else nm.where(x >= 2 * self.zero_after, 0.0, decay)


def _cosine(x: Any) -> Any:
    """1 at x = 0, 0 at x = 1."""
    return 0.5 * (1.0 + nm.cos(math.pi * x))


def _sawtooth(y: Any, period: float) -> Any:
    """(y mod period) / period, in [0, 1)."""
    return (y - period * quotient(y, period)) / period


def _zeroed(schedule: Any, t: Any, decay: Any) -> Any:
    """0 once ``zero_after`` cycles are over; compared as products, as XLA's n t / T may lie below the edge at it."""
    if schedule.zero_after is None:
        return decay
    over = schedule.num_periods * t >= schedule.zero_after * schedule.T_max
    return nm.where(over, 0.0, decay)


def _clamped(schedule: Any, step: Any) -> Any:
    """min(step, T_max) as a float; a step known on the host is checked."""
    done, last = steps_done(schedule, step), float(schedule.T_max)
    return min(done, last) if on_host(done) else nm.minimum(done, last)


def _check_periods(schedule: Any, T_max: Any, num_periods: Any, zero_after: Any) -> None:
    check(schedule, "T_max", T_max, at_least=1, hint=_LENGTH)
    check(schedule, "num_periods", num_periods, above=0, hint=_PERIODS)
    check(schedule, "zero_after", zero_after, at_least=0, optional=True, hint=_CYCLES)


_LENGTH = "pass the number of steps that the decay lasts"
_PERIODS = "pass the number of periods until T_max"
_CYCLES = "pass the cycles to go through, or None"
