"""Programs as Numba source: one function per stage, a loop over chunks of all arrays.

A stage's function reads, per element, the arrays it needs, computes, adds to partial sums if the stage ends in
reductions, and stores if it is the last. Everything that is not per element (scalars, values per array, group
or unit) is computed between the stages with a few NumPy calls (``lower.small``) and handed in as columns.
All arguments are whole numbers: addresses of tables, whose widths stand in the text, and which chunks to do.
Operations are those of the rule, in its order, without contraction: the results are NumPy's, bit for bit, up
to the elementary functions and the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from isostep.blocks import BLOCK, SCALE
from isostep.listing import bare, identifiers, lines
from isostep.lower.bins import WIDTH
from isostep.lower.layout import Layout, Pass, layout
from isostep.program import UPDATE, Program
from isostep.state import COMPUTE_DTYPE
from isostep.storage import HALVES, PLAIN, Storage
from isostep.sums import factors
from isostep.values import BOOLEAN, MAPS, Domain, Value

#: Where Numba's text differs from the listing's. Comparisons of floats are the same everywhere.
TEXT = {
    "where": "({1} if {0} else {2})",
    "and": "({} & {})",
    "or": "({} | {})",
    "abs": "np.abs({})",
    "sign": "sign({}, one)",
    "atan2": "np.arctan2({}, {})",
    "pow": "power({}, {})",
    **{f: f"np.{f}({{}})" for f in ("sqrt", "expm1", "log", "sin", "cos", "tanh", "floor")},
    **{f: f"np.{f}({{}})" for f in ("isfinite", "isnan")},
}
#: A pass goes in runs of so many elements: while one is computed, as many that lie ``AHEAD`` of it are fetched, and
#: of the next chunk the first ``AHEAD``. By themselves processors look ahead to the end of a page.
RUN, AHEAD = 128, 256
#: Elements of a cache line.
LINE = {"float64": 8, "float32": 16}
#: Elements of a run whose sums an observed rule's kernel adds up in the dtype of the arithmetic.
SHORT = 1024
RESERVED = (
    "np", "exp", "log1p", "cbrt", "power", "one", "sign", "maximum", "minimum", "accumulate", "chunks", "first",
    "last", "table", "scalars", "columns", "units", "facts", "sums", "unit_sums", "dtype", "SIGNATURE", "chunk",
    "array", "start", "stop", "kind", "i", "unit", "inner", "count", "base", "end", "at", "min", "range", "run",
    "added", "njit", "room", "loader", "storer", "word", "fetch", "line", "after", "begin", "until", "number", "put",
    "KERNEL", "row", "key", "key_of", "hashed", "hash_of", "noise_of", "by_sign", "block", "size_of", "power_of",
    "back_of",
)  # fmt: skip


#: of every stage: addresses of arrays in rows, and of ``chunks`` the first and the one after the last
ARGUMENTS = (
    "chunks", "first", "last", "table", "scalars", "columns", "units", "facts", "sums", "unit_sums",
)  # fmt: skip
SIGNATURE = f"void({', '.join(['int64'] * len(ARGUMENTS))})"


def render(node: Value, text: dict[Value, str]) -> str:
    """One node as Numba source."""
    if node.op == "const":
        value = node.attrs[0]
        return (
            repr(value)
            if isinstance(value, bool)
            else f"dtype({float(value)!r})".replace("inf", "np.inf").replace("nan", "np.nan")
        )
    return TEXT.get(node.op, MAPS[node.op].text).format(*(text[a] for a in node.args))


def source(program: Program, dtype: str, storage: Storage = PLAIN) -> str:
    """The module text of a program's kernels for parameters of ``dtype``."""
    return Writer(layout(program, dtype, storage)).module()


def show(program: Program, dtype: str) -> str:
    """The text for ``isostep show RULE --source numba``."""
    return source(program, dtype)


