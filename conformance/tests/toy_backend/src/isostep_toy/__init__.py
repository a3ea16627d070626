"""A backend in forty lines: NumPy arrays in a box of their own, so that nothing works by accident.

``ArrayBackend`` runs the rules; a backend says how arrays come in, go out, and are cast and written. One that
has kernels overrides ``step`` for the rules that it has them for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from isostep import ArrayBackend, BoundRule, Family, State


class Toy(ArrayBackend):
    """float32 and float64 on NumPy, returning new arrays instead of writing to those it was given."""

    name = "toy:default"
    dtypes = ("float64", "float32")
    in_place = False

    def asarray(self, array: np.ndarray) -> Any:
        return np.array(array)

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.array(array)

    def write(self, target: Any, value: Any) -> Any:
        return np.asarray(value, dtype=target.dtype)

    def quiet(self) -> Any:
        return np.errstate(all="ignore")


class Wrong(Toy):
    """Takes steps one percent too long."""

    name = "toy:wrong"

    def step(
        self, rule: BoundRule, params: Any, grads: Any, state: State, /, **inputs: Any
    ) -> tuple[Any, State]:
        new, state = super().step(rule, params, grads, state, **inputs)
        return [p + 1.01 * (q - p) for p, q in zip(params, new, strict=True)], state


family = Family("toy", {"default": Toy, "wrong": Wrong})
