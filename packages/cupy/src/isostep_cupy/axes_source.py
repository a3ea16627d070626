"""Passes of programs with axes as CUDA C: a ``__global__`` function per pass, a block for each tile of an array.

``isostep.lower.axes_device`` says what tiles are and what lies where in the table that a pass is given. The text is
built from ``kernels.h`` and ``tiles.h``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import combinations, groupby

from isostep.listing import identifiers, lines
from isostep.lower.axes import MOST_AXES, Axes, Bits, Pass, axes, in_text
from isostep.lower.axes_device import ROOM, PassLaunch, columns
from isostep.lower.executor import Launch
from isostep.program import PARAMETER, UPDATE, Program, ancestors
from isostep.state import COMPUTE_DTYPE
from isostep.values import Value, is_bool
from isostep_cupy.cuda_text import WORDS, applied, indent, literal, preamble, word

#: What is reduced in one loop over a tile's places at most: each takes 8 KiB of the 48 that a block may have.
MOST = 6
_AXES = [str(k) for k in range(MOST_AXES)]
_SUBSETS = ["".join(some) for k in range(MOST_AXES + 1) for some in combinations(_AXES, k)]
_OWN = (
    *(name + k for name in ("n", "log", "tiles", "left", "tile", "low", "i") for k in _AXES),
    *(f"at{some}" for some in _SUBSETS),
    *(f"room{k}" for k in range(MOST)),
    *("table", "place", "places", "k", "number", "index_of", "Run", "with_zeros", "place_of", "join_along", "join"),
)  # fmt: skip


@cache
def source(axes: Axes, dtype: str) -> str:
    """The text of a program's passes for arrays of ``dtype``; headers are named, not contained."""
    return _Writer(axes, dtype).text()


def show(program: Program, dtype: str) -> str | None:
    """The text for ``isostep show RULE --source cuda`` of a rule that is done in passes; None if it is not."""
    found = axes(program)
    return source(found, COMPUTE_DTYPE[dtype]) if found.fits else None


def launcher(kernel: Launch) -> PassLaunch:
    """A pass as it is launched: the table tells its text how long tiles are."""
    return lambda blocks, table, lengths: kernel(blocks, [table])


class _Writer:
    """Writes a text. No value of the rule's has a name that begins with ``_``: here those of arrays do."""

    def __init__(self, axes: Axes, dtype: str) -> None:
        self.axes, self.dtype = axes, dtype
        self.names = identifiers(axes.program, (*WORDS, *_OWN))

    def text(self) -> str:
        name, count = self.axes.program.name, self.axes.count
        out = [
            f"// {name}, {self.dtype}: {count} pass(es). Generated from the rule by isostep.",
            *preamble(self.dtype, self.dtype, self.dtype),
            '#include "tiles.h"',
        ]
        for one in self.axes.passes:
            out += ["", *_Text(self, one).lines()]
        return "\n".join(out) + "\n"

    def operand(self, node: Value) -> str:
        """A value as an operand."""
        return self.render(node, {}) if node.op == "const" else self.names[node]

    def render(self, node: Value, text: dict[Value, str]) -> str:
        """What a node is computed by."""
        if node.op == "const":
            return literal(node.attrs[0], self.dtype) if in_text(node) else self.names[node]
        return applied(node, [text[a] for a in node.args])

    def type(self, node: Value) -> str:
        return "bool" if is_bool(node) else "real"


