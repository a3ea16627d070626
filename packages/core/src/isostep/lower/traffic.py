"""How many bytes a fused step moves, read off the program before anything is measured."""

from __future__ import annotations

import numpy as np

from isostep.lower.layout import Layout
from isostep.program import Program


def bytes_moved(program: Program, dtype: str = "float32") -> int | None:
    """Bytes per element that a fused step loads and stores, summed over its passes; None for a generic program."""
    layout = Layout(program, dtype)
    if layout.obstacle is not None:
        return None
    loads = [
        {n.attrs[0] for n in layout.elements(s) if n.op == "input"} for s in range(layout.stages)
    ]
    loads[-1].add("p")
    return (sum(map(len, loads)) + len(layout.written)) * np.dtype(dtype).itemsize
