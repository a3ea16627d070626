"""Programs as kernels of a device: what each one reads, computes, sums and stores, in no particular language.

A writer turns ``Kernels`` into source text (``isostep_cupy.cuda_source`` into CUDA C, a Triton writer likewise);
``lower.executor`` allocates the tables that are named here, launches, and knows no language either.

A step is one kernel per stage, ``stage0``, ``stage1``, ... Only sums travel between them, through memory: every
other value that a kernel needs it computes itself, because the passes are bound by memory traffic and a scalar or
a square root is free. So nothing is decided on the host between launches, and nothing waits for the device.

A kernel's work is cut into rows of the table ``chunks``, each (array, start, stop, kind):

=========  ============================================================================================
grid       what one row is
=========  ============================================================================================
"chunks"   elements start..stop of one array, contiguous; start is a multiple of ``CHUNK``
"units"    whole units start..stop of one array (stages that sum over units). Element r of unit u, for r in
           [0, length), length = size // count, is at ``r // inner * count * inner + u * inner + r % inner``
=========  ============================================================================================

A kernel does all ``count`` rows whatever its grid is, and writes what it sums over row k to ``partials[k]``. A unit
that an elementwise kernel only reads is that of its element: ``i // inner % count`` (``count`` of the array here).

What a kernel reads (``Kernel.arguments`` names the arguments it has, always in the order of ``ARGUMENTS``; tables
are one-dimensional buffers, written here with their rows and columns; all integers are int64, all indices may pass
2**31):

==============  =========  =====================================  ===============================================
argument        dtype      shape                                  what it holds
==============  =========  =====================================  ===============================================
``table``       int64      [arrays, Layout.width + 1]             addresses, by ``Kernels.slots`` (0 in those that this
                                                                  dtype has not); then, where there is noise, the
                                                                  parameter's number; last column: 1 if all of this
                                                                  array's addresses are multiples of 16, those
                                                                  of scales apart
``facts``       int64      [arrays, 5]                            ``FACT_COLUMNS``: size, ndim, inner, count, base;
                                                                  unit u of the array is row base + u of unit_sums
``chunks``      int64      [count, 4]                             array, start, stop, kind
``scalars``     float64    [kinds, len(Kernels.scalars)]          scalars of t; kind = the row of chunks' last column
``shared``      float64    [len(Kernels.shared)]                  scalars of the group's own t
``group``       int64      [len(Kernels.group_names)]             addresses of the group's state, 0-d, group dtype
``group_new``   float64    [len(Kernels.group_names)]             its new values, written once (see below)
``partials``    float64    [count, width]                         sums over each row, by ``Kernel.sums``' columns
``sums``        float64    [stages, arrays, width]                sums over each array, from earlier stages
``totals``      float64    [stages, width]                        sums over the group, from earlier stages
``unit_sums``   float64    [units, len(Kernels.unit_sums)]        sums over each unit
``seen``        float64    [count, len(Program.figures)]          an observed rule's sums over each row
``count``       int                                               rows of chunks
``arrays``      int                                               rows of table and facts: the stride of sums
``width``       int                                               columns of partials, sums and totals
``lead``        int                                               1 if this launch writes group_new, else 0
==============  =========  =====================================  ===============================================

Two further kernels know no rule. ``reduce`` (arguments ``REDUCE``) runs after a stage that sums over arrays or the
group, with ``arrays + 1`` blocks: block a < arrays adds rows spans[a] to spans[a + 1] of partials into sums[a], the
last one all rows into totals, for the first ``columns`` columns, in an order that depends on nothing but the
number of rows. (``sums`` and ``totals`` are given at this stage's part.) ``commit`` (arguments ``COMMIT``), one
block, writes the ``values`` values of group_new to the addresses of the group's state once all have read the old.

What ``seen`` holds is for the user and not for the step: the last pass writes it, and ``reduce`` adds it up when
somebody asks. Its products, and their sums over the elements that one thread takes, have the dtype of ``compute``.

Rounding is fixed here and not in the writers. ``compute`` is the dtype of all arithmetic on arrays, ``group_dtype``
that of values of the group (``of_group``: domain GROUP, or a scalar of scope "group"); float64 tables are rounded
once to that of the node that is read from them; a value of the group is rounded to ``compute`` where a value that
is not of the group uses it. Arrays of another dtype (``Layout.dtype_of`` a slot) are converted at the load and round
once, to nearest even or with noise (``Layout.noisy``), at the store. Of a slot in ``storage.packed`` the numbers are
float32 in blocks of eight bits (``isostep.blocks``, with the noise of ``Layout.number``): a kernel that loads or stores
one has the slot of its scales to itself, a byte for every 32 elements of the array; rows, of a grid of chunks always,
begin with a block. Sums are added up in float64. No fast
arithmetic: denormals are kept, NaN propagates, a * b + c may be contracted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

from isostep.lower.layout import Layout, layout
from isostep.program import UPDATE, Program, ancestors
from isostep.state import COMPUTE_DTYPE
from isostep.storage import PLAIN, Storage
from isostep.values import FACTS, REDUCTIONS, Domain, Value

ARGUMENTS = (
    "table", "facts", "chunks", "scalars", "shared", "group", "group_new", "partials", "sums", "totals", "unit_sums",
    "seen", "count", "arrays", "width", "lead",
)  # fmt: skip
REDUCE = ("partials", "spans", "sums", "totals", "arrays", "width", "columns")
COMMIT = ("group", "group_new", "values")
FACT_COLUMNS = ("size", "ndim", "inner", "count", "base")
#: The element type of each argument that is a buffer; the others are integers.
DTYPES = {
    **dict.fromkeys(("table", "facts", "chunks", "group", "spans"), "int64"),
    **dict.fromkeys(
        ("scalars", "shared", "group_new", "partials", "sums", "totals", "unit_sums", "seen"),
        "float64",
    ),
}
#: Elements of a row of an array of ordinary size, and the most rows that one array is cut into.
CHUNK, MOST = 4096, 4096


def of_group(node: Value) -> bool:
    """Whether the value belongs to the group, so that it has the group's dtype."""
    return node.domain is Domain.GROUP or node.scope == "group"


