"""Whether any two arrays of a list share memory, from their addresses and sizes."""

from __future__ import annotations

import numpy as np


class Written:
    """Arrays that are written to, by where they begin; empty ones share nothing.

    ``overlap``: whether two of them share memory.
    """

    def __init__(self, addresses: np.ndarray, sizes: np.ndarray) -> None:
        """``sizes`` in bytes."""
        live = sizes > 0
        starts, ends = addresses[live], (addresses + sizes)[live]
        order = np.argsort(starts, kind="stable")
        self.starts, self.ends = starts[order], ends[order]
        self.overlap = bool((self.starts[1:] < self.ends[:-1]).any())

    def meets(self, read: np.ndarray, sizes: np.ndarray) -> bool:
        """Whether one of them shares memory with an array that is only read."""
        if not len(self.starts):
            return False
        seen = sizes > 0
        first, last = read[seen], (read + sizes)[seen]
        # The last one that begins before the array ends.
        before = np.searchsorted(self.starts, last, "left") - 1
        return bool(((before >= 0) & (self.ends[np.maximum(before, 0)] > first)).any())
