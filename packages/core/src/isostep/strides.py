"""Whether an array's elements lie over one another in memory, as its shape and strides say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def folded(shape: Sequence[int], strides: Sequence[int], size: int = 1) -> bool:
    """Whether two elements share memory: an array that was broadcast, expanded or windowed cannot be stepped.

    ``size`` is an element's, in the unit of ``strides``.
    """
    count, end, apart = math.prod(shape), size, True
    axes = sorted((abs(step), n) for step, n in zip(strides, shape, strict=True) if n > 1)
    for step, n in axes:
        apart = apart and step >= end
        end += step * (n - 1)
    if apart or not count:
        return False
    if count * size > end:  # more than there is room for
        return True
    offsets = np.zeros(
        1, np.int64
    )  # of elements that may lie between one another: seen by looking at each
    for step, n in axes:
        offsets = np.add.outer(offsets, step * np.arange(n)).ravel()
    return bool((np.diff(np.sort(offsets)) < size).any())
