"""Where NumPy arrays lie in memory, for a whole list at once."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from ctypes import c_int64
from functools import partial
from pathlib import Path

import numpy as np

from isostep.lower.kernels import SUPPORT
from isostep.lower.objects import functions

#: CPython's object header is two words; the next field of a NumPy array is its data pointer (part of the ABI:
#: the C macro PyArray_DATA reads it there).
_DATA = 2 * 8


def _by_interface(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.fromiter((a.ctypes.data for a in arrays), np.int64, len(arrays))


def _header_is_known() -> bool:
    """Whether the header can be read here: seen on arrays of several kinds, else the slow way is taken."""
    if sys.implementation.name != "cpython" or sys.maxsize != 2**63 - 1:
        return False
    base = np.arange(12.0)
    probes = [base, base[3:], base.reshape(3, 4)[::2, 1:], np.zeros((), np.float32), np.zeros(0)]
    return all(c_int64.from_address(id(a) + _DATA).value == a.ctypes.data for a in probes)


def _by_header() -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    own, make = Path(__file__).with_name("headers.py"), "isostep.lower.headers"
    text = own.read_text() + SUPPORT.read_text()
    (follow,) = functions("headers", text, ["follow"], 3, partial(importlib.import_module, make))

    def addresses(arrays: Sequence[np.ndarray]) -> np.ndarray:
        found = np.fromiter(map(id, arrays), np.int64, len(arrays))
        follow(id(found), len(arrays), _DATA)
        return found

    return addresses


addresses = _by_header() if _header_is_known() else _by_interface
