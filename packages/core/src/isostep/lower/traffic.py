"""How many bytes a fused step moves, read off the program before anything is measured."""

from __future__ import annotations

from isostep.blocks import BLOCK
from isostep.lower.axes import Axes
from isostep.lower.bins import WIDTH
from isostep.lower.layout import layout
from isostep.program import UPDATE, Program
from isostep.storage import PLAIN, Storage


def bytes_moved(program: Program, dtype: str = "float32", storage: Storage = PLAIN) -> float | None:
    """Bytes per element that a fused step loads and stores, summed over its passes; None for a generic program."""
    found = layout(program, dtype, storage)
    if found.obstacle is not None:
        return None
    loads = [
        {n.attrs[0] for n in found.elements(s) if n.op == "input"} for s in range(found.stages)
    ]
    if UPDATE in program.outputs:
        loads[-1].add("p")
    touched = [slot for some in (*loads, found.written) for slot in some]
    blocks = sum(slot in storage.scales for slot in touched)
    blocks += sum(slot in storage.packed for some in loads for slot in some)
    whole = [slot for slot in touched if slot not in storage.scales]
    bytes_ = sum(WIDTH[found.dtype_of(slot)] for slot in whole)
    return bytes_ + blocks / BLOCK if blocks else bytes_


def bytes_in_passes(axes: Axes, dtype: str = "float32") -> int:
    """Bytes per element that passes load and store; without what has fewer elements, or is done between passes."""
    touched = 0
    for one in axes.passes:
        read = {n.attrs[0] for n in one.inputs}
        if one.last:
            read |= {"p"} if UPDATE in axes.program.outputs else set()
            touched += len(axes.stores)
        blocks = sum(all(axes.bits(n)) for n in (*one.stacks, *one.kept))
        touched += len(read) + blocks
    return touched * WIDTH[dtype]