class Writer:
    """Writes one module: header, then a function per stage."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.program = layout.program
        self.compute = COMPUTE_DTYPE[layout.dtype]
        self.kinds = {n: layout.dtype_of(n) for n in layout.slots}
        self.packed, self.form = layout.storage.packed, layout.storage.form
        self.rooms = max(map(self._rooms, range(layout.stages)))
        touch = [f"{verb}_{_id(n)}" for verb in ("load", "store", "address") for n in layout.slots]
        touch += [f"noise_{k}" for k in {*layout.pairs, *layout.packed_pairs}]
        words = ("power", "top", "size", "scale", "back")
        touch += [f"{verb}_{_id(n)}" for verb in words for n in self.packed]
        touch += [f"{verb}_{self.form}" for verb in ("pack", "scale", "unpack")]
        touch += [
            f"{verb}_{k}" for verb in ("room", "aside", "keep", "kept") for k in range(self.rooms)
        ]
        self.names = identifiers(self.program, (*RESERVED, *touch))

    def module(self) -> str:
        slots, dtype = self.layout.slots, self.layout.dtype
        added = ("added",) if self.program.figures else ()
        room, places = (("room",) if self.rooms else ()), len(slots) + self.rooms
        head = [
            f'"""{self.program.name}, {dtype}: {self.layout.stages} pass(es). Generated from the rule by isostep."""',
            "",
            "import numpy as np",
            "from numba import njit",
            "",
            "from isostep.lower.numba_support import (",
            *(
                f"    {n},"
                for n in (
                    "KERNEL",
                    "accumulate",
                    "by_sign",
                    *added,
                    "cbrt",
                    "exp",
                    "fetch",
                    "loader",
                    "log1p",
                    "maximum",
                    "minimum",
                    "number",
                    "power",
                    "put",
                    *room,
                    "sign",
                    "storer",
                    "word",
                )
            ),
            *(f"    {n}," for n in self._conversions()),
            ")",
            "",
            "# chunks and all after last are addresses; compiled on import",
            f'SIGNATURE = "{SIGNATURE}"',
            f"dtype = np.{self.compute}",
            *(
                f"load_{_id(n)} = loader({self.kinds[n]!r}, {k}, {places})"
                for k, n in enumerate(slots)
            ),
            *(
                f"store_{_id(n)} = storer({self.kinds[n]!r}, {slots.index(n)}, {places})"
                for n in self.layout.written
            ),
            *(("# what a pass sums is set aside for a run",) if room else ()),
            *(f"room_{k} = room({RUN})" for k in range(self.rooms)),
            *(
                f"{verb}_{k} = {made}('float32', {len(slots) + k}, {places})"
                for k in range(self.rooms)
                for verb, made in (("keep", "storer"), ("kept", "loader"))
            ),
        ]
        for stage in range(self.layout.stages):
            head += ["", "", *self.stage(stage)]
        return "\n".join(head) + "\n"

    def stage(self, stage: int) -> list[str]:
        """The function of one pass."""
        out = [
            "@njit(SIGNATURE, **KERNEL)",
            f"def stage{stage}({', '.join(ARGUMENTS)}):",
            f'    """{self._summary(stage)}"""',
            "    one = dtype(1)",
            *(f"    aside_{k} = room_{k}()" for k in range(self._rooms(stage))),
            "    for chunk in range(first, last):",
            *(
                f"        {n} = word(chunks, 4 * chunk + {k})"
                for k, n in enumerate(("array", "start", "stop", "kind"))
            ),
        ]
        this, slots = self.layout.passes[stage], self.layout.slots
        body = [
            *(
                self._scalar(n, _number(_at("scalars", this.scalars, "kind", k)))
                for k, n in enumerate(this.scalars)
                if n not in self.layout.only_noise
            ),
            *(
                self._scalar(n, _number(_at("columns", this.per_array, "array", k)))
                for k, n in enumerate(this.per_array)
            ),
            *(
                f"address_{_id(n)} = word(table, {self.layout.width} * array + {slots.index(n)})"
                for n in self._touched(stage)
            ),
            *(
                f"_{way}_{self.names[n]} = exp({sign}{self._scale(n)})"
                for n in self.layout.elements(stage)
                if _signed(n)
                for way, sign in (("up", ""), ("down", "-"))
            ),
            *(f"{self._sum(r)} = np.float64(0)" for r in self.layout.passes[stage].sums),
            *(f"{s} = np.float64(0)" for s in self._seen(stage)),
            *(self._key(this) if stage == self.layout.stages - 1 else ()),
        ]
        if self.layout.passes[stage].axis is not None:
            body += self._unit_loops(stage)
        else:
            body += self._chunk(stage)
        sums, seen = [self._sum(r) for r in this.sums], self._seen(stage)
        columns = max(sums, seen, key=len)
        for found in (sums, seen):
            body += [f"put({_at('sums', columns, 'chunk', k)}, {s})" for k, s in enumerate(found)]
        return out + _indent(body, 2)

    def _summary(self, stage: int) -> str:
        sums = ", ".join(self.names[r] for r in self.program.reductions(stage))
        ends = f"sums {sums}" if sums else "stores " + ", ".join(self.layout.written)
        return f"Pass {stage + 1} of {self.layout.stages}: {ends}."

    def _scalar(self, node: Value, place: str) -> str:
        return (
            f"{self.names[node]} = {place} != 0"
            if node.op in BOOLEAN
            else f"{self.names[node]} = dtype({place})"
        )

    def _sum(self, node: Value) -> str:
        return f"_sum_{self.names[node]}"  # no value of the rule's begins with _

    def _touched(self, stage: int) -> list[str]:
        loads = [n.attrs[0] for n in self.layout.elements(stage) if n.op == "input"]
        stores = self.layout.written if stage == self.layout.stages - 1 else []
        also = ["p"] if stores and UPDATE in self.program.outputs else []
        scales = [n + SCALE for n in loads if n in self.packed]
        return [n for n in self.layout.slots if n in {*loads, *stores, *also, *scales}]

    def _load(self, slot: str) -> str:
        text, kind = f"load_{_id(slot)}(address_{_id(slot)}, i)", self.kinds[slot]
        if slot in self.packed:
            text, kind = f"unpack_{self.form}({text}, power_{_id(slot)})", "float32"
        if kind in HALVES:
            return f"widen_{kind}({text})"
        return text if kind == self.compute else f"dtype({text})"

    def _store(self, slot: str, value: str) -> str:
        if slot in self.packed:  # its block's scale is known when all of the block is
            k = self.layout.packed.index(slot)
            return f"keep_{k}(aside_{k}, i - block, np.float32({value}))"
        kind = self.kinds[slot]
        if (number := self.layout.noisy(slot)) is not None:
            value = f"round_{kind}({value}, noise_{number // 2}{' >> 16' if number % 2 else ''})"
        elif kind in HALVES:
            value = f"narrow_{kind}({value})"
        elif kind != self.compute:
            value = f"np.{kind}({value})"
        return f"store_{_id(slot)}(address_{_id(slot)}, i, {value})"

    def _conversions(self) -> list[str]:
        """What is imported to load and store arrays that are not of the dtype of the arithmetic."""
        halves = sorted({*self.kinds.values()} & {*HALVES})
        noise = (
            ["hash_of", "key_of", "noise_of", *(f"round_{k}" for k in halves)]
            if self.program.noise
            else []
        )
        found = [f"{verb}_{k}" for k in halves for verb in ("narrow", "widen")] + noise
        if self.packed:
            found += ["back_of", "power_of", "size_of"]
            found += [f"{verb}_{self.form}" for verb in ("pack", "scale", "unpack")]
        return found

    def _key(self, this: Pass) -> list[str]:
        """The key of the noise with which a chunk's arrays are rounded."""
        if not self.program.noise:
            return []
        column, width = {n: k for k, n in enumerate(this.scalars)}, self.layout.width
        places = [_at("scalars", this.scalars, "kind", column[n]) for n in self.program.noise]
        numbers = ", ".join(map(_number, places))
        return [f"key = key_of({numbers}, word(table, {width} * array + {width - 1}))"]

    def _render(self, node: Value, text: dict[Value, str]) -> str:
        if node.op == "stored":  # the number that the parameter's dtype has for it
            return f"widen_{self.layout.dtype}(narrow_{self.layout.dtype}({text[node.args[0]]}))"
        if found := _signed(node):
            name, s = self.names[node], " * ".join(text[x] for x in found.signs)
            return f"by_sign({bare(s)}, _up_{name}, _down_{name}, one + {text[node.args[0]]})"
        return render(node, text)

    def _scale(self, node: Value) -> str:
        """What stands beside the signs in the argument of an exponential."""
        found = _signed(node)
        return "one" if found is None or found.scale is None else self._text(found.scale)

    def _element(self, stage: int, vector_units: bool = False) -> list[str]:
        """The body of the loop over elements."""
        nodes = self.layout.elements(stage)
        inputs = {n.attrs[0]: n for n in nodes if n.op == "input"}
        last = stage == self.layout.stages - 1
        names = dict(self.names)
        out = [f"{names[n]} = {self._load(slot)}" for slot, n in inputs.items()]
        if last and UPDATE in self.program.outputs and "p" not in inputs:
            out.append(f"p = {self._load('p')}")
        this = self.layout.passes[stage]
        if vector_units:
            out.append("row = base + unit + i - at")
            for k, n in enumerate(this.per_unit):
                out.append(self._scalar(n, _number(_at("units", this.per_unit, "row", k))))
        out += lines(self.program, nodes, names, self._render)
        sums = this.sums + ([] if vector_units else this.unit_sums)
        if self._set_aside(stage):
            out += [
                f"keep_{k}(aside_{k}, i - run, {self._text(r.args[0])})" for k, r in enumerate(sums)
            ]
        else:
            out += [self._accumulate(r, self._text(r.args[0])) for r in sums]
        out += [
            f"{s} = added({s}, {' * '.join(self._text(x) for x in factors(r))})"
            for s, r in zip(self._short(stage), self.layout.figures(stage), strict=True)
        ]
        if vector_units:
            for k, r in enumerate(this.unit_sums):
                out.append(_add(_at("unit_sums", this.unit_sums, "row", k), self._text(r.args[0])))
        if last:
            if self.layout.pairs:
                out.append("hashed = hash_of(key, i)")
            out += [f"noise_{k} = noise_of(hashed, key, {k}, i)" for k in self.layout.pairs]
            out += [self._store(n, self._text(v)) for n, v in self.program.stored.items()]
            for slot in self.layout.packed:
                size, top = f"size_{_id(slot)}", f"top_{_id(slot)}"
                out += [
                    f"{size} = size_of(np.float32({self._text(self.program.stored[slot])}))",
                    f"{top} = {size} if {size} > {top} else {top}",
                ]
            (name, value), *_ = self.program.outputs.items()
            p_in = inputs["p"] if "p" in inputs else None
            p = names[p_in] if p_in is not None else "p"
            out.append(
                self._store(
                    "p", f"{p} + {self._text(value)}" if name == UPDATE else self._text(value)
                )
            )
        return out

    def _rooms(self, stage: int) -> int:
        """How many buffers of a run a stage has."""
        last = stage == self.layout.stages - 1
        return len(self.layout.packed) if last and self.packed else len(self._set_aside(stage))

    def _blocks(self, stage: int, stop: str, body: list[str]) -> list[str] | None:
        """The loop over a run's elements block by block, if any array of the pass is in blocks."""
        slots = [n for n in self._touched(stage) if n in self.packed]
        if not slots:
            return None
        loads = {n.attrs[0] for n in self.layout.elements(stage) if n.op == "input"}
        stores = [(k, n) for k, n in enumerate(self.layout.packed) if n in slots]
        if stage < self.layout.stages - 1:
            stores = []
        at = f"block // {BLOCK}"
        end = f"min({stop}, block + {BLOCK})"  # a run is whole blocks
        out = [
            f"power_{_id(n)} = power_of(load_{_id(n + SCALE)}(address_{_id(n + SCALE)}, {at}))"
            for n in slots
            if n in loads
        ]
        out += [f"top_{_id(n)} = np.int32(0)" for _, n in stores]
        out += [f"for i in range(block, {end}):", *_indent(body)]
        for _, n in stores:
            out += [
                f"scale_{_id(n)} = scale_{self.form}(top_{_id(n)})",
                f"store_{_id(n + SCALE)}(address_{_id(n + SCALE)}, {at}, scale_{_id(n)})",
                f"back_{_id(n)} = back_of(scale_{_id(n)})",
            ]
        pack = ["hashed = hash_of(key, i)"]
        pack += [f"noise_{k} = noise_of(hashed, key, {k}, i)" for k in self.layout.packed_pairs]
        for k, n in stores:
            number = self.layout.number(n)
            noise = f"noise_{number // 2}{' >> 16' if number % 2 else ''}"
            value = f"pack_{self.form}(kept_{k}(aside_{k}, i - block), back_{_id(n)}, {noise})"
            pack.append(f"store_{_id(n)}(address_{_id(n)}, i, {value})")
        if stores:
            out += [f"for i in range(block, {end}):", *_indent(pack)]
        return [
            f"for block in range(run, min({stop}, run + {self._length(stage)}), {BLOCK}):",
            *_indent(out),
        ]

    def _set_aside(self, stage: int) -> list[Value]:
        """The sums whose terms wait in a buffer until a run is done: float64 among float32 halves the lanes of both.

        Not where units have sums of their own, whose runs may be of a few elements.
        """
        this = self.layout.passes[stage]
        return this.sums if self.compute == "float32" and this.axis is None else []

    def _accumulate(self, node: Value, term: str) -> str:
        return f"{self._sum(node)} = accumulate({self._sum(node)}, {term})"

    def _seen(self, stage: int) -> list[str]:
        """The sums of an observed rule, which the last pass collects."""
        return [f"_seen_{k}" for k, _ in enumerate(self.layout.figures(stage))]

    def _short(self, stage: int) -> list[str]:
        """The same over a short run, in the dtype of the arithmetic: in float64 they would take as long as the step."""
        return [f"_short_{k}" for k, _ in enumerate(self.layout.figures(stage))]

    def _chunk(self, stage: int) -> list[str]:
        """The loop over a chunk whose elements are all alike; it fetches what comes next."""
        touched, line = self._touched(stage), LINE[self.compute]
        slots = [n for n in touched if n not in self.layout.storage.scales]
        places = [
            f"table, {self.layout.width} * after + {self.layout.slots.index(n)}" for n in slots
        ]
        length = self._length(stage)
        following = ("after", "begin", "until")  # the next chunk's array, start and stop
        return [
            *(f"{n} = word(chunks, 4 * min(chunk + 1, last - 1) + {k})" for k, n in enumerate(following)),
            f"for line in range(begin, min(until, begin + {AHEAD}), {line}):",
            *self._fetch(slots, [f"word({place})" for place in places]),
            *self._loop(stage, "start", "stop", self._element(stage), [
                f"for line in range(run + {AHEAD}, min(stop, run + {AHEAD + length}), {line}):",
                *self._fetch(slots, [f"address_{_id(n)}" for n in slots]),
            ]),
        ]  # fmt: skip

    def _length(self, stage: int) -> int:
        """Elements of a run: as many as the buffer for terms holds; an observed rule's sums are of longer ones."""
        return SHORT if self.layout.figures(stage) and not self._set_aside(stage) else RUN

    def _fetch(self, slots: list[str], addresses: list[str]) -> list[str]:
        widths = [WIDTH[self.kinds[n]] for n in slots]
        return [
            f"    fetch({at} + {width} * line)" for at, width in zip(addresses, widths, strict=True)
        ]

    def _loop(
        self,
        stage: int,
        first: str,
        stop: str,
        body: list[str],
        before: Sequence[str] = (),
    ) -> list[str]:
        """A loop over elements: in runs if something stands before each, or terms or sums are kept for a run."""
        aside = self._set_aside(stage)
        pairs = list(zip(self._seen(stage), self._short(stage), strict=True))
        if not pairs and not before and not aside:
            return [f"for i in range({first}, {stop}):", *_indent(body)]
        length = self._length(stage)
        terms = [self._accumulate(r, f"kept_{k}(aside_{k}, i)") for k, r in enumerate(aside)]
        return [
            f"for run in range({first}, {stop}, {length}):",
            *_indent([*before, *(f"{short} = dtype(0)" for _, short in pairs)]),
            *_indent(
                self._blocks(stage, stop, body)
                or [f"for i in range(run, min({stop}, run + {length})):", *_indent(body)]
            ),
            *(
                [f"    for i in range(min({stop} - run, {length})):", *_indent(terms, 2)]
                if terms
                else ()
            ),
            *(f"    {seen} += np.float64({short})" for seen, short in pairs),
        ]

    def _text(self, node: Value) -> str:
        if node.op == "const":
            return render(node, {})
        return self.names[node]

    def _unit_loops(self, stage: int) -> list[str]:
        """Loops over runs in which the unit is constant, or (if units alternate) over runs of all units."""
        this, unit = self.layout.passes[stage], "(base + unit)"
        run = [
            "unit = (at // inner) % count",
            "end = min(stop, at + inner - at % inner)",
            *(
                self._scalar(n, _number(_at("units", this.per_unit, unit, k)))
                for k, n in enumerate(this.per_unit)
            ),
            *(f"{self._sum(r)} = np.float64(0)" for r in this.unit_sums),
            *self._loop(stage, "at", "end", self._element(stage)),
            *(
                _add(_at("unit_sums", this.unit_sums, unit, k), self._sum(r))
                for k, r in enumerate(this.unit_sums)
            ),
            "at = end",
        ]
        row = [
            "unit = at % count",
            "end = min(stop, at + count - unit)",
            *self._loop(stage, "at", "end", self._element(stage, vector_units=True)),
            "at = end",
        ]
        return [
            *(
                f"{n} = word(facts, 3 * array + {k})"
                for k, n in enumerate(("inner", "count", "base"))
            ),
            "at = start",
            "if inner > 1:  # runs of one unit",
            "    while at < stop:",
            *_indent(run, 2),
            "else:  # neighbours belong to different units: runs of all units",
            "    while at < stop:",
            *_indent(row, 2),
        ]


