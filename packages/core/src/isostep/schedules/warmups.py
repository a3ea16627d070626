"""Warmups, and schedules of several parts.

With t steps done, so that the step to come is number t + 1:

    LinearWarmup          v * min(1, (t + 1) / period)
    UntunedLinearWarmup   the same with period = 2 / (1 - beta2)
    InverseSquareRoot     v * min((t + 1) / warmup, sqrt(warmup / (t + 1)))
    REX                   v * (1 - x) / (1/2 + (1 - x) / 2), x = min(t / total_steps, 1)
    WarmupStableDecay     up from start * v in a straight line, level at v, then down to end * v

Follows: Ma, Yarats, "On the adequacy of untuned warmup for adaptive optimization", arXiv 1910.04209
    (the untuned linear warmup); Vaswani et al., "Attention Is All You
    Need", arXiv 1706.03762, equation 3, scaled to its peak; Chen, Wolfe, Kyrillidis, "REX: Revisiting
    Budgeted Training with an Improved Schedule", arXiv 2107.04197; Hu et al., "MiniCPM", arXiv
    2404.06395 (warmup-stable-decay); Hägele et al., arXiv 2405.18392 (the shapes of the decay);
    Iyer et al., "Wide-minima Density Hypothesis and the Explore-Exploit Learning Rate Schedule",
    arXiv 2003.03977 (the knee).
Departs:
    - Vaswani's scale d_model**-0.5 * warmup**-0.5 is the value here.
    - WarmupStableDecay's warmup is at start * v before the first step and at v after ``warmup``
      steps, as in optax and pytorch_optimizer; LinearWarmup never gives 0, as in its paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from isostep import nm
from isostep.schedules.base import Schedule, check, check_choice, check_value
from isostep.schedules.cycles import half_cosine

_LENGTH = "pass the number of steps that it lasts"
_FRACTION = "pass a fraction of the value"


@dataclass(frozen=True)
class LinearWarmup(Schedule):
    """Up to the value in a straight line over ``period`` steps, then there."""

    value: float = 1.0
    period: float = field(kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        check(self, "period", self.period, at_least=1, hint=_LENGTH)

    def at(self, t: Any, /) -> Any:
        return self.value * nm.minimum((t + 1.0) / self.period, 1.0)


@dataclass(frozen=True)
class UntunedLinearWarmup(Schedule):
    """Linear warmup over 2 / (1 - beta2) steps, with the beta2 of the Adam that it is for."""

    value: float = 1.0
    beta2: float = field(default=0.999, kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        check(self, "beta2", self.beta2, at_least=0, hint="pass betas[1] of the rule, below 1")
        if self.beta2 >= 1:
            message = (
                f"UntunedLinearWarmup: beta2 must be in [0, 1), got {self.beta2!r}; "
                "pass betas[1] of the rule"
            )
            raise ValueError(message)

    def at(self, t: Any, /) -> Any:
        return self.value * nm.minimum((t + 1.0) * ((1.0 - self.beta2) / 2.0), 1.0)


@dataclass(frozen=True)
class InverseSquareRoot(Schedule):
    """Up to the value over ``warmup`` steps, then down with the square root of the steps."""

    value: float = 1.0
    warmup: float = field(kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        check(self, "warmup", self.warmup, at_least=1, hint=_LENGTH)

    def at(self, t: Any, /) -> Any:
        step = t + 1.0
        return self.value * nm.minimum(step / self.warmup, nm.sqrt(self.warmup / step))


@dataclass(frozen=True)
class REX(Schedule):
    """Down to 0 over ``total_steps``, slowly first: the reflected exponential."""

    value: float = 1.0
    total_steps: int = field(kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        check(self, "total_steps", self.total_steps, at_least=1, whole=True, hint=_LENGTH)

    def at(self, t: Any, /) -> Any:
        left = 1.0 - nm.minimum(t / self.total_steps, 1.0)
        return self.value * (left / (0.5 + 0.5 * left))


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """A straight line up, a level part, a way down.

    Args:
        value: the level.
        warmup, stable, decay: steps of the three parts; any of them may be 0.
        shape: of the decay, in x from 0 to 1: ``"linear"`` 1 - x, ``"cosine"``, ``"1-sqrt"``
            1 - sqrt(x), ``"1-square"`` 1 - x**2, or ``"exponential"`` end**x.
        start, end: where it comes from and goes to, as fractions of the value.
    """

    value: float = 1.0
    warmup: int = field(default=0, kw_only=True)
    stable: int = field(default=0, kw_only=True)
    decay: int = field(default=0, kw_only=True)
    shape: str = field(default="linear", kw_only=True)
    start: float = field(default=0.0, kw_only=True)
    end: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        for name in ("warmup", "stable", "decay"):
            check(self, name, getattr(self, name), at_least=0, whole=True, hint=_LENGTH)
        check_choice(self, "shape", self.shape, tuple(_SHAPES))
        check(self, "start", self.start, at_least=0, hint=_FRACTION)
        least = {"above": 0.0} if self.shape == "exponential" else {"at_least": 0.0}
        check(self, "end", self.end, hint=_FRACTION, **least)  # type: ignore[arg-type]

    def at(self, t: Any, /) -> Any:
        up = self.start + (1.0 - self.start) * (t / max(self.warmup, 1))
        begins = self.warmup + self.stable
        # Without a decay it stays level.
        x = nm.clip((t - begins) / self.decay, 0.0, 1.0) if self.decay else 0.0 * t
        down = _SHAPES[self.shape](x, self.end)
        return self.value * nm.where(t < self.warmup, up, down)


_SHAPES: dict[str, Any] = {
    "linear": lambda x, end: end + (1.0 - end) * (1.0 - x),
    "cosine": lambda x, end: end + (1.0 - end) * half_cosine(x),
    "1-sqrt": lambda x, end: end + (1.0 - end) * (1.0 - nm.sqrt(x)),
    "1-square": lambda x, end: end + (1.0 - end) * (1.0 - x * x),
    "exponential": lambda x, end: nm.exp(x * math.log(end)),
}


def trapezoid(value: float = 1.0, *, warmup: int, stable: int, decay: int) -> WarmupStableDecay:
    """Straight up from 0, level, straight down to 0."""
    return WarmupStableDecay(value, warmup=warmup, stable=stable, decay=decay)


def knee(value: float = 1.0, *, explore: int, total: int, warmup: int = 0) -> WarmupStableDecay:
    """The explore-exploit schedule: level at a high value for ``explore`` steps, then straight down to 0.

    Args:
        value: the level.
        explore: steps at that level, after the warmup.
        total: steps of everything.
        warmup: steps up to the level.

    Raises:
        ValueError: the parts are longer than the whole.
    """
    for name, length in (("explore", explore), ("total", total), ("warmup", warmup)):
        check("knee", name, length, at_least=0, whole=True, hint=_LENGTH)
    if warmup + explore > total:
        message = (
            f"knee: total must be >= warmup + explore, {warmup} + {explore}, got {total}; "
            "make the parts shorter"
        )
        raise ValueError(message)
    return WarmupStableDecay(value, warmup=warmup, stable=explore, decay=total - warmup - explore)
