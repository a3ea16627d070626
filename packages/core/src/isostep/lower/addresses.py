"""Where NumPy arrays lie in memory, for a whole list at once."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from isostep.lower.kernels import SUPPORT
from isostep.lower.objects import functions

#: CPython's object header is two words; the next field of a NumPy array is its data pointer (part of the ABI:
#: the C macro PyArray_DATA reads it there).
_DATA = 2 * 8

(_follow,) = functions(
    "headers",
    Path(__file__).with_name("headers.py").read_text() + SUPPORT.read_text(),
    ["follow"],
    3,
    partial(importlib.import_module, "isostep.lower.headers"),
)


def _by_header(arrays: Sequence[np.ndarray]) -> np.ndarray:
    found = np.fromiter(map(id, arrays), np.int64, len(arrays))
    _follow(found.ctypes.data, len(found), _DATA)
    return found


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
