"""NumPy: the reference path and the fused path on the CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from isostep.backend import Family
from isostep.execute import ArrayBackend
from isostep.extras import need
from isostep.strides import folded


class NumpyReference(ArrayBackend):
    """The rule's own functions on NumPy arrays: the semantics that every other path is held to."""

    name = "numpy:reference"

    def asarray(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.array(array)

    def cast(self, array: Any, dtype: str) -> Any:
        return np.asarray(array).astype(numpy_dtype(dtype), copy=False)

    def zeros_like(self, array: Any, dtype: str | None = None) -> np.ndarray:
        return np.zeros_like(array, dtype=None if dtype is None else numpy_dtype(dtype))

    def scalar(self, number: float, dtype: str, like: Any) -> np.ndarray:
        return np.array(number, dtype=numpy_dtype(dtype))

    def writable(self, array: Any) -> bool:
        return bool(array.flags.writeable)

    def folded(self, array: Any) -> bool:
        return folded(array.shape, array.strides, array.itemsize)

    def views(self, value: Any, array: Any) -> bool:
        return bool(np.may_share_memory(value, array))

    def quiet(self) -> AbstractContextManager[Any]:
        return np.errstate(all="ignore")


def numpy_dtype(name: str) -> np.dtype:
    """NumPy's dtype of this name; NumPy has no bfloat16 of its own, ml_dtypes brings it."""
    if name == "bfloat16":
        return np.dtype(need("ml_dtypes", "halves", "a bfloat16 NumPy array").bfloat16)
    return np.dtype(name)


def _fused() -> Any:
    from isostep.backends.fused import NumpyFused

    return NumpyFused()


family = Family("numpy", {"fused": _fused, "reference": NumpyReference}, needs={"fused": "numba"})
