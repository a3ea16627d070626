"""Passes of programs with axes as Numba source: a function per pass, loops over the axes of all arrays of a stack."""

from __future__ import annotations

from isostep.listing import identifiers, lines
from isostep.lower.axes import MOST_AXES, Axes, Bits, Pass, axes, in_text
from isostep.lower.numba_source import RESERVED, render
from isostep.program import UPDATE, Program
from isostep.state import COMPUTE_DTYPE
from isostep.values import Value, is_bool

#: of every pass: addresses of tables, and of ``chunks`` the first and the one after the last
ARGUMENTS = ("chunks", "first", "last", "table", "scalars", "columns", "facts")
SIGNATURE = f"void({', '.join(['int64'] * len(ARGUMENTS))})"
SUPPORT = (
    "KERNEL", "accumulate", "cbrt", "exp", "loader", "log1p", "maximum", "minimum", "number", "power", "sign", "storer",
    "word",
)  # fmt: skip


def source(axes: Axes, dtype: str) -> str:
    """The module text of a program's passes for arrays of ``dtype``."""
    return _Writer(axes, dtype).module()


def show(program: Program, dtype: str) -> str | None:
    """The text for ``isostep show RULE --source numba`` of a rule that is done in passes; None if it is not."""
    found = axes(program)
    return source(found, COMPUTE_DTYPE[dtype]) if found.fits else None


class _Writer:
    """Writes a module. No value of the rule's has a name that begins with ``_``: here those of arrays do."""

    def __init__(self, axes: Axes, dtype: str) -> None:
        self.axes, self.dtype = axes, dtype
        loops = (f"{letter}{k}" for letter in "in" for k in range(MOST_AXES))
        self.support = sorted((*SUPPORT, f"at_place_{dtype}", f"place_{dtype}"))
        self.names = identifiers(axes.program, (*RESERVED, "facts", *self.support, *loops))
        self.last = len(axes.groups) - 1  # the innermost loop

    def module(self) -> str:
        name, count = self.axes.program.name, self.axes.count
        out = [
            f'"""{name}, {self.dtype}: {count} pass(es). Generated from the rule by isostep."""',
            "",
            "import numpy as np",
            "from numba import njit",
            "",
            "from isostep.lower.numba_support import (",
            *(f"    {n}," for n in self.support),
            ")",
            "",
            f'SIGNATURE = "{SIGNATURE}"',
            f"dtype = np.{self.dtype}",
        ]
        for one in self.axes.passes:
            out += ["", "", *_Text(self, one).lines()]
        return "\n".join(out) + "\n"

    def text(self, node: Value) -> str:
        """A value as an operand."""
        return self.render(node, {}) if node.op == "const" else self.names[node]

    def render(self, node: Value, text: dict[Value, str]) -> str:
        """What a node is computed by."""
        if node.op == "const" and not in_text(node):
            return self.names[node]
        return render(node, text)