class Given(NamedTuple):
    """A value that a kernel reads from a table: from this column, and of ``sums`` and ``totals`` from this stage."""

    table: str
    column: int
    stage: int = 0


@dataclass(frozen=True, eq=False)
class Kernel:
    """The pass of one stage.

    given: the values read from tables, in order of evaluation (slots and facts are not among them).
    inputs: slot name -> the element node that is this array's element, for the arrays that are loaded; None where
        the element is loaded only to add the update to it.
    group, array, unit, element: the nodes to compute, in order, once per block, per row of chunks, per unit (or per
        element, which is as cheap) and per element. ``array`` holds the facts too (nodes with an op in ``FACTS``).
    sums: what to add up over a row, node -> column of ``partials``; the operand is ``node.args[0]``.
    unit_sums: what to add up over a unit, node -> column of ``unit_sums``.
    stores: slot name -> the node to store (rounded to the array's dtype); ``p`` is in it only if it is overwritten.
        Scales are not among inputs and stores: they go with the array that they are of.
    update: the node to be added to ``p``, sum stored; None if there is nothing to add.
    group_outputs: the group's new state, by index, for the launch with ``lead``.
    figures: an observed rule's sums over a row, by the column of ``seen``; of the product of ``sums.factors(node)``.
    """

    stage: int
    grid: str
    given: dict[Value, Given]
    inputs: dict[str, Value | None]
    group: list[Value]
    array: list[Value]
    unit: list[Value]
    element: list[Value]
    sums: dict[Value, int]
    unit_sums: dict[Value, int]
    stores: dict[str, Value]
    update: Value | None
    group_outputs: list[Value]
    figures: tuple[Value, ...]

    @property
    def name(self) -> str:
        return f"stage{self.stage}"

    @cached_property
    def reads_units(self) -> bool:
        """Whether an elementwise kernel needs the unit of each element."""
        return bool(self.unit) or any(g.table == "unit_sums" for g in self.given.values())

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """The names of the arguments that this kernel has, in the order of ``ARGUMENTS``."""
        tables = {g.table for g in self.given.values()}
        facts = self.grid == "units" or self.reads_units or any(n.op in FACTS for n in self.array)
        needed = {
            *("table", "chunks", "count"),
            *tables,
            *(("facts",) if facts else ()),
            *(("partials", "width") if self.sums else ()),
            *(("unit_sums",) if self.unit_sums else ()),
            *(("seen",) if self.figures else ()),
            *(("width",) if tables & {"sums", "totals"} else ()),
            *(("arrays",) if "sums" in tables else ()),
            *(("group_new", "lead") if self.group_outputs else ()),
        }
        return tuple(a for a in ARGUMENTS if a in needed)


