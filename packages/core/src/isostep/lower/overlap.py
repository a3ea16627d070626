"""Whether any two arrays of a list share memory: by address and size, and exactly where they have gaps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

#: What is said of two that do, after the rule's name.
SHARES = "a parameter or state array shares memory with another array; pass copies"
#: What NumPy may try for a pair of arrays (it is an integer program); a pair that takes more is let pass.
WORK = 1 << 20


@dataclass(eq=False)
class Spread:
    """An array whose elements do not lie one after another; ``strides`` and an element's ``size`` in bytes."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    size: int

    def __post_init__(self) -> None:
        reach = [s * (n - 1) for n, s in zip(self.shape, self.strides, strict=True)]
        self.start = self.address + sum(s for s in reach if s < 0)
        self.end = self.address + sum(s for s in reach if s > 0) + self.size
        if not math.prod(self.shape):
            self.start = self.end = self.address

    @property
    def __array_interface__(self) -> dict[str, Any]:
        where = {"data": (self.address, False), "shape": self.shape, "strides": self.strides}
        return {"version": 3, "typestr": f"|V{self.size}", **where}

    @cached_property
    def places(self) -> np.ndarray:
        """For NumPy to compare with others. Nobody reads there: it may be a device's memory."""
        return np.asarray(self)

    def meets(self, other: Spread) -> bool:
        """Whether an element of it shares memory with one of the other's."""
        if self.end <= other.start or other.end <= self.start:
            return False
        try:
            found = np.shares_memory(self.places, other.places, max_work=WORK)  # type: ignore[arg-type]
        except np.exceptions.TooHardError:
            return False
        return bool(found)


def spread(array: Any, address: int) -> Spread:
    """A NumPy or CuPy array, or a tensor, whose first element lies there."""
    size = array.itemsize
    known = hasattr(array, "strides")  # else it is a tensor
    steps = array.strides if known else [s * size for s in array.stride()]
    return Spread(address, tuple(array.shape), tuple(steps), size)


class Written:
    """Arrays that are written to, by where they begin; empty ones share nothing.

    ``overlap``: whether two of them share memory.
    """

    def __init__(
        self, addresses: np.ndarray, sizes: np.ndarray, spreads: Sequence[Spread] = ()
    ) -> None:
        """Those that lie flat, ``sizes`` in bytes; and others."""
        live = sizes > 0
        starts, ends = addresses[live], (addresses + sizes)[live]
        order = np.argsort(starts, kind="stable")
        self.starts, self.ends = starts[order], ends[order]
        self.overlap = bool((self.starts[1:] < self.ends[:-1]).any())
        self.spreads = [s for s in spreads if s.end > s.start]
        if self.spreads and not self.overlap:
            self.overlap = _any_meet([*self.spreads, *self._among(self.starts, self.ends)])

    def _among(self, starts: np.ndarray, ends: np.ndarray) -> list[Spread]:
        """Those flat arrays that may share memory with one that does not lie flat."""
        first, last = min(s.start for s in self.spreads), max(s.end for s in self.spreads)
        near = (starts < last) & (ends > first)
        pairs = zip(starts[near].tolist(), ends[near].tolist(), strict=True)
        return [Spread(start, (end - start,), (1,), 1) for start, end in pairs]

    def meets(self, read: np.ndarray, sizes: np.ndarray) -> bool:
        """Whether one of them shares memory with an array that is only read, and lies flat."""
        seen = sizes > 0
        first, last = read[seen], (read + sizes)[seen]
        if self.spreads:
            some = self._among(first, last)
            if any(a.meets(s) for a in some for s in self.spreads):
                return True
        if not len(self.starts):
            return False
        # The last one that begins before the array ends.
        before = np.searchsorted(self.starts, last, "left") - 1
        return bool(((before >= 0) & (self.ends[np.maximum(before, 0)] > first)).any())


def _any_meet(some: Sequence[Spread]) -> bool:
    """Whether any two share memory, compared where they lie between one another."""
    found: list[Spread] = []
    end = 0
    for s in sorted((s for s in some if s.end > s.start), key=lambda s: s.start):
        if s.start >= end:
            if _any_pair(found):
                return True
            found = []
        found.append(s)
        end = max(end, s.end)
    return _any_pair(found)


def _any_pair(some: Sequence[Spread]) -> bool:
    # Columns of one matrix are apart already in where they begin within a row.
    rows: dict[int, list[Spread]] = defaultdict(list)
    step = math.gcd(*(d for s in some for n, d in zip(s.shape, s.strides, strict=True) if n > 1))
    size = max((s.size for s in some), default=1)
    even = step and all(s.size == size and not s.address % size for s in some) and not step % size
    for s in some:
        rows[s.address % step if even else 0].append(s)
    return any(a.meets(b) for row in rows.values() for a, b in combinations(row, 2))