class _Text:
    """The text of one pass: where its tile and its arrays are, loops over the tile's places, what these reduce to."""

    def __init__(self, writer: _Writer, one: Pass) -> None:
        self.writer, self.one, self.names = writer, one, writer.names
        self.axes, self.at = writer.axes, columns(writer.axes, one)
        self.every = range(len(writer.axes.groups))
        self.last, self.full = self.every[-1], tuple(True for _ in self.every)
        self.added = one.last and UPDATE in self.axes.program.outputs

    def lines(self) -> list[str]:
        one = self.one
        rooms = ", ".join(f"room{k}[{ROOM}]" for k in range(min(MOST, len(one.reduced))))
        body = [
            *self._tile(),
            *self._pointers(),
            *self._numbers(),
            *([f"__shared__ double {rooms};"] if rooms else []),
        ]
        cuts = range(0, len(one.reduced) or 1, MOST)
        for first in cuts:
            reduced = one.reduced[first : first + MOST]
            if first:
                body.append("__syncthreads();  // all have read what lies in the rooms")
            body += self._loop(reduced, stores=first == cuts[-1])
            for k, node in enumerate(reduced):
                body += self._reduce(node, f"room{k}")
        return [
            f"// {self.axes.summary(self.one, self.names)}",
            f'extern "C" __global__ void pass{one.index}(const int64 *table) {{',
            *indent(body),
            "}",
        ]

    # Before the loop

    def _tile(self) -> list[str]:
        """Lengths, which tile of which array this block does, and where in a place's number an axis' bits are."""
        start, last = self.at, self.last
        out = [
            _declared("int64", [f"n{k} = table[{start.sizes + k}]" for k in self.every]),
            _declared("int", [f"log{k} = (int)table[{start.logs + k}]" for k in self.every]),
            _declared("int64", [f"tiles{k} = table[{start.counts + k}]" for k in self.every]),
            _declared("int64", [f"left{last} = blockIdx.x"]),
        ]
        for k in reversed(self.every):
            left = f"left{k - 1}" if k else "array"
            found = f"tile{k} = left{k} - {left} * tiles{k}"
            out.append(_declared("int64", [f"{left} = quotient(left{k}, tiles{k})", found]))
        low = [f"low{k} = {self._logs(range(k + 1, last + 1))}" for k in self.every[:-1]]
        return [*out, _declared("int", [*low, f"places = 1 << ({self._logs(self.every)})"])]

    def _logs(self, those: Iterable[int]) -> str:
        return " + ".join(f"log{k}" for k in those)

    def _pointers(self) -> list[str]:
        """Where the arrays that this pass touches are, and of each block this array's part; none overlap."""
        one, slots = self.one, self.one.slots
        written = {*self.axes.stores} if one.last else set()
        out = []
        for k, slot in enumerate(slots):
            place = f"array_at<real>(table[{self.at.slots + k} + array * {len(slots)}])"
            out.append(_pointer("real", slot in written, _slot(slot), place))
        for k, n in enumerate(one.blocks):
            kind = "double" if n in {*one.reduced} else "real"
            size = " * ".join(["array", *self._lengths(n, partial=kind == "double")])
            place = f"array_at<{kind}>(table[{self.at.blocks + k}]) + {size}"
            out.append(_pointer(kind, n not in {*one.stacks}, self._block(n), place))
        return out

    def _lengths(self, node: Value, partial: bool) -> list[str]:
        """How long a block's part of an array is along each axis that it has."""
        own = self.axes.bits(node)
        return [f"n{k}" if own[k] else f"tiles{k}" for k in self.every if own[k] or partial]

    def _block(self, node: Value) -> str:
        return f"_block_{self.names[node]}"

    def _numbers(self) -> list[str]:
        """Numbers of the step, of the group and of this array."""
        one, start = self.one, self.at
        out = [
            self._number(n, f"number(table[{start.scalars + k}])")
            for k, n in enumerate(one.scalars)
        ]
        if one.columns:
            row = f"array_at<double>(table[{start.columns}]) + array * {len(one.columns)}"
            out.append(_pointer("double", False, "_columns", row))
            out += [self._number(n, f"_columns[{k}]") for k, n in enumerate(one.columns)]
        return out

    def _number(self, node: Value, text: str) -> str:
        kind = self.writer.type(node)
        return f"const {kind} {self.names[node]} = {f'{text} != 0' if kind == 'bool' else f'(real){text}'};"

    # The loop

    def _loop(self, reduced: Sequence[Value], stores: bool) -> list[str]:
        """A loop over the tile's places, which leaves what is reduced in the rooms."""
        beyond = " || ".join(f"i{k} >= n{k}" for k in self.every)
        empty = [f"room{k}[place] = {_neutral(n)};" for k, n in enumerate(reduced)]
        body = [
            *(self._index(k) for k in self.every),
            *(
                [f"if ({beyond}) {{", *indent([*empty, "continue;"]), "}"]
                if empty
                else [f"if ({beyond}) continue;"]
            ),
            *self._element(reduced, stores),
        ]
        return [
            "for (int place = threadIdx.x; place < places; place += blockDim.x) {",
            *indent(body),
            "}",
        ]

    def _index(self, axis: int) -> str:
        shifted = "place" if axis == self.last else f"place >> low{axis}"
        return f"const int64 i{axis} = index_of(tile{axis}, log{axis}, {shifted});"

    def _element(self, reduced: Sequence[Value], stores: bool) -> list[str]:
        """What is done for each element."""
        one, own = self.one, self._at(self.full)
        goals = [r.args[0] for r in reduced]
        goals += [*one.kept, *(self.axes.stores.values() if one.last else ())] if stores else []
        needed = ancestors(goals, stop={*self.axes.program.live}.difference(one.nodes))
        inputs, stacks, nodes = (
            [n for n in those if n in needed] for those in (one.inputs, one.stacks, one.nodes)
        )
        body = [f"const real {self.names[n]} = {_slot(n.attrs[0])}[{own}];" for n in inputs]
        used = {self.full} if inputs or (stores and (one.kept or one.last)) else set()
        for n in stacks:
            bits, kind = self.axes.bits(n), self.writer.type(n)
            used.add(bits)
            found = f"{self._block(n)}[{self._at(bits)}]{' != 0' if kind == 'bool' else ''}"
            body.append(f"const {kind} {self.names[n]} = {found};")
        by_name = {self.names[n]: n for n in nodes}
        for line in lines(self.axes.program, nodes, self.names, self.writer.render):
            kind = self.writer.type(by_name[line.partition(" = ")[0]])
            body.append(f"const {kind} {line};")
        body += [
            f"room{k}[place] = {self.writer.operand(r.args[0])};" for k, r in enumerate(reduced)
        ]
        if stores:
            body += [f"{self._block(n)}[{own}] = {self.names[n]};" for n in one.kept]
            body += self._stores(own, inputs) if one.last else []
        return [*(self._offset(b) for b in sorted(used)), *body]

    def _stores(self, at: str, inputs: Sequence[Value]) -> list[str]:
        p = next((self.names[n] for n in inputs if n.attrs[0] == PARAMETER), None)
        out = []
        for slot, value in self.axes.stores.items():
            text = self.writer.operand(value)
            if slot == PARAMETER and self.added:
                text = f"{p or f'{_slot(slot)}[{at}]'} + {text}"
            out.append(f"{_slot(slot)}[{at}] = {text};")
        return out

    def _at(self, bits: Bits) -> str:
        """What is called where a place is in what has certain axes."""
        return "at" if bits == self.full else "at" + "".join(str(k) for k in self.every if bits[k])

    def _offset(self, bits: Bits) -> str:
        own = [k for k in self.every if bits[k]]
        return f"const int64 {self._at(bits)} = {_nested([(f'i{k}', f'n{k}') for k in own])};"

    # After the loop

    def _reduce(self, node: Value, room: str) -> list[str]:
        """Put together what lies in a room along the axes that the result has not, and store the rest."""
        bits = self.axes.bits(node)
        lacking = [list(ks) for own, ks in groupby(self.every, key=lambda k: bits[k]) if not own]
        runs = [
            f"{f'low{ks[-1]}' if ks[-1] < self.last else '0'}, {self._logs(ks)}" for ks in lacking
        ]
        high, low = (*runs, "0, 0", "0, 0")[:2]  # of four axes there are never more than two runs
        own = [k for k in self.every if bits[k]]
        where = _nested(
            [(f"i{k}", f"n{k}") if bits[k] else (f"tile{k}", f"tiles{k}") for k in self.every]
        )
        store = f"{self._block(node)}[{where}] = {room}[place];"
        inner = [
            "const int place = place_of(k, high, low);",
            *(self._index(k) for k in own),
            f"if ({' && '.join(f'i{k} < n{k}' for k in own)}) {store}",
        ]
        loop = [
            "for (int k = threadIdx.x; k < places >> (high.length + low.length); k += blockDim.x) {",
            *indent(inner),
            "}",
        ]
        alone = [f"if (threadIdx.x == 0) {store.replace('[place]', '[0]')}"]
        return [
            f"{{  // {self.names[node]}",
            f"    const Run high = {{{high}}}, low = {{{low}}};",
            f"    join<{'true' if node.op == 'max_axis' else 'false'}>({room}, places, high, low);",
            *indent(loop if own else alone),
            "}",
        ]


def _neutral(node: Value) -> str:
    return "-infinity()" if node.op == "max_axis" else "0"


def _declared(kind: str, those: list[str]) -> str:
    return f"const {kind} {', '.join(those)};"


def _pointer(kind: str, written: bool, name: str, place: str) -> str:
    return f"{'' if written else 'const '}{kind} *__restrict__ const {name} = {place};"


def _slot(name: str) -> str:
    return f"_slot_{word(name)}"


def _nested(pairs: list[tuple[str, str]]) -> str:
    """The offset of indices in an array of these lengths, the last axis' fastest."""
    text = ""
    for index, length in pairs:
        text = (
            f"({text}) * {length} + {index}"
            if " " in text
            else f"{text} * {length} + {index}"
            if text
            else index
        )
    return text
