"""Passes of programs with axes over the arrays of a stack, wherever these lie."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from functools import cache, partial

import numpy as np

from isostep.lower.addresses import addresses
from isostep.lower.axes import Axes, Pass
from isostep.lower.axes_source import ARGUMENTS, source
from isostep.lower.bins import CHUNK
from isostep.lower.cache import module
from isostep.lower.kernels import SUPPORT
from isostep.lower.objects import Function, functions
from isostep.lower.threads import SERIAL, Team
from isostep.values import Value

#: The most chunks of an array, where each has sums of its own for a row or a column.
MOST = 16
_LOCK = threading.Lock()
_LOADED: dict[str, list[Function]] = {}


def kernels(axes: Axes, dtype: str) -> list[Function]:
    """The compiled passes. Programs that differ in lengths of axes have the same ones."""
    text = _text(axes, dtype)
    with _LOCK:
        if text not in _LOADED:
            support, name = SUPPORT.read_text(), axes.program.name
            make = partial(module, "axes", name, text, support)
            stages = [f"pass{k}" for k in range(axes.count)]
            _LOADED[text] = functions(name, text + support, stages, len(ARGUMENTS), make)
        return _LOADED[text]


@cache
def _text(axes: Axes, dtype: str) -> str:
    return source(axes, dtype)


def run(
    team: Team,
    axes: Axes,
    one: Pass,
    dtype: str,
    count: int,
    *,
    table: np.ndarray,
    scalars: Sequence[float],
    columns: np.ndarray,
    at: Mapping[Value, int],
) -> dict[Value, np.ndarray]:
    """Do one pass over ``count`` arrays; its sums and maxima in float64, a row an array.

    ``table``: the addresses of each array's slots. ``columns``: its numbers. ``at``: where blocks of values lie that
    are read or kept, of ``count`` rows.
    """
    chunks, firsts = _chunks(axes, one, count)
    sums: dict[Value, np.ndarray] = {}
    facts = list(axes.sizes)
    for n in one.blocks:
        size = math.prod(axes.shape_of(n))
        if n in at:
            facts += [at[n], size]
            continue
        rows = count if axes.bits(n)[0] else len(chunks)
        first = -np.inf if n.op == "max_axis" else 0.0
        sums[n] = np.full((rows, size), first)
        facts += [sums[n].ctypes.data, size]
    tables = (
        chunks,
        np.ascontiguousarray(table, np.int64),
        np.array(scalars, np.float64),
        np.ascontiguousarray(columns, np.float64),
        np.array(facts, np.int64),
    )
    arguments = addresses(tables).tolist()
    kernel = kernels(axes, dtype)[one.index]
    total = count * math.prod(axes.shape)
    share = min(team.count(), len(chunks)) if total >= SERIAL else 1
    if share == 1:
        kernel(arguments[0], 0, len(chunks), *arguments[1:])
    else:
        cuts = [len(chunks) * k // share for k in range(share + 1)]
        team.prepared(kernel, cuts, arguments)()
    for n, found in sums.items():
        if not axes.bits(n)[0]:
            add = np.maximum if n.op == "max_axis" else np.add
            sums[n] = add.reduceat(found, firsts, axis=0)
    return sums


@cache
def _chunks(axes: Axes, one: Pass, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of (array, start, stop) along the first axis, and where each array's begin. They depend on shapes alone."""
    length = axes.sizes[0]
    rows = max(1, CHUNK // max(1, math.prod(axes.sizes[1:])))
    if any(not axes.bits(n)[0] and any(axes.bits(n)) for n in one.reduced):
        rows = max(rows, -(-length // MOST))
    starts = range(0, length, rows)
    found = [(a, i, min(i + rows, length)) for a in range(count) for i in starts]
    return np.array(found, np.int64), np.arange(count) * len(starts)
