"""Schedules that go up and down: cosine annealing, with and without restarts, cyclic, one cycle, and SWA's.

    CosineAnnealing               eta_min + (v - eta_min) * (1 + cos(pi t / T_max)) / 2
    CosineAnnealingWarmRestarts   the same with t and T_max of the current cycle, T_0 * T_mult**n long
    Cyclic                        base_lr + (max_lr - base_lr) * x * scale, x a triangle from 0 to 1 to 0
    OneCycle                      from max_lr / div_factor up to max_lr, and down to a fraction of that
    SWAAnneal                     from v to swa_lr over anneal_epochs, then there

Follows: torch.optim.lr_scheduler of 2.13 (CosineAnnealingLR and so on) and torch.optim.swa_utils.SWALR;
    Loshchilov, Hutter, "SGDR", arXiv 1608.03983, equation 5; Smith, "Cyclical Learning Rates",
    arXiv 1506.01186; Smith, Topin, "Super-Convergence", arXiv 1708.07120.
Departs:
    - What torch writes into momentum or betas is a schedule of its own, ``cyclic.momentum()`` or
      ``one_cycle.momentum()``, to be given as the momentum or as betas[0].
    - OneCycle stays at its end after total_steps; torch goes one step further, then raises.
    - torch's CosineAnnealingLR goes on from the value that it finds, so that another scheduler's
      change stays; see ``chained``. Alone it equals this one, up again after T_max too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from isostep import nm
from isostep.schedules.base import (
    Schedule,
    check,
    check_callable,
    check_choice,
    check_value,
    on_host,
    power,
    quotient,
    whole_step,
)
from isostep.schedules.factors import Chainable

_LENGTH = "pass the number of steps that it lasts"
_LEVEL = "pass a value on the scale of the lr"
#: Restarts later than this are not looked for: no run gets there.
_FAR = 2.0**40


def half_cosine(x: Any) -> Any:
    """From 1 at x = 0 to 0 at x = 1."""
    return (1.0 + nm.cos(math.pi * x)) / 2.0


@dataclass(frozen=True)
class CosineAnnealing(Chainable):
    """From the value to ``eta_min`` along half a cosine of ``T_max`` steps, and back up, and so on."""

    value: float = 1.0
    T_max: int = field(kw_only=True)
    eta_min: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        check(self, "T_max", self.T_max, at_least=1, hint=_LENGTH)
        check(self, "eta_min", self.eta_min, hint=_LEVEL)

    def at(self, t: Any, /) -> Any:
        if not on_host(t):  # in float32 a late step over T_max has lost its place in the period
            t = t - 2.0 * self.T_max * quotient(t, 2.0 * self.T_max)
        return self.eta_min + (self.value - self.eta_min) * half_cosine(t / self.T_max)

    def advance(self, value: float, k: int, base: float, /) -> float:
        before = 1.0 + math.cos(math.pi * (k - 1) / self.T_max)
        if (k - 1 - self.T_max) % (2 * self.T_max) == 0:  # the turn: 0 / 0, so from the base
            rise = (1.0 - math.cos(math.pi / self.T_max)) / 2.0
            return value + (base - self.eta_min) * rise
        after = 1.0 + math.cos(math.pi * k / self.T_max)
        return after / before * (value - self.eta_min) + self.eta_min


@dataclass(frozen=True)
class CosineAnnealingWarmRestarts(Schedule):
    """Cosine annealing from the value to ``eta_min``, again and again, each time ``T_mult`` times as long."""

    value: float = 1.0
    T_0: int = field(kw_only=True)
    T_mult: int = field(default=1, kw_only=True)
    eta_min: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        check(self, "T_0", self.T_0, at_least=1, whole=True, hint=_LENGTH)
        check(self, "T_mult", self.T_mult, at_least=1, whole=True, hint="pass 1 for equal cycles")
        check(self, "eta_min", self.eta_min, hint=_LEVEL)

    def at(self, t: Any, /) -> Any:
        if self.T_mult == 1:
            place = (t - self.T_0 * quotient(t, self.T_0)) / self.T_0
        else:
            # The starts are numbers known beforehand; a logarithm would miss them by a rounding.
            start, length = 0.0, float(self.T_0)
            begun, lasts = start + 0.0 * t, length + 0.0 * t  # of the step's dtype
            while start + length < _FAR:
                start, length = start + length, length * self.T_mult
                begun = nm.where(t >= start, start, begun)
                lasts = nm.where(t >= start, length, lasts)
            place = (t - begun) / lasts
        return self.eta_min + (self.value - self.eta_min) * half_cosine(place)


@dataclass(frozen=True)
class Cyclic(Schedule):
    """Triangles between ``base_lr`` and ``max_lr``.

    Args:
        base_lr: the value at the foot of a triangle, where it starts.
        max_lr: the value at its top, before ``mode`` shrinks it.
        step_size_up: steps from foot to top.
        step_size_down: steps back; None for as many as up.
        mode: ``"triangular"``, ``"triangular2"`` (each triangle half as high as the one before) or
            ``"exp_range"`` (the height times gamma**t).
        gamma: see ``mode``.
        scale_fn: a callable that takes the place of ``mode``.
        scale_mode: what ``scale_fn`` is given: the ``"cycle"`` (1, 2, ...) or the ``"iterations"`` done.
    """

    base_lr: float
    max_lr: float
    step_size_up: float = field(default=2000, kw_only=True)
    step_size_down: float | None = field(default=None, kw_only=True)
    mode: str = field(default="triangular", kw_only=True)
    gamma: float = field(default=1.0, kw_only=True)
    scale_fn: Callable[[Any], Any] | None = field(default=None, kw_only=True)
    scale_mode: str = field(default="cycle", kw_only=True)

    def __post_init__(self) -> None:
        check(self, "base_lr", self.base_lr, hint=_LEVEL)
        check(self, "max_lr", self.max_lr, hint=_LEVEL)
        check(self, "step_size_up", self.step_size_up, above=0, hint=_LENGTH)
        check(self, "step_size_down", self.step_size_down, above=0, optional=True, hint=_LENGTH)
        check_choice(self, "mode", self.mode, ("triangular", "triangular2", "exp_range"))
        check(self, "gamma", self.gamma, above=0, hint="pass the factor of one step")
        if self.scale_fn is not None:
            check_callable(self, "scale_fn", self.scale_fn, "or leave it None and choose a mode")
        check_choice(self, "scale_mode", self.scale_mode, ("cycle", "iterations"))

    def momentum(self, base_momentum: float = 0.8, max_momentum: float = 0.9) -> Cyclic:
        """The momentum that goes down while this goes up."""
        return replace(self, base_lr=max_momentum, max_lr=base_momentum)

    def at(self, t: Any, /) -> Any:
        up = float(self.step_size_up)
        down = up if self.step_size_down is None else float(self.step_size_down)
        done = quotient(t, up + down)
        x = (t - (up + down) * done) / (up + down)
        top = up / (up + down)
        height = nm.where(x <= top, x / top, (x - 1.0) / (top - 1.0))
        return self.base_lr + (self.max_lr - self.base_lr) * height * self._scale(t, 1.0 + done)

    def _scale(self, t: Any, cycle: Any) -> Any:
        if self.scale_fn is not None:
            return self.scale_fn(whole_step(cycle if self.scale_mode == "cycle" else t))
        if self.mode == "triangular":
            return 1.0
        return power(0.5, cycle - 1.0) if self.mode == "triangular2" else power(self.gamma, t)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to ``max_lr`` and down to far below the start, over ``total_steps``.

    Args:
        max_lr: the top.
        total_steps: steps of the whole cycle.
        pct_start: fraction of the steps that go up.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        div_factor: max_lr / div_factor is the start.
        final_div_factor: the start / final_div_factor is the end.
        three_phase: down to the start as fast as up, before the end.
    """

    max_lr: float
    total_steps: int
    pct_start: float = field(default=0.3, kw_only=True)
    anneal_strategy: str = field(default="cos", kw_only=True)
    div_factor: float = field(default=25.0, kw_only=True)
    final_div_factor: float = field(default=1e4, kw_only=True)
    three_phase: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check(self, "max_lr", self.max_lr, hint=_LEVEL)
        check(self, "total_steps", self.total_steps, at_least=1, whole=True, hint=_LENGTH)
        most = 0.5 if self.three_phase else 1.0
        check(self, "pct_start", self.pct_start, at_least=0, at_most=most, hint="pass a fraction")
        check_choice(self, "anneal_strategy", self.anneal_strategy, ("cos", "linear"))
        check(self, "div_factor", self.div_factor, above=0, hint="pass max_lr / start")
        check(self, "final_div_factor", self.final_div_factor, above=0, hint="pass start / end")

    def momentum(self, base_momentum: float = 0.85, max_momentum: float = 0.95) -> OneCycle:
        """The momentum that goes from ``max_momentum`` to ``base_momentum`` and back while this goes up and down."""
        hint = "pass the lowest and the highest momentum"
        check("OneCycle.momentum", "base_momentum", base_momentum, above=0, hint=hint)
        check("OneCycle.momentum", "max_momentum", max_momentum, above=0, hint=hint)
        ratio = base_momentum / max_momentum
        return replace(self, max_lr=base_momentum, div_factor=ratio, final_div_factor=1.0)

    def at(self, t: Any, /) -> Any:
        start = self.max_lr / self.div_factor
        end = start / self.final_div_factor
        last, first = self.total_steps - 1.0, self.pct_start * self.total_steps - 1.0
        t = nm.minimum(t, last)
        if not self.three_phase:
            down = self._anneal(self.max_lr, end, t, first, last)
        else:
            second = 2.0 * self.pct_start * self.total_steps - 2.0
            down = nm.where(
                t <= second,
                self._anneal(self.max_lr, start, t, first, second),
                self._anneal(start, end, t, second, last),
            )
        return nm.where(t <= first, self._anneal(start, self.max_lr, t, 0.0, first), down)

    def _anneal(self, start: float, end: float, t: Any, begins: float, ends: float) -> Any:
        """From ``start`` to ``end``; at its end where it has no length."""
        part = (t - begins) / (ends - begins) if ends != begins else 0.0 * t + 1.0
        if self.anneal_strategy == "cos":
            return end + (start - end) * half_cosine(part)
        return (end - start) * part + start


@dataclass(frozen=True)
class SWAAnneal(Schedule):
    """From the value to ``swa_lr`` over ``anneal_epochs`` steps, then there: what torch calls SWALR.

    Put it behind another schedule with ``sequential``, from where averaging starts.

    Args:
        value: the value before.
        swa_lr: the value to average at.
        anneal_epochs: steps until it is reached; with 0 it is ``swa_lr`` at once.
        anneal_strategy: ``"cos"`` or ``"linear"``.
    """

    value: float = 1.0
    swa_lr: float = field(kw_only=True)
    anneal_epochs: int = field(default=10, kw_only=True)
    anneal_strategy: str = field(default="cos", kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        check(self, "swa_lr", self.swa_lr, hint=_LEVEL)
        check(self, "anneal_epochs", self.anneal_epochs, at_least=0, whole=True, hint=_LENGTH)
        check_choice(self, "anneal_strategy", self.anneal_strategy, ("cos", "linear"))

    def at(self, t: Any, /) -> Any:
        part = nm.minimum(t / self.anneal_epochs, 1.0) if self.anneal_epochs else 0.0 * t + 1.0
        left = half_cosine(part) if self.anneal_strategy == "cos" else 1.0 - part
        return self.swa_lr * (1.0 - left) + self.value * left
