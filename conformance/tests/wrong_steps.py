"""Wrong backends whose first steps are right: wrong is a later step, another count, other numbers, a store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import wrong_rules

from isostep import nm
from isostep.backends.numpy import NumpyReference
from isostep.rule import BoundRule


def _uncorrected_late(
    p: Any, g: Any, m: Any, v: Any, *top_t: Any, lr: Any, betas: Any, eps: Any, weight_decay: Any
) -> Any:
    wrong = {"t": nm.where(top_t[-1] > 500, 1e9, 0.0)}
    numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    return wrong_rules.adam(p, g, m, v, *top_t, coupled=False, wrong=wrong, **numbers)


class UncorrectedLate(wrong_rules.WrongRule):
    """Bias corrections stop after 500 steps, where 0.999**t is not zero yet."""

    def __init__(self) -> None:
        super().__init__(_uncorrected_late)


class OneCount(NumpyReference):
    """Takes every step with the first parameter's number."""

    def step(self, rule: BoundRule, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        own = list(state.t)
        params, state = super().step(
            rule, params, grads, replace(state, t=[own[0]] * len(own)), **inputs
        )
        return params, replace(
            state, t=[t + (g is not None) for t, g in zip(own, grads, strict=True)]
        )


class FirstNumbers(NumpyReference):
    """Keeps the learning rate that it was first called with, as what is compiled with it would."""

    def __init__(self) -> None:
        self.lr: dict[Any, float] = {}

    def step(self, rule: BoundRule, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        lr = self.lr.setdefault(rule.structure(), rule.values["lr"])
        return super().step(rule.replace(lr=lr), params, grads, state, **inputs)


class CutsHalves(NumpyReference):
    """Drops the digits that bfloat16 has no room for instead of rounding them."""

    def write(self, target: Any, value: Any) -> Any:
        if target.dtype.itemsize == 2 and value.dtype == np.float32:
            value = (value.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        return super().write(target, value)


class ComputesInHalf(NumpyReference):
    """A step of half-precision arrays that is computed in their own dtype."""

    def compute_dtype(self, array: Any) -> str:
        return self.dtype(array)


class SomeKernels(NumpyReference):
    """Has kernels for Adam's plain form only, and they are one percent off."""

    def path(self, rule: BoundRule) -> str:
        return "generic" if rule.values.get("amsgrad", True) else "kernels"

    def step(self, rule: BoundRule, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        if self.path(rule) == "kernels":
            rule = rule.replace(eps=1.01 * rule.values["eps"])
        return super().step(rule, params, grads, state, **inputs)