class _Text:
    """The text of one pass: what is done before its innermost loop, within it and after it."""

    def __init__(self, writer: _Writer, one: Pass) -> None:
        self.writer, self.one, self.names = writer, one, writer.names
        self.axes, self.last = writer.axes, writer.last
        self.before: list[str] = []
        self.within: list[str] = []
        self.after: list[str] = []

    def lines(self) -> list[str]:
        one, slots = self.one, self.one.slots
        head = [
            *self._functions(),
            "",
            "",
            "@njit(SIGNATURE, **KERNEL)",
            f"def pass{one.index}({', '.join(ARGUMENTS)}):",
            f'    """{self.axes.summary(self.one, self.names)}"""',
            "    one = dtype(1)",
            *(f"    n{k} = word(facts, {k})" for k in range(self.last + 1)),
            *(f"    {self._scalar(n, f'scalars, {k}')}" for k, n in enumerate(one.scalars)),
            "    for chunk in range(first, last):",
        ]
        body = [
            *(
                f"{n} = word(chunks, 3 * chunk + {k})"
                for k, n in enumerate(("array", "start", "stop"))
            ),
            *(
                f"_address_{_id(n)} = word(table, {len(slots)} * array + {k})"
                for k, n in enumerate(slots)
            ),
            *(
                self._scalar(n, f"columns, {len(one.columns)} * array + {k}")
                for k, n in enumerate(one.columns)
            ),
            *self._blocks(),
            *self._loops(),
        ]
        return head + _indent(body, 2)

    def _functions(self) -> list[str]:
        """Loads and stores of each array, which shares memory with no other."""
        one, kind = self.one, self.writer.dtype
        added = one.last and UPDATE in self.axes.program.outputs
        read = {
            *(n.attrs[0] for n in one.inputs),
            *self._named(one.stacks),
            *(("p",) if added else ()),
        }
        written = {*self._named(one.kept), *(self.axes.stores if one.last else ())}
        arrays = [*one.slots, *self._named((*one.stacks, *one.kept))]
        sums = self._named(one.reduced)
        every = [(n, kind, ("load",) * (n in read) + ("store",) * (n in written)) for n in arrays]
        every += [(n, "float64", ("load", "store")) for n in sums]
        maker = {"load": "loader", "store": "storer"}
        return [
            f"{self._call(verb, n)} = {maker[verb]}({dtype!r}, {k}, {len(every)})"
            for k, (n, dtype, verbs) in enumerate(every)
            for verb in verbs
        ]

    def _call(self, verb: str, name: str) -> str:
        return f"_{verb}{self.one.index}_{_id(name)}"

    def _named(self, nodes: tuple[Value, ...]) -> list[str]:
        return [self.names[n] for n in nodes]

    def _scalar(self, node: Value, place: str) -> str:
        name, found = self.names[node], f"number({place})"
        return f"{name} = {found} != 0" if is_bool(node) else f"{name} = dtype({found})"

    def _blocks(self) -> list[str]:
        """Where each block's part of this array begins, or of this chunk, if chunks add to the same sums."""
        out, reduced = [], {*self.one.reduced}
        for k, n in enumerate(self.one.blocks):
            address, size = (f"word(facts, {self.last + 1 + 2 * k + j})" for j in range(2))
            wide = 8 if n in reduced or self.writer.dtype == "float64" else 4
            row = "array" if n not in reduced or self.axes.bits(n)[0] else "chunk"
            out.append(f"_address_{self.names[n]} = {address} + {wide} * {size} * {row}")
        return out

    def _loops(self) -> list[str]:
        """Loops over the axes, in which each array is gone through along those that it has."""
        last = self.last
        full: Bits = (True,) * (last + 1)
        patterns = sorted({full, *map(self.axes.bits, self.one.blocks)})
        body: list[str] = []
        at = dict.fromkeys(patterns, "")  # how far each kind of array is, in the loops so far
        for depth in range(last):
            span = "start, stop" if depth == 0 else f"n{depth}"
            body += _indent([f"for i{depth} in range({span}):"], depth)
            for k, b in enumerate(patterns):
                if b[depth]:
                    found = f"{at[b]} * n{depth} + i{depth}" if at[b] else f"i{depth}"
                    at[b] = f"_at{k}_{depth}"
                    body += _indent([f"{at[b]} = {found}"], depth + 1)
        for k, b in enumerate(patterns):
            if b[last] and at[b]:
                body += _indent([f"_at{k} = {at[b]} * n{last}"], last)
                at[b] = f"_at{k} + i{last}"
            elif b[last]:
                at[b] = f"i{last}"
        self._element(at, full)
        span = "start, stop" if last == 0 else f"n{last}"
        inner = [*self.before, f"for i{last} in range({span}):", *_indent(self.within), *self.after]
        return body + _indent(inner, last)

    def _element(self, at: dict[Bits, str], full: Bits) -> None:
        """What is done for each element; ``at``: where an array that has certain axes is gone through."""
        one, places = self.one, {b: text or "0" for b, text in at.items()}
        for n in one.inputs:
            self.within.append(f"{self.names[n]} = {self._load(n.attrs[0], places[full])}")
        for n in one.stacks:
            bits, name = self.axes.bits(n), self.names[n]
            found = self._load(name, places[bits]) + (" != 0" if is_bool(n) else "")
            (self.within if bits[-1] else self.before).append(f"{name} = {found}")
        program, render = self.axes.program, self.writer.render
        self.within += lines(program, list(one.nodes), self.names, render)
        for n in one.kept:
            self.within.append(self._store(self.names[n], places[full], self.names[n]))
        for r in one.reduced:
            self._reduce(r, places[self.axes.bits(r)])
        if one.last:
            self._stores(places[full])

    def _load(self, name: str, at: str) -> str:
        return f"{self._call('load', name)}(_address_{_id(name)}, {at})"

    def _store(self, name: str, at: str, value: str) -> str:
        return f"{self._call('store', name)}(_address_{_id(name)}, {at}, {value})"

    def _reduce(self, node: Value, at: str) -> None:
        """Add to a sum, or to a maximum: to that in memory, or to one of the innermost loop's own."""
        name, term = self.names[node], self.writer.text(node.args[0])
        place = f"place_{self.writer.dtype}"
        largest, known = node.op == "max_axis", self._load(self.names[node], at)

        def joined(value: str) -> str:
            new = (
                f"maximum({known}, np.float64({value}))"
                if largest
                else f"{known} + np.float64({value})"
            )
            return self._store(name, at, new)

        if self.axes.bits(node)[-1]:
            self.within.append(joined(term))
        elif largest:
            self.before.append(f"_top_{name} = {place}(dtype(-np.inf))")
            self.within.append(f"_top_{name} = max(_top_{name}, {place}({term}))")
            self.after.append(joined(f"at_{place}(_top_{name})"))
        else:
            self.before.append(f"_sum_{name} = np.float64(0)")
            self.within.append(f"_sum_{name} = accumulate(_sum_{name}, {term})")
            self.after.append(joined(f"_sum_{name}"))

    def _stores(self, at: str) -> None:
        own = next((self.names[n] for n in self.one.inputs if n.attrs[0] == "p"), None)
        for slot, value in self.axes.stores.items():
            text = self.writer.text(value)
            if slot == "p" and UPDATE in self.axes.program.outputs:
                text = f"{own or self._load('p', at)} + {text}"
            self.within.append(self._store(slot, at, f"dtype({text})"))


def _id(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _indent(block: list[str], levels: int = 1) -> list[str]:
    return ["    " * levels + line for line in block]
