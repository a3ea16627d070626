"""Programs as CUDA C: one ``__global__`` function per stage, over all arrays of a list.

``lower.device`` says what a kernel is; here it becomes text. What the text is built from is ``kernels.h``.
"""

from __future__ import annotations

import textwrap

import numpy as np

from isostep.blocks import SCALE
from isostep.listing import identifiers, lines
from isostep.lower.device import (
    DTYPES,
    FACT_COLUMNS,
    Given,
    Kernel,
    Kernels,
    kernels,
    of_group,
)
from isostep.program import Program
from isostep.sums import factors
from isostep.values import FACTS, Value, is_bool
from isostep_cupy.cuda_text import (
    TYPES,
    WORDS,
    applied,
    indent,
    literal,
    preamble,
    word,
)


def source(kernels: Kernels) -> str:
    """The text of all kernels of a program; ``kernels.h`` is named, not contained."""
    return _Writer(kernels).text()


def show(program: Program, dtype: str) -> str:
    """The text for ``isostep show RULE --source cuda``."""
    return source(kernels(program, dtype))


class _Writer:
    """Writes one program's kernels."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels, self.program = kernels, kernels.program
        self.mixed = kernels.group_dtype != kernels.compute
        self.layout = kernels.layout
        self.packed = kernels.layout.storage.packed
        slots = [
            f"{n}{word(s)}{m}" for s in kernels.slots for n, m in (("at_", ""), ("", "_lanes"))
        ]
        slots += [f"noise_{k}" for k in {*self.layout.pairs, *self.layout.packed_pairs}]
        self.names = identifiers(
            self.program, (*WORDS, *DTYPES, *slots, "count", "arrays", "width", "lead")
        )

    def text(self) -> str:
        k = self.kernels
        count = len(k.stages)
        head = [
            f"// {self.program.name}, {k.dtype}: {count} kernel{'s' if count > 1 else ''}. "
            "Generated from the rule by isostep.",
            *preamble(k.dtype, k.compute, k.group_dtype),
        ]
        for stage in k.stages:
            head += ["", *(self._units(stage) if stage.grid == "units" else self._chunks(stage))]
        return "\n".join(head) + "\n"

    # Values

    def _dtype_of(self, node: Value) -> str:
        return self.kernels.group_dtype if of_group(node) else self.kernels.compute

    def _type(self, node: Value) -> str:
        return "bool" if is_bool(node) else "group_real" if of_group(node) else "real"

    def _operand(self, node: Value, user: Value | None, text: str) -> str:
        """A node's text where ``user`` reads it (None: an output), in the user's dtype."""
        dtype = self.kernels.compute if user is None else self._dtype_of(user)
        if node.op == "const":
            return literal(node.attrs[0], dtype)
        if self.mixed and of_group(node) and dtype == self.kernels.compute and not is_bool(node):
            return f"real({text})"
        return text

    def _render(self, node: Value, text: dict[Value, str]) -> str:
        if node.op == "const":
            return literal(node.attrs[0], self.kernels.compute)
        if node.op in FACTS:
            return self._fact(node)
        operands = [self._operand(a, node, text[a]) for a in node.args]
        return applied(node, operands)

    def _fact(self, node: Value) -> str:
        if node.op == "eps":
            return literal(float(np.finfo(self.kernels.compute).eps), self.kernels.compute)
        if node.op == "unit_size":
            return f"(real){_fact('size')} / (real)({_fact('count')} > 0 ? {_fact('count')} : 1)"
        return f"(real){_fact(node.op)}"

    def _text(self, node: Value) -> str:
        return self._operand(node, None, self.names[node])

    def _declare(self, nodes: list[Value]) -> list[str]:
        by_name = {self.names[n]: n for n in nodes}
        found = lines(self.program, nodes, self.names, self._render)
        return [f"const {self._type(by_name[line.partition(' = ')[0]])} {line};" for line in found]

    def _given(self, kernel: Kernel, *tables: str) -> list[str]:
        """Declarations of the values that are read from these tables."""
        found = []
        for node, place in kernel.given.items():
            if place.table in tables and node not in self.layout.only_noise:
                text, kind = self._place(place), self._type(node)
                value = f"{text} != 0" if kind == "bool" else f"({kind}){text}"
                value = text if place.table == "group" else value
                found.append(f"const {kind} {self.names[node]} = {value};")
        return found

    def _place(self, place: Given) -> str:
        k = place.column
        stage = f"{place.stage} * " if place.stage != 1 else ""
        return {
            "scalars": f"scalars[kind * {len(self.kernels.scalars)} + {k}]",
            "shared": f"shared[{k}]",
            "group": f"*(const group_real *)group[{k}]",
            "totals": f"totals[{stage}width + {k}]" if place.stage else f"totals[{k}]",
            "sums": f"sums[({stage}arrays + array) * width + {k}]"
            if place.stage
            else f"sums[array * width + {k}]",
            "unit_sums": f"unit_sums[unit * {len(self.kernels.unit_sums)} + {k}]",
        }[place.table]

    # Kernels

    def _head(self, kernel: Kernel) -> list[str]:
        read = (
            {*kernel.arguments}
            - {"partials", "group_new", "seen"}
            - ({"unit_sums"} if kernel.unit_sums else set())
        )
        parameters = [
            f"{'const ' if a in read else ''}{'int64' if DTYPES[a] == 'int64' else 'double'} *{a}"
            if a in DTYPES
            else f"int64 {a}"
            for a in kernel.arguments
        ]
        sums = ", ".join(self.names[r] for r in (*kernel.sums, *kernel.unit_sums))
        stored = ", ".join(n for n in self.kernels.slots if n in self._stored(kernel))
        ends = f"sums {sums}" if sums else f"stores {stored}"
        count = len(self.kernels.stages)
        return [
            f"// Pass {kernel.stage + 1} of {count}: {ends}.",
            f'extern "C" __global__ void {kernel.name}(',
            *_wrapped(parameters),
            ") {",
        ]

    def _of_block(self, kernel: Kernel) -> list[str]:
        """Values of the group, computed once per block, and their new state."""
        out = self._given(kernel, "shared", "group", "totals")
        out += self._declare(kernel.group)
        if kernel.group_outputs:
            out.append("if (lead && blockIdx.x == 0 && threadIdx.x == 0) {")
            for k, node in enumerate(kernel.group_outputs):
                const = (
                    literal(node.attrs[0], self.kernels.group_dtype) if node.op == "const" else ""
                )
                out.append(f"    group_new[{k}] = {const or self.names[node]};")
            out.append("}")
        return out

    def _of_row(self, kernel: Kernel) -> list[str]:
        slots, stride = self.kernels.slots, self.layout.width + 1
        touched = {*kernel.inputs, *self._stored(kernel)}
        touched |= {n + SCALE for n in self.packed if n in touched}
        return [
            "const int64 array = chunks[4 * row], start = chunks[4 * row + 1], stop = chunks[4 * row + 2];",
            *(["const int64 kind = chunks[4 * row + 3];"] if "scalars" in kernel.arguments else []),
            *(
                f"{self._kept(s)} *const at_{word(s)} = array_at{self._other(s)}(table[array * {stride} + {k}]);"
                for k, s in enumerate(slots)
                if s in touched
            ),
            *self._given(kernel, "scalars", "sums"),
            *self._declare(kernel.array),
            *self._key(kernel),
        ]

    def _kept(self, slot: str) -> str:
        """The type of a slot's elements."""
        if slot in self.packed:
            return str(self.layout.storage.form)
        dtype = self.layout.dtype_of(slot)
        return "stored" if dtype == self.kernels.dtype else TYPES[dtype]

    def _other(self, slot: str) -> str:
        kept = self._kept(slot)
        return "" if kept == "stored" else f"<{kept}>"

    def _key(self, kernel: Kernel) -> list[str]:
        """The key of the noise with which this pass's arrays are rounded."""
        if not (self._stored(kernel) and (self.layout.pairs or self._exchanged(kernel))):
            return []
        words = [self._place(kernel.given[n]) for n in self.program.noise]
        words.append(f"table[array * {self.layout.width + 1} + {self.layout.width - 1}]")
        return [f"const unsigned key = key_of({', '.join(words)});"]

    def _stored(self, kernel: Kernel) -> set[str]:
        return {*kernel.stores, *(["p"] if kernel.update is not None else [])}

    def _exchanged(self, kernel: Kernel) -> list[str]:
        """The slots that a pass stores in blocks, for which threads tell each other of their lanes."""
        return [n for n in kernel.stores if n in self.packed]

    def _unit_facts(self) -> list[str]:
        return [
            f"const int64 inner = {_fact('inner')}, units = {_fact('count')}, base = {_fact('base')};"
        ]

    def _rows(self, kernel: Kernel, body: list[str]) -> list[str]:
        """A kernel around the body of its loop over rows."""
        return [
            *self._head(kernel),
            *indent(self._of_block(kernel)),
            "    for (int64 row = blockIdx.x; row < count; row += gridDim.x) {",
            *indent(body, 2),
            "    }",
            "}",
        ]

    def _sum(self, node: Value) -> str:
        return f"_{self.names[node]}"  # no value of the rule's begins with _

    def _partials(self, kernel: Kernel) -> list[str]:
        out = []
        for node, k in kernel.sums.items():
            out.append(f"{self._sum(node)} = sum_of_block({self._sum(node)});")
            out.append(f"if (threadIdx.x == 0) partials[row * width + {k}] = {self._sum(node)};")
        for k, _ in enumerate(kernel.figures):
            out.append(f"const double _total_{k} = sum_of_block(_seen_{k});")
            out.append(
                f"if (threadIdx.x == 0) seen[row * {len(kernel.figures)} + {k}] = _total_{k};"
            )
        return out

    def _chunks(self, kernel: Kernel) -> list[str]:
        """A kernel over contiguous elements, ``LANES`` at a time."""
        stride = self.layout.width + 1
        stored = self._stored(kernel)
        inside = [
            *(
                f"const real {self._element(s, n)} = {word(s)}_lanes[lane];"
                for s, n in kernel.inputs.items()
            )
        ]
        if kernel.reads_units:
            inside.append("const int64 unit = base + unit_of(i + lane, inner, units);")
        inside += self._given(kernel, "unit_sums") + self._declare(kernel.unit)
        inside += self._declare(kernel.element)
        inside += [f"if (lane < n) {self._sum(r)} += {self._text(r.args[0])};" for r in kernel.sums]
        inside += [
            f"if (lane < n) _seen_{k} += {' * '.join(map(self._text, factors(r)))};"
            for k, r in enumerate(kernel.figures)
        ]
        inside += self._noise(kernel)
        pairs = self.layout.packed_pairs if (exchanged := self._exchanged(kernel)) else []
        inside += [f"noise_{k}[lane] = noise_of(hashed, key, {k}, i + lane);" for k in pairs]
        inside += [
            f"{word(s)}_lanes[lane] = {self._rounded(s, self._text(v))};"
            for s, v in kernel.stores.items()
        ]
        if kernel.update is not None:
            p = self._element("p", kernel.inputs["p"])
            new = self._rounded("p", f"{p} + {self._text(kernel.update)}")
            inside.append(f"p_lanes[lane] = {new};")
        both = [s for s in self.kernels.slots if s in {*kernel.inputs, *stored}]
        loop = [
            "const int n = lanes_left(stop - i);",
            f"real {', '.join(f'{word(s)}_lanes[LANES]' for s in both)};" if both else "",
            f"unsigned {', '.join(f'noise_{k}[LANES]' for k in pairs)};" if pairs else "",
            *(self._load(s) for s in kernel.inputs),
            "#pragma unroll",
            "for (int lane = 0; lane < LANES; ++lane) {",
            *indent(inside),
            "}",
            *(self._store(s) for s in both if s in stored),
        ]
        if exchanged:  # all threads go round as often
            turns = [
                "for (int64 turn = start; turn < stop; turn += LANES * blockDim.x) {",
                "    const int64 i = turn + LANES * threadIdx.x;",
            ]
        else:
            turns = [
                "for (int64 i = start + LANES * threadIdx.x; i < stop; i += LANES * blockDim.x) {"
            ]
        return self._rows(
            kernel,
            [
                *self._of_row(kernel),
                f"const bool wide = table[array * {stride} + {stride - 1}];",
                *(self._unit_facts() if kernel.reads_units else []),
                *(f"double {self._sum(r)} = 0;" for r in kernel.sums),
                *(f"real _seen_{k} = 0;" for k, _ in enumerate(kernel.figures)),
                *turns,
                *indent([x for x in loop if x]),
                "}",
                *self._partials(kernel),
            ],
        )

    def _load(self, slot: str) -> str:
        """Lanes from a slot's array."""
        scales = f", at_{word(slot + SCALE)}, i" if slot in self.packed else ""
        return f"load({word(slot)}_lanes, at_{word(slot)} + i{scales}, n, wide);"

    def _store(self, slot: str) -> str:
        """Lanes to a slot's array."""
        at, lanes = f"at_{word(slot)} + i", f"{word(slot)}_lanes"
        if slot not in self.packed:
            return f"store({at}, {lanes}, n, wide);"
        number = self.layout.number(slot)
        noise = f"noise_{number // 2}, {16 * (number % 2)}"
        return f"store({at}, at_{word(slot + SCALE)}, {lanes}, {noise}, i, n, wide);"

    def _noise(self, kernel: Kernel) -> list[str]:
        """What the arrays that this pass stores are rounded with at element ``i + lane``; two share a number."""
        pairs = self.layout.pairs if self._stored(kernel) else []
        hashed = pairs or self._exchanged(kernel)
        return [
            *(["const unsigned hashed = hash_of(key, i + lane);"] if hashed else []),
            *(f"const unsigned noise_{k} = noise_of(hashed, key, {k}, i + lane);" for k in pairs),
        ]

    def _rounded(self, slot: str, text: str) -> str:
        """A value as it goes to a slot's store, which rounds to nearest what has not been rounded by noise."""
        number = self.layout.noisy(slot)
        if number is None:
            return text
        half = f"noise_{number // 2}{' >> 16' if number % 2 else ''}"
        return f"rounded_{self.layout.dtype_of(slot)}({text}, {half})"

    def _element(self, slot: str, node: Value | None) -> str:
        return self.names[node] if node is not None else word(slot)

    def _units(self, kernel: Kernel) -> list[str]:
        """A kernel over whole units, several at a time."""
        inside = [
            "const int64 i = element_of(r, first + share.slot, inner, units);",
            *(
                f"const real {self._element(s, n)} = widen(at_{word(s)}[i]);"
                for s, n in kernel.inputs.items()
            ),
            *self._declare(kernel.element),
            *(
                f"{self._sum(r)} += {self._text(r.args[0])};"
                for r in (*kernel.sums, *kernel.unit_sums)
            ),
        ]
        tile = [
            "const int64 unit = base + first + share.slot;",
            *(f"double {self._sum(r)} = 0;" for r in kernel.unit_sums),
            "if (first + share.slot < stop) {",
            *indent([*self._given(kernel, "unit_sums"), *self._declare(kernel.unit)]),
            "    for (int64 r = share.lane; r < length; r += share.lanes) {",
            *indent(inside, 2),
            "    }",
            "}",
        ]
        columns = len(self.kernels.unit_sums)
        for r, k in kernel.unit_sums.items():
            s = self._sum(r)
            tile += [
                f"{s} = sum_of_lanes({s}, share.lane, share.lanes, share.stride);",
                f"if (share.lane == 0 && first + share.slot < stop) unit_sums[unit * {columns} + {k}] = {s};",
            ]
        return self._rows(
            kernel,
            [
                *self._of_row(kernel),
                *self._unit_facts(),
                f"const int64 length = units > 0 ? {_fact('size')} / units : 0;",
                "const Share share = share_units(inner, units, length);",
                *(f"double {self._sum(r)} = 0;" for r in kernel.sums),
                "for (int64 first = start; first < stop; first += share.slots) {",
                *indent(tile),
                "}",
                *self._partials(kernel),
            ],
        )


def _wrapped(parameters: list[str]) -> list[str]:
    """A list of parameters in lines of ordinary width, none of them broken."""
    text = ", ".join(p.replace(" ", "~") for p in parameters)
    return [f"    {line}".replace("~", " ") for line in textwrap.wrap(text, 100)]


def _fact(name: str) -> str:
    return f"facts[array * {len(FACT_COLUMNS)} + {FACT_COLUMNS.index(name)}]"
