"""Programs with axes, cut into passes over the elements: what compiled loops do of them, and what is left between.

A program for one shape may sum along some axes, take maxima, and use what has fewer elements (a row's number, a
column's) among what has all. What is done element by element, with these sums and maxima, is a pass. What has fewer
elements, and what is no map (products of matrices, decompositions), is the framework's, between passes; where that
needs a value with all elements, a pass stores it for this and for later passes. The text of a pass depends on which
axes its arrays have, not on how long they are: it is compiled once for many shapes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from isostep.program import PARAMETER, UPDATE, Program, ancestors, examples, shaped, trace
from isostep.rule import BoundRule
from isostep.shapes import shape_of
from isostep.values import FACTS, MAPS, Domain, Value, is_bool

#: What a pass reduces to fewer elements.
REDUCED = ("sum", "sum_units", "sum_group", "sum_axis", "max_axis")
#: What may be a view of an operand, or the operand itself.
VIEWS = frozenset(("input", "reshape", "transpose", "where"))
#: Loops in each other; more axes than that are left to the framework.
MOST_AXES = 4
#: Numbers that stand in the text. Others are handed in: some follow from the shape.
PLAIN = (0.0, 1.0, -1.0, 2.0, 0.5)

#: Of each axis that loops go along, from the outermost: whether an array has it, or the same element all along it.
Bits = tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass: what it reads, computes, reduces and stores.

    scalars, columns: numbers of the step; numbers of the group and of each array.
    slots: the arrays with all elements that it loads (``inputs``) or stores, by name.
    stacks: other values, that are read from one block for all arrays.
    nodes: what it computes for every element, in order.
    reduced: the sums and maxima that it takes of these, or of inputs.
    kept: which of these it stores, in a block, for what comes later.
    """

    index: int
    last: bool
    scalars: tuple[Value, ...]
    columns: tuple[Value, ...]
    slots: tuple[str, ...]
    inputs: tuple[Value, ...]
    stacks: tuple[Value, ...]
    nodes: tuple[Value, ...]
    reduced: tuple[Value, ...]
    kept: tuple[Value, ...]

    @property
    def blocks(self) -> tuple[Value, ...]:
        """The values that lie in blocks, one for all arrays: in the order in which their addresses are handed in."""
        return (*self.stacks, *self.kept, *self.reduced)


