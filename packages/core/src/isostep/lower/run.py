"""One fused step over arrays that are known by address: plans, chunks, threads, stages.

NumPy and (through ``data_ptr``) torch on the CPU share this. What a step is made of belongs to a plan and is kept
while their addresses stay the same; a step then costs the passes and a few dozen microseconds. That is counted in
lines of Python as well: after passes over hundreds of megabytes none of them is in the processor's caches any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """Steps over bins: the passes of each stage, then what lies between it and the next."""

    def __init__(
        self,
        bins: Sequence[tuple[Bin, np.ndarray]],
        group_dtype: np.dtype,
        team: Team = POOL,
    ) -> None:
        """``bins`` with their pointer tables, in which addresses may change from step to step."""
        self.group_dtype = group_dtype
        self.runs = [_Run(b, table, group_dtype, team) for b, table in bins]
        self.stages = max(len(r.passes) for r in self.runs)

    @np.errstate(all="ignore")  # values of the group are NumPy's, whatever the arrays are
    def run(
        self,
        hypers: Sequence[tuple[int, Mapping[str, Any]]],
        group_hyper: tuple[int, Mapping[str, Any]],
        group: dict[str, Any],
    ) -> dict[str, Any]:
        """Do one; the group's new state. ``hypers[kind]`` = (t, values); ``group`` = the group's state."""
        for r in self.runs:
            r.begin(hypers, group_hyper, group)
        for stage in range(self.stages):
            for r in self.runs:
                if stage < len(r.passes):
                    r.launch(r.passes[stage])
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

    def __init__(self, bin: Bin, table: np.ndarray, group_dtype: np.dtype, team: Team) -> None:
        self.bin, self.group_dtype = bin, group_dtype
        compiled = kernels(bin.program, bin.dtype, bin.storage)
        self.passes = [_Pass(bin, table, k, kernel, team) for k, kernel in enumerate(compiled)]
        self.kinds: list[dict[Value, Any]] = []
        self.small = Small(bin.facts, self._per_array, {}, group_dtype)
        self.group_sums: dict[Value, Any] = {}
        self.seen: np.ndarray | None = None  # an observed rule's sums, chunk by chunk

    def begin(self, hypers: Any, group_hyper: Any, group: Mapping[str, Any]) -> None:
        """Take the numbers of a step."""
        program, make = self.bin.program, self.group_dtype.type
        self.kinds = [scalars.evaluate(program, h, t) for t, h in hypers]
        known: dict[Value, Any] = {}
        if program.group_inputs:
            t, hyper = group_hyper
            shared = scalars.evaluate(program, hyper, t, scope="group")
            numbers = {n: v for n, v in shared.items() if n.scope == "group"}
            known = {n: v if isinstance(v, bool) else make(v) for n, v in numbers.items()}
            states = (n for n in program.group_inputs if n.domain is Domain.GROUP)
            known |= {n: group[n.attrs[0]] for n in states}
        self.small.known = known
        self.group_sums = {}

    def _per_array(self, node: Value) -> np.ndarray:
        """A scalar of t as one value per array."""
        values = [k[node] for k in self.kinds]
        dtype = np.dtype(bool) if isinstance(values[0], bool) else self.bin.compute
        return np.array(values, dtype)[self.bin.kinds]

    def launch(self, one: _Pass) -> None:
        """One pass over the elements of this bin, and what it sums."""
        bin, this = self.bin, one.this
        one.fill(self.kinds, self.small)
        one.call()
        if one.figures:  # nothing waits for these
            self.seen = one.sums
        for k, r in enumerate(this.sums):
            per_array = np.add.reduceat(one.sums[:, k], bin.first_chunks).astype(bin.compute)
            if r.op == "sum_group":
                self.group_sums[r] = per_array.astype(np.float64).sum()
            else:
                self.small.known[r] = per_array
        for k, r in enumerate(this.unit_sums):
            self.small.known[r] = one.unit_sums[:, k].astype(bin.compute)


class _Pass:
    """A stage's kernel with its arguments, which lie where they are from step to step, but for columns and sums."""

    def __init__(
        self, bin: Bin, table: np.ndarray, stage: int, kernel: Function, team: Team
    ) -> None:
        layout = bin.layout
        self.bin, self.kernel, self.team, self.table = bin, kernel, team, table
        self.this, self.figures = layout.passes[stage], layout.figures(stage)
        axis = self.this.axis
        self.facts = bin.facts.units(axis) if axis is not None else _NO_UNITS
        self.units = int(self.facts[:, 1].sum())
        self.scalars = self.columns = self.per_unit = self.unit_sums = _NO_COLUMNS
        self.sums = self._no_sums()
        this = self.this
        self.moves = bool(this.per_array or this.per_unit or this.unit_sums or self.figures)
        self._known: tuple[int, Callable[[], None]] | None = None  # the call, by how many threads

    def _no_sums(self) -> np.ndarray:
        width = max(len(self.this.sums), len(self.figures), 1)
        return np.zeros((len(self.bin.chunks), width))

    def fill(self, kinds: Sequence[Mapping[Value, Any]], small: Small) -> None:
        """Put a step's numbers where the kernel reads them."""
        this = self.this
        if this.scalars:
            shape = len(kinds), len(this.scalars)
            if self.scalars is _NO_COLUMNS or self.scalars.shape != shape:
                self.scalars, self._known = np.zeros(shape), None
            self.scalars[...] = [[k[n] for n in this.scalars] for k in kinds]
        if not self.moves:
            return
        self._known = None
        self.columns = _columns(small, this.per_array, len(self.bin.shapes))
        self.per_unit = _columns(small, this.per_unit, self.units)
        if self.figures:  # the last step's may still be read
            self.sums = self._no_sums()
        if this.unit_sums:
            self.unit_sums = np.zeros((self.units, len(this.unit_sums)))

    def call(self) -> None:
        """Run it on as many threads as pay."""
        chunks = self.bin.chunks
        count = min(self.team.count(), len(chunks)) if self.bin.size >= SERIAL else 1
        if self._known is None or self._known[0] != count:
            self._known = (count, self._prepared(count))
        self._known[1]()

    def _prepared(self, count: int) -> Callable[[], None]:
        """The call of the kernel, which is told where its arguments lie: int64 or float64, row by row."""
        kernel, chunks = self.kernel, self.bin.chunks
        own = (self.table, self.scalars, self.columns, self.per_unit)
        given = addresses((chunks, *own, self.facts, self.sums, self.unit_sums)).tolist()
        if count == 1:
            where, *others = given
            return lambda: kernel(where, 0, len(chunks), *others)
        # Contiguous shares of chunks, one a thread.
        done = np.cumsum(chunks[:, 2] - chunks[:, 1])
        cuts = [int(np.searchsorted(done, self.bin.size * k / count)) for k in range(1, count)]
        return self.team.prepared(kernel, [0, *cuts, len(chunks)], given)


def _columns(small: Small, nodes: list[Value], rows: int) -> np.ndarray:
    if not nodes:
        return _NO_COLUMNS
    found = [np.broadcast_to(np.asarray(small[n], np.float64), (rows,)) for n in nodes]
    return np.ascontiguousarray(np.stack(found, axis=1))
