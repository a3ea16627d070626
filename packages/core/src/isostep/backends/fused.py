"""``numpy:fused``: one pass per stage over all arrays, compiled by Numba from the rule's program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from isostep.backends.numpy import NumpyReference
from isostep.lower.addresses import addresses
from isostep.lower.cpu import FusedCPU


class NumpyFused(FusedCPU, NumpyReference):
    """Numba kernels on NumPy arrays: the reference's bits, but for exp, log1p, cbrt, powers and the order of sums."""

    name = "numpy:fused"

    def addressable(self, array: Any) -> bool:
        # NumPy's scalars are not: they have no array header to read an address from.
        return isinstance(array, np.ndarray) and array.flags.c_contiguous

    def stand_in(self, array: Any) -> np.ndarray:
        return np.empty(np.shape(array), array.dtype)

    def addresses(self, arrays: Sequence[Any]) -> np.ndarray:
        return addresses(arrays)
