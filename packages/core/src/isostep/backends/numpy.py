"""NumPy: the reference path and the fused path on the CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from isostep.backend import Family
from isostep.execute import ArrayBackend


class NumpyReference(ArrayBackend):
    """The rule's own functions on NumPy arrays: the semantics that every other path is held to."""

    name = "numpy:reference"

    def asarray(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.array(array)

    def cast(self, array: Any, dtype: str) -> Any:
        return np.asarray(array).astype(_dtype(dtype), copy=False)

    def zeros_like(self, array: Any, dtype: str | None = None) -> np.ndarray:
        return np.zeros_like(array, dtype=None if dtype is None else _dtype(dtype))

    def scalar(self, number: float, dtype: str, like: Any) -> np.ndarray:
        return np.array(number, dtype=_dtype(dtype))

    def writable(self, array: Any) -> bool:
        return bool(array.flags.writeable)

    def quiet(self) -> AbstractContextManager[Any]:
        return np.errstate(all="ignore")


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":  # NumPy has none; the package registers it
        from ml_dtypes import bfloat16

        return np.dtype(bfloat16)
    return np.dtype(name)


def _fused() -> Any:
    from isostep.backends.fused import NumpyFused

    return NumpyFused()


family = Family("numpy", {"fused": _fused, "reference": NumpyReference}, needs={"fused": "numba"})