class Axes:
    """The passes of a program for one shape, if it ``fits``.

    full: the values with all elements. inside: those of them that passes compute. reduced: what passes reduce them to.
    others: what the framework computes. kept: what that needs of what is inside. level: how many passes have to be
    done before a value is known, or (inside) can be computed. count: how many there are.
    """

    def __init__(self, program: Program) -> None:
        self.program, self.shape = program, program.shape or ()
        live = program.live
        self.full = {n for n in live if n.domain > Domain.STEP and self._has_all(n)}
        self.inside = {n for n in self.full if n.op in MAPS}
        self.reduced = [n for n in live if n.op in REDUCED and n.args[0] in self.full]
        own = {*self.inside, *self.reduced}
        self.others = [n for n in live if n not in own and n.op not in FACTS]
        needed = {a for n in self.others for a in n.args}
        self.kept = [n for n in live if n in self.inside and n in needed]
        self.level: dict[Value, int] = {}
        for n in live:
            self.level[n] = max((self.level[a] + self._waits(n, a) for a in n.args), default=0)
        goals = [*(r.args[0] for r in self.reduced), *self.kept, *self.stores.values()]
        self.count = 1 + max(self.level[n] for n in goals)

    def _has_all(self, node: Value) -> bool:
        return self.program.shape is not None and self.shape_of(node) == self.shape

    def _waits(self, user: Value, operand: Value) -> bool:
        """Whether a pass over the operand has to be done before its user."""
        if user.op in FACTS:
            return False
        return (user.op in REDUCED and operand in self.full) or (
            operand in self.inside and user not in self.inside
        )

    @cached_property
    def fits(self) -> bool:
        """Whether passes can do it: there are elements, and not too many axes to go along."""
        if math.prod(self.shape) < 2 or self.program.figures:
            return False
        if any(n.op in REDUCED and n.args[0].domain <= Domain.STEP for n in self.program.live):
            return False
        if len(self.groups) > MOST_AXES:
            return False
        # What is computed after the last pass must not look at what that has written over.
        late = (a for n in self.others if self.level[n] >= self.count for a in n.args)
        return not any(map(self._looks_at_all, late)) and not any(map(is_bool, self.kept))

    def _looks_at_all(self, node: Value) -> bool:
        """Whether it may be a view of an array with all elements, which the last pass may write over."""
        if node.op == "input" or node.op not in VIEWS:
            return node.op == "input" and node in self.full
        return any(map(self._looks_at_all, node.args))

    @cached_property
    def views(self) -> list[str]:
        """The state that is not stored by passes, and that may be a view of what the last one writes over."""
        found = {n: v for n, v in self.program.stored.items() if n not in self.stores}
        return [n for n, v in found.items() if v not in self.inside and self._looks_at_all(v)]

    def shape_of(self, node: Value) -> tuple[int, ...]:
        """The shape of a value per array."""
        return () if node.domain <= Domain.ARRAY else shape_of(node)

    def _padded(self, node: Value) -> tuple[int, ...]:
        own = self.shape_of(node)
        return (1,) * (len(self.shape) - len(own)) + own

    @cached_property
    def groups(self) -> list[list[int]]:
        """The axes, those as one that every array has all of or none of; what is 1 long is no axis."""
        met = {a for n in self.inside for a in n.args if a.domain > Domain.STEP}
        every = [self._has_axes(n) for n in {*met, *self.reduced, *self.full}]
        found: list[list[int]] = []
        for axis, size in enumerate(self.shape):
            if size > 1 and found and all(b[axis] == b[found[-1][-1]] for b in every):
                found[-1].append(axis)
            elif size > 1:
                found.append([axis])
        return found

    def _has_axes(self, node: Value) -> Bits:
        return tuple(n == m > 1 for n, m in zip(self._padded(node), self.shape, strict=True))

    @property
    def sizes(self) -> tuple[int, ...]:
        """How long the axes are that loops go along."""
        return tuple(math.prod(self.shape[a] for a in group) for group in self.groups)

    def bits(self, node: Value) -> Bits:
        """Which of these axes a value has."""
        own = self._has_axes(node)
        return tuple(own[group[0]] for group in self.groups)

    @cached_property
    def stores(self) -> dict[str, Value]:
        """What the last pass stores, by slot; an update is added to ``p``."""
        outputs, inputs = self.program.outputs, self.program.inputs()
        found = {PARAMETER: outputs[UPDATE if UPDATE in outputs else PARAMETER]}
        for name, node in self.program.stored.items():
            if name not in inputs or inputs[name].domain is Domain.ELEMENT:
                found[name] = node
        return found

    @cached_property
    def made(self) -> dict[Value, int]:
        """What passes hand on, by the pass: sums and maxima, and what is kept."""
        found = {r: self.level[r.args[0]] for r in self.reduced}
        return found | {n: self.level[n] for n in self.kept}

    @cached_property
    def between(self) -> list[Value]:
        """What is known before the last pass: it may look at what that writes over."""
        known = (n for n in self.program.live if n not in self.inside and n.op != "input")
        return [n for n in known if n.domain > Domain.GROUP and self.level[n] < self.count]

    @cached_property
    def alone(self) -> bool:
        """Whether nothing but passes meets values with all elements: then these lie nowhere but in their arrays."""
        return not self.kept and not any(a in self.full for n in self.others for a in n.args)

    @cached_property
    def passes(self) -> tuple[Pass, ...]:
        """The passes, in order."""
        return tuple(map(self._pass, range(self.count)))

    def _pass(self, index: int) -> Pass:
        last = index == self.count - 1
        reduced = [r for r in self.reduced if self.level[r.args[0]] == index]
        kept = [n for n in self.kept if self.level[n] == index]
        known = {n for n in self.kept if self.level[n] < index}
        goals = [*(r.args[0] for r in reduced), *kept, *(self.stores.values() if last else ())]
        needed = ancestors(
            goals, stop=[n for n in self.program.live if n not in self.inside or n in known]
        )
        nodes = [n for n in self._in_order(needed) if n in self.inside and n not in known]
        read = [n for n in self._in_order(needed.difference(nodes)) if not in_text(n)]
        inputs = [n for n in read if n.op == "input" and n in self.full]
        slots = dict.fromkeys([*(n.attrs[0] for n in inputs), *(self.stores if last else ())])
        own = [n for n in read if n.domain > Domain.STEP and n not in set(inputs)]
        columns = [n for n in own if not any(self.bits(n))]
        return Pass(
            index=index,
            last=last,
            scalars=tuple(n for n in read if n.domain <= Domain.STEP),
            columns=tuple(columns),
            slots=tuple(slots),
            inputs=tuple(inputs),
            stacks=tuple(n for n in own if n not in set(columns)),
            nodes=tuple(nodes),
            reduced=tuple(reduced),
            kept=tuple(kept),
        )

    def summary(self, one: Pass, names: Mapping[Value, str]) -> str:
        """What a pass is for, by the names that its text has."""
        reduced, kept = (", ".join(names[n] for n in some) for some in (one.reduced, one.kept))
        words = [f"reduces to {reduced}"] if reduced else []
        words += [f"keeps {kept}"] if kept else []
        words += [f"stores {', '.join(self.stores)}"] if one.last else []
        return f"Pass {one.index + 1} of {self.count}: {'; '.join(words)}."

    def _in_order(self, nodes: Iterable[Value]) -> list[Value]:
        wanted = set(nodes)
        return [n for n in self.program.live if n in wanted]


def in_text(node: Value) -> bool:
    """Whether a number stands in the text of a pass."""
    return node.op == "const" and (isinstance(node.attrs[0], bool) or node.attrs[0] in PLAIN)


@cache
def axes(program: Program) -> Axes:
    """The passes of a program; worked out once."""
    return Axes(program)


def in_passes(rule: BoundRule) -> bool:
    """Whether passes can do a rule's steps of every kind; shown on arrays of an example's shape."""
    shapes = ((kind, trace(rule, kind).shape or examples(rule)[0]) for kind in rule.kinds())
    return all(axes(shaped(rule, kind, shape)).fits for kind, shape in shapes)
