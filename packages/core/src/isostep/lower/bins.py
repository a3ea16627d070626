"""The arrays of a step that run the same kernel: one program, one dtype."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from isostep.blocks import BLOCK
from isostep.lower.layout import Layout, layout
from isostep.lower.small import Facts
from isostep.program import Program
from isostep.state import COMPUTE_DTYPE
from isostep.storage import PLAIN, Storage

#: Elements of one chunk: large enough to hide the loop's start, small enough to share 1M elements evenly.
CHUNK = 32768
#: Bytes of an element.
WIDTH = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "uint8": 1}


@dataclass(eq=False)
class Bin:
    """The arrays of a step that share a program and a dtype. ``kinds[i]`` numbers the step count of array i."""

    program: Program
    dtype: str
    shapes: tuple[tuple[int, ...], ...]
    kinds: np.ndarray
    storage: Storage = PLAIN

    @cached_property
    def layout(self) -> Layout:
        return layout(self.program, self.dtype, self.storage)

    @cached_property
    def ordered(self) -> bool:
        """Whether it matters in which order a kernel takes the elements of an array."""
        units = any(map(self.layout.unit_axes, range(self.layout.stages)))
        return units or bool(self.program.noise)

    @cached_property
    def compute(self) -> np.dtype:
        return np.dtype(COMPUTE_DTYPE[self.dtype])

    @cached_property
    def facts(self) -> Facts:
        return Facts(self.shapes, self.compute)

    @cached_property
    def chunks(self) -> np.ndarray:
        """Rows of (array, start, stop, kind); a unit that is summed lies within one chunk."""
        sums_units = any(
            r.op == "sum_units"
            for s in range(self.layout.stages)
            for r in self.program.reductions(s)
        )
        rows = []
        axes = [a for s in range(self.layout.stages) for a in self.layout.unit_axes(s)]
        units = self.facts.units(axes[0]) if sums_units else None
        for array, shape in enumerate(self.shapes):
            size = int(np.prod(shape, dtype=np.int64))
            step = CHUNK
            if units is not None:
                inner, count = int(units[array, 0]), int(units[array, 1])
                step = inner * max(1, CHUNK // inner) if inner * count == size else max(size, 1)
            starts = range(0, size, step) if size else (0,)
            rows += [(array, i, min(i + step, size), self.kinds[array]) for i in starts]
        return np.array(rows, np.int64).reshape(-1, 4)

    @cached_property
    def first_chunks(self) -> np.ndarray:
        """Where each array's chunks begin."""
        return np.searchsorted(self.chunks[:, 0], np.arange(len(self.shapes)))

    @cached_property
    def bytes(self) -> np.ndarray:
        """How much memory each array takes, slot by slot."""
        slots, scales = self.layout.slots, self.storage.scales
        sizes = np.array([int(np.prod(s, dtype=np.int64)) for s in self.shapes], np.int64)
        blocks = -(-sizes // BLOCK)
        counts = np.stack([blocks if n in scales else sizes for n in slots], axis=1)
        return counts * np.array([WIDTH[self.layout.dtype_of(n)] for n in slots], np.int64)

    @cached_property
    def size(self) -> int:
        return sum(int(np.prod(s, dtype=np.int64)) for s in self.shapes)
