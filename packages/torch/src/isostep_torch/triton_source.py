"""Programs as Triton source: one kernel per stage over rows of all arrays' elements, through a table of addresses.

``isostep.lower.device`` says what each kernel reads, computes, sums and stores; here that becomes text. A kernel
takes one row of ``chunks``, and has two forms of the same lines: for rows that are whole blocks of arrays that lie
at multiples of 16 bytes, without masks and with loads and stores 16 bytes wide; and for all others, with masks.
"""

from __future__ import annotations

import numpy as np

from isostep.listing import identifiers, lines
from isostep.lower.device import ARGUMENTS, FACT_COLUMNS, Given, Kernel, Kernels, is_bool, of_group
from isostep.lower.device import kernels as kernels_of
from isostep.program import Program, ancestors
from isostep.values import FACTS, MAPS, Domain, Value

#: Elements that a block holds at a time: eight for each of its 128 threads.
BLOCK = 1024
TEXT = {
    "and": "both({}, {})",
    "or": "either({}, {})",
    "not": "({} == 0)",
    "abs": "tl.abs({})",
    "where": "tl.where({}, {}, {})",
}
#: Operations that ``triton_support`` has, and Triton not, or not as the contract wants them.
CALLS = (
    "div", "pow", "sign", "sqrt", "cbrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "atan2", "maximum",
    "minimum", "floor", "isfinite", "isnan",
)  # fmt: skip
TEXT |= {f: f"{f}({', '.join(['{}'] * MAPS[f].arity)})" for f in CALLS}
#: Operations in which Triton gives a Python number the type of the other operand.
INFIX = frozenset(("add", "sub", "mul", "lt", "le", "gt", "ge", "eq", "ne"))
HELPERS = (
    "item", "pointer", "widen", "narrow", "total", "quotient", "unit_of", "both", "either"
)  # fmt: skip
FACT_NAMES = dict(zip(FACT_COLUMNS, ("size", "ndim", "inner", "units", "base"), strict=True))
#: What a kernel's own text uses, so that no value of a rule's may be called so.
RESERVED = (*HELPERS, *CALLS, *"""
    tl triton device kernel range float size ndim inner units base row array start stop kind aligned at lane i inside
    unit length u r mine some few nothing run tile amp times hypers kinds LANES AXIS BLOCK WHOLE ALONG UNITS
""".split(), *ARGUMENTS)  # fmt: skip


def source(kernels: Kernels, *, traced: bool = False) -> str:
    """The module text of a program's kernels.

    ``traced``: each stage has one more argument, ``amp``: what to multiply gradients by, and whether to leave
    everything as it is; and there are ``numbers`` and ``shared_numbers``, which compute the scalars of a step.
    """
    return _Writer(kernels, traced).module()


def show(program: Program, dtype: str) -> str:
    """What ``isostep show RULE --source triton`` prints."""
    return source(kernels_of(program, dtype))


