"""What every fused lowering of a program shares: its passes, what each reads and sums, where arrays have their slots.

Nothing here depends on the language that is generated: ``lower.numba_source`` and ``lower.device`` build on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from isostep.blocks import SCALE
from isostep.program import Program, ancestors, trace
from isostep.rule import BoundRule
from isostep.storage import HALVES, PLAIN, Storage
from isostep.sums import factors
from isostep.values import MAPS, Domain, Value

SCALARS = (Domain.HOST, Domain.STEP)
PER_ARRAY = (Domain.GROUP, Domain.ARRAY)


@dataclass(frozen=True, eq=False)
class Pass:
    """The arguments of one stage's kernel, column by column, and the sums that it returns."""

    scalars: list[Value]
    per_array: list[Value]
    per_unit: list[Value]
    sums: list[Value]
    unit_sums: list[Value]
    axis: int | None


@dataclass(frozen=True, eq=False)
class Layout:
    """What a kernel is given, and where: slots of arrays, columns of scalars, of per-array and of unit values."""

    program: Program
    dtype: str
    storage: Storage = PLAIN

    @cached_property
    def state_names(self) -> list[str]:
        """The state arrays, and what is beside them for parameters of any dtype: not all have it."""
        beside = self.storage.beside
        names = list(self.program.state_names)
        return names if beside is None or beside in names else [*names, beside]

    @cached_property
    def slots(self) -> list[str]:
        """The arrays in the pointer table: p, g, inputs and state, in this order."""
        return ["p", "g", *self.program.input_names, *self.state_names, *self.storage.scales]

    @cached_property
    def filled(self) -> list[str]:
        """The slots that arrays of this dtype have; the addresses of others are zero."""
        own = (*self.program.state_names, *self.storage.scales)
        return ["p", "g", *self.program.input_names, *own]

    @cached_property
    def lasting(self) -> list[str]:
        """The slots of arrays that are there for the next step."""
        return ["p", *self.state_names, *self.storage.scales]

    @property
    def width(self) -> int:
        """The columns of the pointer table: a further one has parameters' numbers, where there is noise."""
        return len(self.slots) + self.storage.noisy

    def dtype_of(self, slot: str) -> str:
        """The dtype of the arrays in a slot."""
        own = slot != "p" and slot in self.lasting
        return self.storage.dtype_of(slot, self.dtype) if own else self.dtype

    def noisy(self, slot: str) -> int | None:
        """The number of an array that is rounded stochastically: 0 for the parameter, then the state's."""
        if not self.storage.stochastic or self.dtype_of(slot) not in HALVES:
            return None
        return self.number(slot)

    def number(self, slot: str) -> int:
        """The number of an array of a parameter, which its noise goes by."""
        return self.storage.number(slot, self.state_names)

    @cached_property
    def pairs(self) -> list[int]:
        """The pairs of numbers of which some array is stored: 0 and 1, 2 and 3, ...; a pair shares its noise."""
        return sorted({k // 2 for n in self.written if (k := self.noisy(n)) is not None})

    @cached_property
    def packed_pairs(self) -> list[int]:
        """The same of what is stored in blocks, which is always rounded by chance."""
        return sorted({self.number(n) // 2 for n in self.packed})

    @cached_property
    def written(self) -> list[str]:
        """The slots that the last stage stores to."""
        stored = self.program.stored
        return ["p", *stored, *(n + SCALE for n in self.packed)]

    @cached_property
    def packed(self) -> list[str]:
        """The slots that the last stage stores in blocks."""
        return [n for n in self.program.stored if n in self.storage.packed]

    @cached_property
    def only_noise(self) -> set[Value]:
        """The scalars that no pass over elements reads but for noise."""
        read = {a for s in range(self.stages) for n in self.elements(s) for a in n.args}
        return {*self.program.noise} - read

    @property
    def stages(self) -> int:
        return self.program.stages

    @cached_property
    def passes(self) -> tuple[Pass, ...]:
        """What each stage's kernel is given and what it returns."""
        return tuple(
            Pass(
                scalars=[n for n in self.columns(s, *SCALARS) if n.scope != "group"],
                per_array=self.per_array(s),
                per_unit=self.columns(s, Domain.UNIT),
                sums=[r for r in self.program.reductions(s) if r.op != "sum_units"],
                unit_sums=[r for r in self.program.reductions(s) if r.op == "sum_units"],
                axis=next(iter(self.unit_axes(s)), None),
            )
            for s in range(self.stages)
        )

    def goals(self, stage: int) -> list[Value]:
        """What a pass must have per element: the operands of its sums, and in the last one the outputs."""
        sums = [r.args[0] for r in self.program.reductions(stage)]
        if stage < self.stages - 1:
            return sums
        kept = {*self.program.state_names} - {*self.program.stored}  # these stay as they are
        outputs = [v for n, v in self.program.outputs.items() if n not in kept]
        return [
            *outputs,
            *(x for f in self.figures(stage) for x in factors(f)),
            *self.program.noise,
        ]

    def figures(self, stage: int) -> tuple[Value, ...]:
        """The sums that nothing waits for: the last pass collects them."""
        return self.program.figures if stage == self.stages - 1 else ()

    def elements(self, stage: int) -> list[Value]:
        """The per-element nodes of a pass, in order."""
        outside = [n for n in self.program.live if n.domain is not Domain.ELEMENT]
        needed = ancestors(self.goals(stage), stop=outside)
        return [n for n in self.program.live if n in needed and n.domain is Domain.ELEMENT]

    def per_array(self, stage: int) -> list[Value]:
        """What a pass reads that is one number for each array: the group's own scalars are that too."""
        found = self.columns(stage, *SCALARS, *PER_ARRAY)
        return [n for n in found if n.domain in PER_ARRAY or n.scope == "group"]

    def columns(self, stage: int, *domains: Domain) -> list[Value]:
        """The values of these domains that a pass reads, in order."""
        reads = {a for n in self.elements(stage) for a in n.args} | set(self.goals(stage))
        return [
            n for n in self.program.live if n in reads and n.domain in domains and n.op != "const"
        ]

    @cached_property
    def obstacle(self) -> str | None:
        """Why this program cannot be fused, in words; None if it can."""
        if self.program.generic:
            odd = (
                {n.op for n in self.program.live if n.domain is Domain.TENSOR}
                - set(MAPS)
                - {"input", "sum"}
            )
            if not odd and self.program.nested:
                return "it sums values that are sums themselves or the same for the whole array"
            named = f" ({', '.join(sorted(odd))})" if odd else ""
            return f"it works on axes or matrices{named}"
        if self.program.shape is not None:
            return "it looks at the shapes of its arrays (nm.ndim and nm.size would be fused)"
        several = len(self.axes) > 1
        return f"it looks at units of several axes ({list(self.axes)})" if several else None

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """The unit axes of the program: what it reduces over, and whose units it asks the size of."""
        sizes = {n.attrs[0] for n in self.program.live if n.op == "unit_size"}
        return tuple(sorted(sizes.union(*map(self.unit_axes, range(self.stages)))))

    def unit_axes(self, stage: int) -> list[int]:
        """The unit axes that a pass reads or reduces over."""
        nodes = self.columns(stage, Domain.UNIT) + [
            r for r in self.program.reductions(stage) if r.op == "sum_units"
        ]
        return sorted({n.axis for n in nodes if n.axis is not None})


_OBSTACLES: dict[Any, str | None] = {}


def obstacle(rule: BoundRule) -> str | None:
    """Why the steps of a rule are not fused, of whichever kind, in words; None if they are."""
    key = rule.structure()
    if key not in _OBSTACLES:
        _OBSTACLES[key] = _obstacle(trace(rule, kind) for kind in rule.kinds())
    return _OBSTACLES[key]


def _obstacle(kinds: Iterable[Program]) -> str | None:
    sums = set()
    for program in kinds:
        own = layout(program, "float32").obstacle
        if own is not None:
            return own
        sums.add(tuple((name, program.stage[n]) for name, n in program.group_sums.items()))
    # Arrays of several kinds take part in one sum, which is added up after one pass of all.
    return None if len(sums) == 1 else "its kinds of step sum over the group in different passes"


def in_blocks(rule: BoundRule) -> bool:
    """Whether kernels can take elements block by block: not where they go from unit to unit."""
    return not any(layout(trace(rule, kind), "float32").axes for kind in rule.kinds())


@cache
def layout(program: Program, dtype: str, storage: Storage = PLAIN) -> Layout:
    """The layout of a program for one dtype and storage; worked out once."""
    return Layout(program, dtype, storage)
