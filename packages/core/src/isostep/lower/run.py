"""One fused step over arrays that are known by address: plans, chunks, threads, stages.

NumPy and (through ``data_ptr``) torch on the CPU share this. A plan belongs to a list of arrays and is kept while
their addresses stay the same; a step then costs the passes and a few dozen microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from isostep import scalars
from isostep.lower.addresses import addresses
from isostep.lower.bins import Bin
from isostep.lower.kernels import kernels
from isostep.lower.objects import Function
from isostep.lower.small import Small
from isostep.lower.threads import POOL, SERIAL, Team
from isostep.values import Domain, Value

_NO_UNITS, _NO_COLUMNS = np.zeros((1, 3), np.int64), np.zeros((1, 1))


class Step:
    """One step over bins: the passes of each stage, then what lies between it and the next."""

    def __init__(
        self,
        bins: Sequence[tuple[Bin, np.ndarray]],
        hypers: Sequence[tuple[int, Mapping[str, Any]]],
        group_hyper: tuple[int, Mapping[str, Any]],
        group: dict[str, Any],
        group_dtype: np.dtype,
        team: Team = POOL,
    ) -> None:
        """``bins`` with their pointer tables; ``hypers[kind]`` = (t, values); ``group`` = the group's state."""
        self.group_dtype = group_dtype
        self.group = group
        self.team = team
        self.runs = [_Run(b, table, hypers, group_hyper, group, group_dtype) for b, table in bins]

    @np.errstate(all="ignore")  # values of the group are NumPy's, whatever the arrays are
    def run(self) -> dict[str, Any]:
        """Do it; the group's new state."""
        for stage in range(max(r.bin.layout.stages for r in self.runs)):
            for r in self.runs:
                r.launch(stage, self.team)
            self._combine(stage)
        first = self.runs[0]
        return {
            n: self.group_dtype.type(first.small[v])
            for n, v in first.bin.program.group_outputs.items()
        }

    def _combine(self, stage: int) -> None:
        """Sums over the group are sums over all bins, in order; ``layout.obstacle``: all take the same at a stage."""
        first = self.runs[0].bin.program
        for name, node in first.group_sums.items():
            if first.stage[node] != stage:
                continue
            own = [r.bin.program.group_sums[name] for r in self.runs]
            total = sum(r.group_sums[x] for r, x in zip(self.runs, own, strict=True))
            for r, x in zip(self.runs, own, strict=True):
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
        self.passes = kernels(program, bin.dtype, bin.storage)
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

    def launch(self, stage: int, team: Team) -> None:
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
        _spread(team, self.passes[stage], chunks, bin.size, arguments)
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


def _spread(
    team: Team, kernel: Function, chunks: np.ndarray, size: int, tables: Sequence[np.ndarray]
) -> None:
    """Contiguous shares of chunks, one a thread, where there is enough to do.

    A kernel is told where the chunks and tables lie, so they are int64 or float64, row by row, as the text has them.
    """
    given = addresses((chunks, *tables)).tolist()
    count = min(team.count(), len(chunks)) if size >= SERIAL else 1
    if count == 1:
        where, *others = given
        kernel(where, 0, len(chunks), *others)
        return
    done = np.cumsum(chunks[:, 2] - chunks[:, 1])
    cuts = [int(np.searchsorted(done, size * k / count)) for k in range(1, count)]
    team.run(kernel, [0, *cuts, len(chunks)], given)
