"""The kernels that know no rule: sums of partial sums, the group's new values to where the old ones are, counts."""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (Triton compiles these functions; an annotation would be a type of its own.)

from __future__ import annotations

import triton.language as tl

from isostep_torch.triton_support import item, kernel, pointer, total


@kernel
def reduce(partials, spans, sums, totals, arrays, width, columns, BLOCK: tl.constexpr):
    """Block a < arrays adds the rows of array a, the last block all rows."""
    array = tl.program_id(0).to(tl.int64)
    first = tl.where(array < arrays, item(spans, array), 0)
    last = item(spans, tl.minimum(array + 1, arrays))
    lane = tl.arange(0, BLOCK)
    for k in range(columns):
        some = tl.full((BLOCK,), 0, tl.float64)
        for tile in range((last - first + BLOCK - 1) // BLOCK):
            row = first + tile * BLOCK + lane
            some += tl.load(partials + row * width + k, mask=row < last, other=0)
        if array < arrays:
            tl.store(sums + array * width + k, total(some, 0))
        else:
            tl.store(totals + k, total(some, 0))


@kernel
def commit(group, group_new, values, DTYPE: tl.constexpr):
    """Write the group's new values, in the group's dtype."""
    for k in range(values):
        tl.store(pointer(group, k, DTYPE, False), item(group_new, k).to(DTYPE))


@kernel
def commit_if_taken(group, group_new, values, amp, DTYPE: tl.constexpr):
    """``commit``, unless the step must change nothing."""
    if item(amp, 1) == 0:
        for k in range(values):
            tl.store(pointer(group, k, DTYPE, False), item(group_new, k).to(DTYPE))


@kernel
def advance(times, count, amp, LANES: tl.constexpr):
    """One more step in each count, unless the step must change nothing."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = lane < count
    at = tl.load(times + lane, mask=inside, other=0).to(tl.pointer_type(tl.float32))
    taken = (item(amp, 1) == 0).to(tl.float32)
    tl.store(at, tl.load(at, mask=inside, other=0) + taken, mask=inside)