class _Writer:
    def __init__(self, kernels: Kernels, traced: bool) -> None:
        self.kernels, self.traced = kernels, traced
        self.half = kernels.compute != kernels.dtype
        touch = (f"{_id(n)}_at" for n in kernels.slots)
        self.names = identifiers(kernels.program, (*RESERVED, *touch))

    def module(self) -> str:
        body: list[str] = []
        for kernel in self.kernels.stages:
            body += ["", "", *_Pass(self, kernel).text()]
        if self.traced:
            body += _Numbers(self.kernels).text()
        text = "\n".join(body)
        used = [h for h in (*HELPERS, *CALLS) if f"{h}(" in text]
        head = [
            f'"""{self.kernels.program.name}, {self.kernels.dtype}: {len(self.kernels.stages)} pass(es). '
            'Generated from the rule by isostep."""',
            "",
            "import triton",
            "import triton.language as tl",
            "",
            f"from isostep_torch.triton_support import {', '.join(sorted(['device', 'kernel', *used]))}",
        ]
        return "\n".join(head) + "\n" + text.lstrip("\n").join(("\n\n", "\n"))

    def dtype_of(self, node: Value) -> str:
        return self.kernels.group_dtype if of_group(node) else self.kernels.compute

    def constant(self, node: Value, dtype: str) -> str:
        value = node.attrs[0]
        if isinstance(value, bool):
            return f"tl.full((), {value}, tl.int1)"
        return f"tl.full((), {_number(value)}, tl.{dtype})"

    def render(self, node: Value, text: dict[Value, str]) -> str:
        """One node as Triton source."""
        if node.op == "const":
            return ""  # its users write it, each in a type of its own
        if node.op in FACTS:
            return self._fact(node)
        literal = node.op in INFIX and any(a.op != "const" for a in node.args)
        words = [
            _number(a.attrs[0]) if a.op == "const" and literal else self.value(a, node, text)
            for a in node.args
        ]
        return TEXT.get(node.op, MAPS[node.op].text).format(*words)

    def value(self, node: Value, user: Value | None, text: dict[Value, str] | None = None) -> str:
        """A value as ``user`` takes it (None: the loop over elements), in the user's dtype."""
        dtype = self.kernels.compute if user is None else self._dtype_among(user)
        if node.op == "const":
            return self.constant(node, dtype)
        own = (text or self.names)[node]
        return own if is_bool(node) or self.dtype_of(node) == dtype else f"{own}.to(tl.{dtype})"

    def _dtype_among(self, node: Value) -> str:
        """The type of the numbers that an operation works on: a comparison has none, its operands do."""
        if is_bool(node) and not of_group(node):
            numbers = [a for a in node.args if a.op != "const" and not is_bool(a)]
            if numbers and all(map(of_group, numbers)):
                return self.kernels.group_dtype
        return self.dtype_of(node)

    def _fact(self, node: Value) -> str:
        compute = self.kernels.compute
        if node.op == "eps":
            return f"tl.full((), {float(np.finfo(compute).eps)!r}, tl.{compute})"
        if node.op == "unit_size":
            return f"(size // tl.maximum(units, 1)).to(tl.{compute})"
        return f"{node.op}.to(tl.{compute})"


