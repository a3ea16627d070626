"""The arrays of a step that run the same kernel: one program, one dtype."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from isostep.lower.layout import Layout, layout
from isostep.lower.small import Facts
from isostep.program import Program
from isostep.state import COMPUTE_DTYPE

#: Elements of one chunk: large enough to hide the loop's start, small enough to share 1M elements evenly.
CHUNK = 32768


@dataclass(eq=False)
class Bin:
    """The arrays of a step that share a program and a dtype. ``kinds[i]`` numbers the step count of array i."""

    program: Program
    dtype: str
    shapes: tuple[tuple[int, ...], ...]
    kinds: np.ndarray

    @cached_property
    def layout(self) -> Layout:
        return layout(self.program, self.dtype)

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
        """How much memory each array takes."""
        width = {"float64": 8, "float32": 4}.get(self.dtype, 2)
        return np.array([int(np.prod(s, dtype=np.int64)) * width for s in self.shapes], np.int64)

    @cached_property
    def size(self) -> int:
        return sum(int(np.prod(s, dtype=np.int64)) for s in self.shapes)
