"""Where NumPy arrays lie in memory, for a whole list at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from numba import njit

from isostep.lower.numba_support import loader

_word = loader("float64", 0, 1)  # eight bytes, read as they are

#: CPython's object header is two words; the next field of a NumPy array is its data pointer (part of the ABI:
#: the C macro PyArray_DATA reads it there).
_DATA = 2 * 8


@njit("void(int64[::1], float64[::1])", cache=False)
def _read(objects: np.ndarray, out: np.ndarray) -> None:
    for k in range(objects.shape[0]):
        out[k] = _word(objects[k] + 16, 0)


def _by_header(arrays: Sequence[np.ndarray]) -> np.ndarray:
    objects = np.fromiter(map(id, arrays), np.int64, len(arrays))
    out = np.empty(len(arrays))
    _read(objects, out)
    return out.view(np.int64)


def _by_interface(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.fromiter((a.ctypes.data for a in arrays), np.int64, len(arrays))


def _header_is_known() -> bool:
    """Whether the header can be read here: seen on arrays of several kinds, else the slow way is taken."""
    if sys.implementation.name != "cpython" or sys.maxsize != 2**63 - 1:
        return False
    base = np.arange(12.0)
    probes = [base, base[3:], base.reshape(3, 4)[::2, 1:], np.zeros((), np.float32), np.zeros(0)]
    return bool((_by_header(probes) == _by_interface(probes)).all())


addresses = _by_header if _header_is_known() else _by_interface
