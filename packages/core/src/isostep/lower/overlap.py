"""Whether any two arrays of a list share memory, from their addresses and sizes."""

from __future__ import annotations

import numpy as np


def overlap(
    written: np.ndarray, written_bytes: np.ndarray, read: np.ndarray, read_bytes: np.ndarray
) -> bool:
    """Whether a written array shares memory with another written or read one (empty arrays share nothing)."""
    live, seen = written_bytes > 0, read_bytes > 0
    starts, ends = written[live], (written + written_bytes)[live]
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    if (starts[1:] < ends[:-1]).any():
        return True
    first, last = read[seen], (read + read_bytes)[seen]
    before = (
        np.searchsorted(starts, last, "left") - 1
    )  # the last written array that begins before the end
    return (
        bool(((before >= 0) & (ends[np.maximum(before, 0)] > first)).any())
        if len(starts)
        else False
    )