@dataclass(frozen=True, eq=False)
class Kernels:
    """All kernels of a program for one dtype of arrays and one of the group's values: what a writer is given."""

    program: Program
    dtype: str
    group_dtype: str
    storage: Storage = PLAIN

    @property
    def compute(self) -> str:
        return COMPUTE_DTYPE[self.dtype]

    @cached_property
    def layout(self) -> Layout:
        return layout(self.program, self.dtype, self.storage)

    @property
    def slots(self) -> list[str]:
        """The arrays, in the order of the table's columns: p, g, inputs, state, the scales of state in blocks."""
        return self.layout.slots

    @cached_property
    def group_names(self) -> list[str]:
        """The group's state, in the order of ``group`` and ``group_new``."""
        return list(self.program.group_outputs)

    @cached_property
    def scalars(self) -> dict[Value, int]:
        """The scalars of t that some kernel reads, and their columns of ``scalars``."""
        return self._read(n for n in self._scalars if n.scope != "group")

    @cached_property
    def shared(self) -> dict[Value, int]:
        """The scalars of the group's own t, and their columns of ``shared``."""
        return self._read(n for n in self._scalars if n.scope == "group")

    @cached_property
    def _scalars(self) -> list[Value]:
        return [n for n in self.program.live if n.domain <= Domain.STEP and n.op != "const"]

    def _read(self, nodes: Iterable[Value]) -> dict[Value, int]:
        found = set().union(*(self._needed(s) for s in range(self.layout.stages)))
        return {n: k for k, n in enumerate(n for n in nodes if n in found)}

    @cached_property
    def unit_sums(self) -> dict[Value, int]:
        """All sums over units, stage by stage, and their columns of ``unit_sums``."""
        every = (r for s in range(self.layout.stages) for r in self._sums(s, "sum_units"))
        return {r: k for k, r in enumerate(every)}

    @cached_property
    def axis(self) -> int | None:
        """The axis of the units; a fused program has one at most."""
        return next(iter(self.layout.axes), None)

    @cached_property
    def stages(self) -> tuple[Kernel, ...]:
        """One kernel per stage."""
        return tuple(self._kernel(s) for s in range(self.layout.stages))

    @cached_property
    def width(self) -> int:
        """The most sums over arrays and the group that a stage takes."""
        return max(len(k.sums) for k in self.stages)

    def _sums(self, stage: int, *ops: str) -> list[Value]:
        return [r for op in ops for r in self.program.reductions(stage) if r.op == op]

    def _columns(self, stage: int) -> dict[Value, int]:
        # Group sums first: bins of other phases or dtypes have the same ones (``layout.obstacle`` sees to it), in this
        # order, and may have other array sums.
        return {r: k for k, r in enumerate(self._sums(stage, "sum_group", "sum"))}

    def _is_last(self, stage: int) -> bool:
        return stage == self.layout.stages - 1

    def _needed(self, stage: int) -> set[Value]:
        """Everything that a stage's kernel reads or computes."""
        goals = self.layout.goals(stage)
        if self._is_last(stage):
            goals += self.program.group_outputs.values()
        return ancestors(goals, stop={*self._scalars, *self._all_sums})

    @cached_property
    def _all_sums(self) -> list[Value]:
        return [n for n in self.program.live if n.op in REDUCTIONS]

    def _kernel(self, stage: int) -> Kernel:
        program, last = self.program, self._is_last(stage)
        needed = self._needed(stage)
        given: dict[Value, Given] = {}
        computed: dict[Domain, list[Value]] = {d: [] for d in Domain}
        arrays = {n.attrs[0]: n for n in program.inputs(Domain.ELEMENT).values()}
        inputs: dict[str, Value | None] = {}
        for node in program.live:
            if node not in needed or node.op == "const":
                continue
            place = self._place(node)
            if place is not None:
                given[node] = place
            elif node.op != "input":
                computed[node.domain].append(node)
        for slot in self.slots:
            element = arrays.get(slot)
            if element is not None and element in needed:
                inputs[slot] = element
            elif slot == "p" and last and UPDATE in program.outputs:
                inputs[slot] = None
        stores = dict(program.stored) if last else {}
        if last and UPDATE not in program.outputs:
            stores["p"] = program.outputs["p"]
        unit_sums = {r: self.unit_sums[r] for r in self._sums(stage, "sum_units")}
        return Kernel(
            stage=stage,
            grid="units" if unit_sums else "chunks",
            given=given,
            inputs=inputs,
            group=computed[Domain.GROUP],
            array=computed[Domain.ARRAY],
            unit=computed[Domain.UNIT],
            element=computed[Domain.ELEMENT],
            sums=self._columns(stage),
            unit_sums=unit_sums,
            stores=stores,
            update=program.outputs.get(UPDATE) if last else None,
            group_outputs=list(program.group_outputs.values()) if last else [],
            figures=self.layout.figures(stage),
        )

    def _place(self, node: Value) -> Given | None:
        """The table that a node is read from; None if it is computed or an array's element."""
        if node.domain <= Domain.STEP:
            if node.scope == "group":
                return Given("shared", self.shared[node])
            return Given("scalars", self.scalars[node])
        if node.op == "input" and node.domain is Domain.GROUP:
            return Given("group", self.group_names.index(node.attrs[0]))
        if node.op == "sum_units":
            return Given("unit_sums", self.unit_sums[node])
        if node.op in REDUCTIONS:
            stage = self.program.stage[node]
            table = "totals" if node.op == "sum_group" else "sums"
            return Given(table, self._columns(stage)[node], stage)
        return None


@cache
def kernels(
    program: Program, dtype: str, group_dtype: str | None = None, storage: Storage = PLAIN
) -> Kernels:
    """The kernels of a program; the group's dtype is the compute dtype unless arrays of several dtypes share it."""
    return Kernels(program, dtype, group_dtype or COMPUTE_DTYPE[dtype], storage)
