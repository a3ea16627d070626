"""Passes of programs with axes on a device: an array is cut into tiles, one for each block of a launch.

A tile has a power of two of places along each axis that loops would go along, those beyond an array's end empty.
What a pass reduces a tile reduces: to a number for each place along the axes that the result has. These go to
places of their own in a block of float64, which has the results' axes, and along each other axis as many places as
there are tiles; the framework adds up along those. So the order of a sum depends on shapes alone, and nothing waits.

A launch is given one table of int64, ``Columns`` says what lies where in it: lengths, addresses, and the bits of
numbers. Tiles are numbered array by array, within an array the last axis' first; indices and sizes have 64 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from isostep import nm
from isostep.lower.axes import Axes, Pass
from isostep.values import Value

if TYPE_CHECKING:
    from isostep.lower.executor import Device

#: Places of a tile, and of these along the last axis while others need some.
ROOM, LINE = 1024, 64

#: A compiled pass: ``launch(blocks, table, lengths)``, a block for each tile, and the tile's lengths.
PassLaunch = Callable[[int, Any, tuple[int, ...]], None]


@dataclass(frozen=True)
class Tiles:
    """How arrays are cut: places of a tile (powers of two) and how many tiles, along each axis."""

    lengths: tuple[int, ...]
    counts: tuple[int, ...]


@cache
def tiles(sizes: tuple[int, ...], room: int = ROOM) -> Tiles:
    """Tiles of ``room`` places at most, long along the last axis, where elements are neighbours."""
    wanted = [1 << (n - 1).bit_length() for n in sizes]
    lengths, left = [1] * len(sizes), room
    for k in reversed(range(len(sizes))):
        most = LINE if k == len(sizes) - 1 > 0 else left
        lengths[k] = min(wanted[k], most, left)
        left //= lengths[k]
    lengths[-1] = min(wanted[-1], lengths[-1] * left)
    return Tiles(tuple(lengths), tuple(-(-n // b) for n, b in zip(sizes, lengths, strict=True)))


@dataclass(frozen=True)
class Columns:
    """Where in the table of a pass what lies; K is the number of axes.

    sizes, logs, counts: K numbers each: the axes' lengths, the binary logarithms of a tile's, and tiles along each.
    columns: the address of the block of ``Pass.columns``: float64, a row for each array.
    blocks: the addresses of ``Pass.blocks``: what is read or kept in the dtype of arithmetic, ``reduced`` in float64.
    scalars: the bits of ``Pass.scalars``, float64.
    slots: the addresses of ``Pass.slots``, a row for each array.
    """

    sizes: int
    logs: int
    counts: int
    columns: int
    blocks: int
    scalars: int
    slots: int


@cache
def columns(axes: Axes, one: Pass) -> Columns:
    """Where in the table of a pass what lies."""
    k = len(axes.groups)
    blocks = 3 * k + 1
    scalars = blocks + len(one.blocks)
    return Columns(0, k, 2 * k, 3 * k, blocks, scalars, scalars + len(one.scalars))


def partial_shape(axes: Axes, node: Value, cut: Tiles) -> tuple[int, ...]:
    """The shape of one array's part of the block of something reduced: lengths of its axes, numbers of tiles."""
    each = zip(axes.bits(node), axes.sizes, cut.counts, strict=True)
    return tuple(size if own else count for own, size, count in each)


def run(
    device: Device,
    axes: Axes,
    one: Pass,
    dtype: str,
    count: int,
    *,
    table: np.ndarray,
    scalars: Sequence[float],
    columns: int,
    at: Mapping[Value, int],
) -> dict[Value, Any]:
    """Do one pass over ``count`` arrays; its sums and maxima in float64, a row an array.

    ``table``: the addresses of each array's slots. ``columns``: where its numbers lie, a row each. ``at``: where
    blocks of values lie that are read or kept, of ``count`` rows.
    """
    cut = tiles(axes.sizes)
    shapes = {n: (count, *partial_shape(axes, n, cut)) for n in one.reduced}
    partials = {n: device.buffer(math.prod(shape), "float64") for n, shape in shapes.items()}
    places = dict(at) | {n: device.address(b) for n, b in partials.items()}
    logs = [b.bit_length() - 1 for b in cut.lengths]
    head = [*axes.sizes, *logs, *cut.counts, columns, *(places[n] for n in one.blocks)]
    numbers = np.array(scalars, np.float64).view(np.int64)
    values = np.concatenate([np.array(head, np.int64), numbers, np.ravel(table).astype(np.int64)])
    given = device.buffer(len(values), "int64")
    device.upload(given, values)
    device.passes(axes, dtype)[one.index](count * math.prod(cut.counts), given, cut.lengths)
    return {n: _joined(axes, n, buffer, shapes[n]) for n, buffer in partials.items()}


def _joined(axes: Axes, node: Value, buffer: Any, shape: tuple[int, ...]) -> Any:
    """What tiles have found, put together along the axes that the result has not."""
    xp = nm.namespace(buffer)
    found = xp.reshape(buffer, shape)
    along = tuple(k + 1 for k, own in enumerate(axes.bits(node)) if not own and shape[k + 1] > 1)
    if along:
        found = (xp.max if node.op == "max_axis" else xp.sum)(found, axis=along)
    return xp.reshape(found, (shape[0], -1))
