"""One fused step over arrays that are known by address: plans, chunks, threads, stages.

NumPy and (through ``data_ptr``) torch on the CPU share this. A plan belongs to a list of arrays and is kept while
their addresses stay the same; a step then costs the passes and a few dozen microseconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from isostep import scalars
from isostep.lower.addresses import addresses
from isostep.lower.bins import Bin
from isostep.lower.kernels import kernels
from isostep.lower.small import Small
from isostep.values import Domain, Value

#: Below this many elements in all, waking a second thread costs more than it saves.
SERIAL = 60_000


def threads() -> int:
    """How many threads a step may use: ``ISOSTEP_NUM_THREADS``, else every core this process may run on."""
    named = os.environ.get("ISOSTEP_NUM_THREADS")
    if named:
        return max(1, int(named))
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(allowed(0)) if allowed else os.cpu_count() or 1


_NO_UNITS, _NO_COLUMNS = np.zeros((1, 3), np.int64), np.zeros((1, 1))

_pool: tuple[int, int, ThreadPoolExecutor] | None = None


def _workers(count: int) -> ThreadPoolExecutor:
    """A pool of ``count`` threads of this process (a forked child has none of its parent's)."""
    global _pool
    if _pool is None or _pool[:2] != (os.getpid(), count):
        _pool = (os.getpid(), count, ThreadPoolExecutor(count, thread_name_prefix="isostep"))
    return _pool[2]


class Step:
    """One step over bins: the passes of each stage, then what lies between it and the next."""

    def __init__(
        self,
        bins: Sequence[tuple[Bin, np.ndarray]],
        hypers: Sequence[tuple[int, Mapping[str, Any]]],
        group_hyper: tuple[int, Mapping[str, Any]],
        group: dict[str, Any],
        group_dtype: np.dtype,
    ) -> None:
        """``bins`` with their pointer tables; ``hypers[kind]`` = (t, values); ``group`` = the group's state."""
        self.group_dtype = group_dtype
        self.group = group
        self.runs = [_Run(b, table, hypers, group_hyper, group, group_dtype) for b, table in bins]

    @np.errstate(all="ignore")  # values of the group are NumPy's, whatever the arrays are
    def run(self) -> dict[str, Any]:
        """Do it; the group's new state."""
        for stage in range(max(r.bin.layout.stages for r in self.runs)):
            for r in self.runs:
                r.launch(stage)
            self._combine(stage)
        first = self.runs[0]
        return {
            n: self.group_dtype.type(first.small[v])
            for n, v in first.bin.program.group_outputs.items()
        }

    def _combine(self, stage: int) -> None:
        """Sums over the group are sums over all bins, in order."""
        names = [
            [x for x in r.bin.program.reductions(stage) if x.op == "sum_group"] for r in self.runs
        ]
        for same in zip(*names, strict=True):
            total = sum(r.group_sums[x] for r, x in zip(self.runs, same, strict=True))
            for r, x in zip(self.runs, same, strict=True):
                r.small.known[x] = self.group_dtype.type(total)


class _Run:
    """One bin's part of a step."""

    def __init__(
        self,
        bin: Bin,
        table: np.ndarray,
        hypers: Any,
        group_hyper: Any,
        group: dict[str, Any],
        group_dtype: np.dtype,
    ) -> None:
        self.bin, self.table = bin, table
        program = bin.program
        self.passes = kernels(program, bin.dtype)
        self.kinds = [scalars.evaluate(program, h, t) for t, h in hypers]
        known: dict[Value, Any] = {}
        if program.group_inputs:
            t, hyper = group_hyper
            shared = scalars.evaluate(program, hyper, t, scope="group")
            numbers = {n: v for n, v in shared.items() if n.scope == "group"}
            known = {
                n: v if isinstance(v, bool) else group_dtype.type(v) for n, v in numbers.items()
            }
            states = (n for n in program.group_inputs if n.domain is Domain.GROUP)
            known |= {n: group[n.attrs[0]] for n in states}
        self.small = Small(bin.facts, self._per_array, known, group_dtype)
        self.group_sums: dict[Value, Any] = {}
        self.seen: np.ndarray | None = None  # an observed rule's sums, chunk by chunk

    def _per_array(self, node: Value) -> np.ndarray:
        """A scalar of t as one value per array."""
        values = [k[node] for k in self.kinds]
        dtype = np.dtype(bool) if isinstance(values[0], bool) else self.bin.compute
        return np.array(values, dtype)[self.bin.kinds]

    def launch(self, stage: int) -> None:
        """One pass over the elements of this bin, on as many threads as pay."""
        bin, layout = self.bin, self.bin.layout
        if stage >= layout.stages:
            return
        this, chunks = layout.passes[stage], bin.chunks
        facts = bin.facts.units(this.axis) if this.axis is not None else _NO_UNITS
        units = int(facts[:, 1].sum())
        figures = layout.figures(stage)
        sums = np.zeros((len(chunks), max(len(this.sums), len(figures), 1)))
        unit_sums = np.zeros((units, max(len(this.unit_sums), 1)))
        scalars_of = [[float(k[n]) for n in this.scalars] or [0.0] for k in self.kinds]
        arguments = (
            self.table,
            np.array(scalars_of),
            self._columns(this.per_array, len(bin.shapes)),
            self._columns(this.per_unit, units),
            facts,
            sums,
            unit_sums,
        )
        _spread_over_threads(self.passes[stage], chunks, bin.size, arguments)
        if figures:  # nothing waits for these
            self.seen = sums
        for k, r in enumerate(this.sums):
            per_array = np.add.reduceat(sums[:, k], bin.first_chunks).astype(bin.compute)
            if r.op == "sum_group":
                self.group_sums[r] = per_array.astype(np.float64).sum()
            else:
                self.small.known[r] = per_array
        for k, r in enumerate(this.unit_sums):
            self.small.known[r] = unit_sums[:, k].astype(bin.compute)

    def _columns(self, nodes: list[Value], rows: int) -> np.ndarray:
        if not nodes:
            return _NO_COLUMNS
        found = [np.broadcast_to(np.asarray(self.small[n], np.float64), (rows,)) for n in nodes]
        return np.ascontiguousarray(np.stack(found, axis=1))


def _spread_over_threads(
    kernel: Callable[..., None], chunks: np.ndarray, size: int, tables: Sequence[np.ndarray]
) -> None:
    """Contiguous shares of chunks, one a thread; the shares never change a result, only who computes it.

    A kernel is told where the chunks and tables lie, so they are int64 or float64, row by row, as the text has them.
    """
    where, *arguments = addresses((chunks, *tables)).tolist()
    count = min(threads(), len(chunks)) if size >= SERIAL else 1
    if count == 1:
        kernel(where, 0, len(chunks), *arguments)
        return
    done = np.cumsum(chunks[:, 2] - chunks[:, 1])
    cuts = [
        0,
        *(int(np.searchsorted(done, size * k / count)) for k in range(1, count)),
        len(chunks),
    ]
    pool = _workers(count - 1)
    waiting = [
        pool.submit(kernel, where, cuts[k], cuts[k + 1], *arguments) for k in range(1, count)
    ]
    kernel(where, cuts[0], cuts[1], *arguments)
    for each in waiting:
        each.result()