class _Signed(NamedTuple):
    """The argument of an exponential that is -c, 0 or c: a product of signs, and of a number if there is one."""

    scale: Value | None
    signs: list[Value]


def _signed(node: Value) -> _Signed | None:
    """What a node is the exponential of, if that has three values: two are taken before the loop, to the same bits."""
    if node.op != "exp":
        return None
    waiting, scales, signs = [node.args[0]], [], []
    while waiting:
        factor = waiting.pop()
        if factor.domain <= Domain.ARRAY:
            scales.append(factor)
        elif _only_signs(factor):
            signs.append(factor)
        elif factor.op == "mul":
            waiting += reversed(factor.args)
        else:
            return None
    return _Signed(scales[0] if scales else None, signs) if signs and len(scales) < 2 else None


def _only_signs(node: Value) -> bool:
    return node.op == "sign" or (node.op == "mul" and all(map(_only_signs, node.args)))


def _at(table: str, columns: Sequence[object], row: str, column: int) -> str:
    """A place in a table with so many columns (one if there are none), as the arguments of a load."""
    return f"{table}, {max(len(columns), 1)} * {row} + {column}"


def _number(place: str) -> str:
    return f"number({place})"


def _add(place: str, value: str) -> str:
    return f"put({place}, number({place}) + {value})"


def _id(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _indent(block: list[str], levels: int = 1) -> list[str]:
    return ["    " * levels + line for line in block]