class _Pass:
    """One stage: the function with its lines, and the kernel that calls it in the form that fits."""

    def __init__(self, writer: _Writer, kernel: Kernel) -> None:
        self.writer, self.kernel = writer, kernel
        self.kernels, self.names = writer.kernels, writer.names
        self.arguments = arguments(kernel, traced=writer.traced)
        self.over_units = kernel.grid == "units"

    def text(self) -> list[str]:
        stage, given = self.kernel.stage, ", ".join(self.arguments)
        forms = (
            "ALONG: tl.constexpr, UNITS: tl.constexpr" if self.over_units else "WHOLE: tl.constexpr"
        )
        return [
            "@device",
            f"def pass{stage}({given}, row, array, start, stop, kind, {forms}, BLOCK: tl.constexpr):",
            f'    """{self._summary()}"""',
            *_indent(self._uniform()),
            *_indent(self._over_units() if self.over_units else self._over_elements()),
            *("", "", "@kernel"),
            f"def stage{stage}({given}, BLOCK: tl.constexpr):",
            '    """One row of chunks, in the form that fits it."""',
            "    row = tl.program_id(0).to(tl.int64)",
            "    array = item(chunks, 4 * row)",
            "    start = item(chunks, 4 * row + 1)",
            "    stop = item(chunks, 4 * row + 2)",
            "    kind = item(chunks, 4 * row + 3)",
            *self._guarded(
                self._choice(f"pass{stage}({given}, row, array, start, stop, kind, {{}}, BLOCK)")
            ),
        ]

    def _guarded(self, lines: list[str]) -> list[str]:
        """A step that must change nothing still sums, and stores nothing."""
        stores = self.kernel.stores or self.kernel.update is not None
        if not (self.writer.traced and stores):
            return _indent(lines)
        return ["    if item(amp, 1) == 0:", *_indent(lines, 2)]

    def _choice(self, call: str) -> list[str]:
        if self.over_units:
            return [
                f"inner = {_fact('inner')}",
                "if inner == 1:  # neighbours belong to different units",
                f"    {call.format('False, BLOCK // 8')}",
                f"elif {_fact('size')} > BLOCK // 4 * {_fact('count')}:",
                f"    {call.format('True, 1')}",
                "else:  # short units, several at a time",
                f"    {call.format('True, 8')}",
            ]
        slots = len(self.kernels.slots)
        return [
            f"aligned = item(table, {slots + 1} * array + {slots})",
            "if (aligned != 0) & ((stop - start) % BLOCK == 0):",
            f"    {call.format('True')}",
            "else:",
            f"    {call.format('False')}",
        ]

    def _summary(self) -> str:
        sums = [*self.kernel.sums, *self.kernel.unit_sums]
        stored = [*self.kernel.stores, *(["p"] if self.kernel.update is not None else [])]
        ends = [
            *(["sums " + ", ".join(self.names[r] for r in sums)] if sums else []),
            *(["stores " + ", ".join(stored)] if stored else []),
        ]
        return f"Pass {self.kernel.stage + 1} of {len(self.kernels.stages)}: {'; '.join(ends)}."

    def _uniform(self) -> list[str]:
        """What is the same for all elements of a row."""
        kernel, columns = self.kernel, len(self.kernels.slots) + 1
        wanted = {*kernel.inputs, *kernel.stores}
        whole = "False" if self.over_units else "WHOLE"
        return [
            *(f"{FACT_NAMES[c]} = {_fact(c)}" for c in FACT_COLUMNS if c in self._facts()),
            *(
                f"{self.names[n]} = {self._given(n, g)}"
                for n, g in kernel.given.items()
                if g.table != "unit_sums"
            ),
            *self._lines(kernel.group),
            *self._lines(kernel.array),
            *self._group_outputs(),
            *(
                f"{_id(s)}_at = pointer(table, {columns} * array + {k}, tl.{self.kernels.dtype}, {whole})"
                for k, s in enumerate(self.kernels.slots)
                if s in wanted
            ),
        ]

    def _over_elements(self) -> list[str]:
        body = [
            "at = tl.multiple_of(start + tile * BLOCK, 16)",
            "i = at + lane",
            "inside = i < stop",
            "if WHOLE:",
            "    inside = tl.full((BLOCK,), True, tl.int1)",
        ]
        if self.kernel.reads_units:
            body.append("unit = base + unit_of(at, lane, inner, units, BLOCK)")
        return [
            "lane = tl.arange(0, BLOCK)",
            *(f"{self._sum(r)} = tl.full((BLOCK,), 0, tl.float64)" for r in self.kernel.sums),
            "for tile in range((stop - start + BLOCK - 1) // BLOCK):",
            *_indent([*body, *self._of_units("inside"), *self._elements(), *self._stores()]),
            *self._partials("total({}, 0)"),
        ]

    def _over_units(self) -> list[str]:
        kernel = self.kernel
        inner = [
            "r = tile * (BLOCK // UNITS) + lane",
            "run = quotient(tile * (BLOCK // UNITS), lane, inner, BLOCK)",
            "i = run * units * inner + u * inner + (r - run * inner)",
            "inside = mine & (r < length)",
            *self._elements(),
        ]
        sums = [f"{self._sum(r)} = nothing" for r in kernel.sums]
        unit_sums = [f"{self._sum(r)} = nothing" for r in kernel.unit_sums]
        outer = [
            "u = start + some * UNITS + few",
            "mine = u < stop",
            "unit = base + u",
            *self._of_units("mine"),
            *unit_sums,
            "for tile in range((length + BLOCK // UNITS - 1) // (BLOCK // UNITS)):",
            *_indent(inner),
            *(
                f"tl.store(unit_sums + {len(self.kernels.unit_sums)} * unit + {k}, "
                f"total({self._sum(r)}, AXIS, True), mask=mine)"
                for r, k in kernel.unit_sums.items()
            ),
        ]
        return [
            "length = size // tl.maximum(units, 1)",
            "AXIS: tl.constexpr = 1 if ALONG else 0  # along which the elements of a unit lie",
            "few = tl.expand_dims(tl.arange(0, UNITS), AXIS)",
            "lane = tl.expand_dims(tl.arange(0, BLOCK // UNITS), 1 - AXIS)",
            "nothing = ((few + lane) * 0).to(tl.float64)",
            *sums,
            "for some in range((stop - start + UNITS - 1) // UNITS):",
            *_indent(outer),
            *self._partials("total(total({}, 1), 0)"),
        ]

    def _facts(self) -> set[str]:
        """The columns of facts that this pass reads."""
        ops = {n.op for n in self.kernel.array}
        found: set[str] = ops & {"size", "ndim"}
        if "unit_size" in ops:
            found |= {"size", "count"}
        if self.over_units:
            found |= {"size", "inner", "count", "base"}
        elif self.kernel.reads_units:
            found |= {"inner", "count", "base"}
        return found

    def _given(self, node: Value, given: Given, mask: str = "") -> str:
        """A value from a table, in its own dtype."""
        kernels, dtype, k = self.kernels, self.writer.dtype_of(node), given.column
        if given.table == "group":
            return f"item(pointer(group, {k}, tl.{dtype}, False), 0)"
        place = {
            "scalars": f"{len(kernels.scalars)} * kind + {k}",
            "shared": f"{k}",
            "sums": f"({given.stage} * arrays + array) * width + {k}",
            "totals": f"{given.stage} * width + {k}",
            "unit_sums": f"{len(kernels.unit_sums)} * unit + {k}",
        }[given.table]
        found = f"item({given.table}, {place})"
        if mask:
            found = f"tl.load({given.table} + {place}, mask={mask}, other=0)"
        if is_bool(node):
            return f"{found} != 0"
        return found if dtype == "float64" else f"{found}.to(tl.{dtype})"

    def _lines(self, nodes: list[Value]) -> list[str]:
        return lines(self.kernels.program, nodes, self.names, self.writer.render)

    def _of_units(self, mask: str) -> list[str]:
        """The values per unit: of each unit, or of each element's."""
        read = {n: g for n, g in self.kernel.given.items() if g.table == "unit_sums"}
        return [
            *(f"{self.names[n]} = {self._given(n, g, mask)}" for n, g in read.items()),
            *self._lines(self.kernel.unit),
        ]

    def _elements(self) -> list[str]:
        """What is done for the elements at ``i`` that are ``inside``, up to the sums."""
        out = []
        for slot, node in self.kernel.inputs.items():
            text = f"tl.load({_id(slot)}_at + i, mask=inside, other=0)"
            name = "p" if node is None else self.names[node]
            out.append(f"{name} = {f'widen({text})' if self.writer.half else text}")
            if slot == "g" and self.writer.traced:
                out.append(f"{name} = {name} * item(amp, 0).to(tl.{self.kernels.compute})")
        out += self._lines(self.kernel.element)
        for r in (*self.kernel.sums, *self.kernel.unit_sums):
            x = self.writer.value(r.args[0], None)
            out.append(f"{self._sum(r)} += tl.where(inside, {x}, 0).to(tl.float64)")
        return out

    def _stores(self) -> list[str]:
        values = {s: self.writer.value(n, None) for s, n in self.kernel.stores.items()}
        if self.kernel.update is not None:
            node = self.kernel.inputs["p"]
            p = "p" if node is None else self.names[node]
            values["p"] = f"{p} + {self.writer.value(self.kernel.update, None)}"
        if self.writer.half:
            values = {s: f"narrow({v}, tl.{self.kernels.dtype})" for s, v in values.items()}
        return [f"tl.store({_id(s)}_at + i, {v}, mask=inside)" for s, v in values.items()]

    def _sum(self, node: Value) -> str:
        return f"_sum_{self.names[node]}"  # no value of the rule's begins with _

    def _partials(self, form: str) -> list[str]:
        return [
            f"tl.store(partials + row * width + {k}, {form.format(self._sum(r))})"
            for r, k in self.kernel.sums.items()
        ]

    def _group_outputs(self) -> list[str]:
        out = ["if (row == 0) & (lead != 0):"] if self.kernel.group_outputs else []
        for k, node in enumerate(self.kernel.group_outputs):
            value = (
                self.writer.constant(node, "float64")
                if node.op == "const"
                else f"{self.names[node]}.to(tl.float64)"
            )
            out.append(f"    tl.store(group_new + {k}, {value})")
        return out


