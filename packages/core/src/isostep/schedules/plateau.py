"""Lowering a value when a figure has stopped improving.

It depends on what was measured and so is no function of the step: the state is explicit.

    plateau = ReduceLROnPlateau(factor=0.5, patience=2)
    state = plateau.init(0.1)
    state = plateau.update(state, loss)        after each evaluation
    rule = rule.replace(lr=state.value)

Follows: torch.optim.lr_scheduler.ReduceLROnPlateau of 2.13.
Departs:
    - State is a tuple of numbers that is handed in and out, never kept: to resume is to keep the tuple.
      It may be traced (jax.jit): nothing decides by a value.
    - One value; for several, keep a state for each.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, NamedTuple

from isostep import nm
from isostep.schedules.base import check, check_choice


class PlateauState(NamedTuple):
    """The value now, the best figure so far, evaluations without a better one, and those of cooldown left."""

    value: Any
    best: Any
    bad: Any
    cooldown: Any


@dataclass(frozen=True)
class ReduceLROnPlateau:
    """Multiplies a value by ``factor`` when more than ``patience`` evaluations brought nothing better.

    Args:
        mode: ``"min"`` where lower figures are better, else ``"max"``.
        factor: what the value is multiplied by, below 1.
        patience: evaluations without improvement that are let pass.
        threshold: how much better counts as better.
        threshold_mode: ``"rel"`` for a fraction of the best figure, else ``"abs"``.
        cooldown: evaluations after a reduction that are not counted.
        min_lr: the value never goes below this.
        eps: a reduction by no more than this is left undone.

    Raises:
        TypeError, ValueError: an argument is out of its range.
    """

    mode: str = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_choice(self, "mode", self.mode, ("min", "max"))
        check_choice(self, "threshold_mode", self.threshold_mode, ("rel", "abs"))
        check(self, "factor", self.factor, at_least=0, hint="pass a factor below 1")
        if self.factor >= 1:
            message = (
                f"ReduceLROnPlateau: factor must be in [0, 1), got {self.factor!r}; it reduces"
            )
            raise ValueError(message)
        for name in ("patience", "cooldown"):
            hint = "pass a number of evaluations"
            check(self, name, getattr(self, name), at_least=0, whole=True, hint=hint)
        for name in ("threshold", "min_lr", "eps"):
            check(self, name, getattr(self, name), at_least=0, hint="pass 0 for none")

    def init(self, value: Any, /) -> PlateauState:
        """The state before the first evaluation."""
        if isinstance(value, int | float):
            check(self, "value", value, hint="pass the value to reduce, such as the lr")
            value = float(value)
        return PlateauState(value, math.inf if self.mode == "min" else -math.inf, 0, 0)

    def update(self, state: PlateauState, figure: Any, /) -> PlateauState:
        """The state after an evaluation; a figure of NaN is not better than anything.

        Raises:
            TypeError: the state is none of ``init`` or ``update``, or the figure is no number.
        """
        if not isinstance(state, tuple | list) or len(state) != len(PlateauState._fields):
            message = f"ReduceLROnPlateau: state must come from init or update, got {state!r}"
            raise TypeError(message)
        state = PlateauState(*state)
        if isinstance(figure, numbers.Real) and not isinstance(figure, bool):
            figure = float(figure)
        elif not hasattr(figure, "__truediv__") or isinstance(figure, bool):
            message = f"ReduceLROnPlateau: figure must be a number, got {figure!r}; pass what was measured"
            raise TypeError(message)
        better = self._better(figure, state.best)
        best = nm.where(better, figure, state.best)
        bad = nm.where(better, 0 * state.bad, state.bad + 1)
        cooling = state.cooldown > 0
        bad = nm.where(cooling, 0 * bad, bad)
        cooldown = nm.where(cooling, state.cooldown - 1, state.cooldown)
        over = bad > self.patience
        lower = nm.maximum(state.value * self.factor, self.min_lr)
        worth = nm.where(over, state.value - lower, 0.0 * state.value) > self.eps
        return PlateauState(
            nm.where(worth, lower, state.value),
            best,
            nm.where(over, 0 * bad, bad),
            nm.where(over, 0 * cooldown + self.cooldown, cooldown),
        )

    def _better(self, figure: Any, best: Any) -> Any:
        sign = 1.0 if self.mode == "max" else -1.0
        if self.threshold_mode == "rel":
            return sign * figure > sign * (best * (1.0 + sign * self.threshold))
        return sign * figure > sign * (best + sign * self.threshold)