def arguments(kernel: Kernel, *, traced: bool = False) -> tuple[str, ...]:
    """The arguments of a stage's kernel here: a program for each row, so that the number of rows is not one."""
    return (*(a for a in kernel.arguments if a != "count"), *(("amp",) if traced else ()))


def hyper_names(program: Program) -> list[str]:
    """The hyperparameters that the scalars of a program are made of: the entries of ``hypers``."""
    inputs = (n for n in program.live if n.op == "input" and n.domain <= Domain.STEP)
    return sorted({str(n.attrs[0]) for n in inputs} - {"t"})


class _Numbers(_Writer):
    """The scalars of a step on the device: from counts and hyperparameters, in float64 as the host would."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__(kernels, True)

    def dtype_of(self, node: Value) -> str:
        return "float64"

    def _dtype_among(self, node: Value) -> str:
        return "float64"

    def text(self) -> list[str]:
        """``numbers``, a lane for each array, and ``shared_numbers``, for the group's own count."""
        t = "tl.load(tl.load(times + lane, mask=inside, other=0).to(tl.pointer_type(tl.float32)), mask=inside, other=0)"
        own = [
            *("", "", "@kernel", "def numbers(times, hypers, scalars, kinds, LANES: tl.constexpr):"),
            '    """The scalars of each count: the rows of scalars."""',
            "    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)",
            "    inside = lane < kinds",
            *_indent(self._block("array", t, self.kernels.scalars, "scalars", "lane", ", mask=inside")),
        ]
        count = "item(pointer(times, 0, tl.float32, False), 0)"
        shared = [
            *("", "", "@kernel", "def shared_numbers(times, hypers, shared):"),
            '    """The scalars of the group\'s own count."""',
            *_indent(self._block("group", count, self.kernels.shared, "shared", "0", "")),
        ]
        return [
            *(own if self.kernels.scalars else []),
            *(shared if self.kernels.shared else []),
        ]

    def _block(
        self, scope: str, t: str, found: list[Value], table: str, row: str, mask: str
    ) -> list[str]:
        program, order = self.kernels.program, hyper_names(self.kernels.program)
        needed = ancestors(found)
        nodes = [n for n in program.live if n in needed and n.op != "const"]
        inputs = {n: n.attrs[0] for n in nodes if n.op == "input"}
        values = [
            f"{self.names[n]}.to(tl.float64)" if is_bool(n) else self.names[n] for n in found
        ]
        return [
            *(
                f"{self.names[n]} = {f'{t}.to(tl.float64) + 1' if name == 't' else f'item(hypers, {order.index(name)})'}"
                for n, name in inputs.items()
            ),
            *self._all_lines(nodes),
            *(
                f"tl.store({table} + {len(found)} * {row} + {k}, {v}{mask})"
                for k, v in enumerate(values)
            ),
        ]

    def _all_lines(self, nodes: list[Value]) -> list[str]:
        return lines(self.kernels.program, nodes, self.names, self.render)


def _fact(column: str) -> str:
    return f"item(facts, {len(FACT_COLUMNS)} * array + {FACT_COLUMNS.index(column)})"


def _number(value: float | int | bool) -> str:
    text = repr(float(value))
    return f'float("{text}")' if text.strip("-") in ("inf", "nan") else text


def _id(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _indent(block: list[str], levels: int = 1) -> list[str]:
    return ["    " * levels + line for line in block]
