"""Programs as Triton source: one kernel per stage over rows of all arrays' elements, through a table of addresses.

``isostep.lower.device`` says what each kernel reads, computes, sums and stores; here that becomes text. A kernel
takes one row of ``chunks``, and has two forms of the same lines: for rows that are whole blocks of arrays that lie
at multiples of 16 bytes, without masks and with loads and stores 16 bytes wide; and for all others, with masks.
"""

from __future__ import annotations

from isostep.blocks import BLOCK as EACH
from isostep.blocks import FORMATS, SCALE
from isostep.lower.device import FACT_COLUMNS, Given, Kernel, Kernels
from isostep.lower.device import kernels as kernels_of
from isostep.program import Program
from isostep.storage import HALVES
from isostep.sums import factors
from isostep.values import Value, is_bool
from isostep_torch.triton_numbers import Numbers
from isostep_torch.triton_words import CALLS, FACT_NAMES, HELPERS, KernelWords, identifier, indent

#: Threads of a block.
THREADS = 128


def block(dtype: str) -> int:
    """Elements that a block holds at a time: 16 bytes of each array for each thread.

    More would take more registers, so that fewer blocks are under way while others wait for memory: with 32 bytes
    AdamW of float32 takes 128 registers a thread, with 16 it takes 63, and twice as many threads are there.
    """
    return THREADS * 16 // {"float64": 8, "float32": 4}.get(dtype, 2)


def source(kernels: Kernels, *, traced: bool = False) -> str:
    """The module text of a program's kernels.

    ``traced``: each stage has one more argument, ``amp``: what to multiply gradients by, and whether to leave
    everything as it is; and there are ``numbers`` and ``shared_numbers``, which compute the scalars of a step.
    """
    words = KernelWords(kernels)
    body: list[str] = []
    for kernel in kernels.stages:
        body += ["", "", *_Pass(words, kernel, traced).text()]
    if traced:
        body += Numbers(kernels).text()
    text = "\n".join(body)
    used = [h for h in (*HELPERS, *CALLS) if f"{h}(" in text]
    head = [
        f'"""{kernels.program.name}, {kernels.dtype}: {len(kernels.stages)} pass(es). '
        'Generated from the rule by isostep."""',
        "",
        "import triton",
        "import triton.language as tl",
        "",
        f"from isostep_torch.triton_support import {', '.join(sorted(['device', 'kernel', *used]))}",
    ]
    return "\n".join(head) + "\n" + text + "\n"


def show(program: Program, dtype: str) -> str:
    """What ``isostep show RULE --source triton`` prints."""
    return source(kernels_of(program, dtype))


class _Pass:
    """One stage: the function with its lines, and the kernel that calls it in the form that fits."""

    def __init__(self, words: KernelWords, kernel: Kernel, traced: bool) -> None:
        self.words, self.kernel, self.traced = words, kernel, traced
        self.kernels, self.names = words.kernels, words.names
        self.arguments = arguments(kernel, traced=traced)
        self.over_units = kernel.grid == "units"
        storage = words.kernels.layout.storage
        self.packed = storage.packed
        self.mantissa = FORMATS[storage.form].mantissa if storage.form else 0

    def text(self) -> list[str]:
        stage, given = self.kernel.stage, ", ".join(self.arguments)
        forms = (
            "ALONG: tl.constexpr, UNITS: tl.constexpr" if self.over_units else "WHOLE: tl.constexpr"
        )
        return [
            "@device",
            f"def pass{stage}({given}, row, array, start, stop, kind, {forms}, BLOCK: tl.constexpr):",
            f'    """{self._summary()}"""',
            *indent(self._uniform()),
            *indent(self._over_units() if self.over_units else self._over_elements()),
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
        if not self._may_be_left_out() or self.kernel.figures:
            return indent(lines)
        return ["    if item(amp, 1) == 0:", *indent(lines, 2)]

    def _may_be_left_out(self) -> bool:
        """Whether this pass stores, in a step that may have to change nothing."""
        return self.traced and bool(self.kernel.stores or self.kernel.update is not None)

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
        width = self.kernels.layout.width
        return [
            f"aligned = item(table, {width + 1} * array + {width})",
            "if (aligned != 0) & ((stop - start) % BLOCK == 0):",
            f"    {call.format('True')}",
            "else:",
            f"    {call.format('False')}",
        ]

    def _summary(self) -> str:
        sums = [*self.kernel.sums, *self.kernel.unit_sums]
        stored = ", ".join(self._stored())
        ends = [
            *(["sums " + ", ".join(self.names[r] for r in sums)] if sums else []),
            *([f"stores {stored}"] if stored else []),
        ]
        return f"Pass {self.kernel.stage + 1} of {len(self.kernels.stages)}: {'; '.join(ends)}."

    def _uniform(self) -> list[str]:
        """What is the same for all elements of a row."""
        kernel, layout = self.kernel, self.kernels.layout
        wanted = {*kernel.inputs, *kernel.stores}
        wanted |= (scales := {n + SCALE for n in self.packed if n in wanted})
        whole = "False" if self.over_units else "WHOLE"
        return [
            *(f"{FACT_NAMES[c]} = {_fact(c)}" for c in FACT_COLUMNS if c in self._facts()),
            *(
                f"{self.names[n]} = {self._given(n, g)}"
                for n, g in kernel.given.items()
                if g.table != "unit_sums" and n not in layout.only_noise
            ),
            *self.words.lines(kernel.group),
            *self.words.lines(kernel.array),
            *self._group_outputs(),
            *(
                f"{identifier(s)}_at = pointer(table, {layout.width + 1} * array + {k}, "
                f"tl.{layout.dtype_of(s)}, {'False' if s in scales else whole})"
                for k, s in enumerate(self.kernels.slots)
                if s in wanted
            ),
            *self._key(),
        ]

    def _key(self) -> list[str]:
        """The key of the noise with which this pass's arrays are rounded."""
        layout, given = self.kernels.layout, self.kernel.given
        if not (layout.program.noise and self._stored()):
            return []
        row = f"{len(self.kernels.scalars)} * kind"
        words = [f"item(scalars, {row} + {given[n].column})" for n in layout.program.noise]
        words.append(f"item(table, {layout.width + 1} * array + {layout.width - 1})")
        return [f"key = key_of({', '.join(words)})"]

    def _stored(self) -> list[str]:
        return [*self.kernel.stores, *(["p"] if self.kernel.update is not None else [])]

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
        if {*self.packed} & {*self.kernel.inputs, *self.kernel.stores}:
            body += [
                f"_block = at // {EACH} + tl.arange(0, BLOCK // {EACH})",
                f"_begun = below(_block * {EACH}, stop, WHOLE)",
            ]
        return [
            "lane = tl.arange(0, BLOCK)",
            *(f"{self._sum(r)} = tl.full((BLOCK,), 0, tl.float64)" for r in self.kernel.sums),
            *(
                f"_seen_{k} = tl.full((BLOCK,), 0, tl.{self.kernels.compute})"
                for k, _ in enumerate(self.kernel.figures)
            ),
            "for tile in range((stop - start + BLOCK - 1) // BLOCK):",
            *indent([*body, *self._of_units("inside"), *self._elements(), *self._stores()]),
            *self._partials("total({}, 0)"),
            *(
                f"tl.store(seen + row * {len(self.kernel.figures)} + {k}, total(_seen_{k}.to(tl.float64), 0))"
                for k, _ in enumerate(self.kernel.figures)
            ),
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
            *indent(inner),
            *(
                f"tl.store(unit_sums + {len(self.kernels.unit_sums)} * unit + {k}, "
                f"kept_total({self._sum(r)}, AXIS), mask=mine)"
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
            *indent(outer),
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
        kernels, dtype, k = self.kernels, self.words.dtype_of(node), given.column
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

    def _of_units(self, mask: str) -> list[str]:
        """The values per unit: of each unit, or of each element's."""
        read = {n: g for n, g in self.kernel.given.items() if g.table == "unit_sums"}
        return [
            *(f"{self.names[n]} = {self._given(n, g, mask)}" for n, g in read.items()),
            *self.words.lines(self.kernel.unit),
        ]

    def _elements(self) -> list[str]:
        """What is done for the elements at ``i`` that are ``inside``, up to the sums."""
        out = []
        for slot, node in self.kernel.inputs.items():
            text = f"tl.load({identifier(slot)}_at + i, mask=inside, other=0)"
            name = "p" if node is None else self.names[node]
            out.append(f"{name} = {self._loaded(slot, text)}")
            if slot == "g" and self.traced:
                out.append(f"{name} = {name} * item(amp, 0).to(tl.{self.kernels.compute})")
        out += self.words.lines(self.kernel.element)
        for r in (*self.kernel.sums, *self.kernel.unit_sums):
            x = self.words.value(r.args[0], None)
            out.append(f"{self._sum(r)} += tl.where(inside, {x}, 0).to(tl.float64)")
        for k, r in enumerate(self.kernel.figures):
            x = " * ".join(self.words.value(f, None) for f in factors(r))
            out.append(f"_seen_{k} += tl.where(inside, {x}, 0)")
        return out

    def _stores(self) -> list[str]:
        values = {s: self.words.value(n, None) for s, n in self.kernel.stores.items()}
        if self.kernel.update is not None:
            node = self.kernel.inputs["p"]
            p = "p" if node is None else self.names[node]
            values["p"] = f"{p} + {self.words.value(self.kernel.update, None)}"
        blocks = [s for s in values if s in self.packed]
        wide = [f"_new_{identifier(s)} = {values[s]}" for s in blocks]
        values = {s: self._to_store(s, v) for s, v in values.items()}
        pairs = [*self.kernels.layout.pairs, *self.kernels.layout.packed_pairs] if values else []
        noise = ["hashed = hash_of(key, i)"] if pairs else []
        noise += [f"noise_{k} = noise_of(hashed, key, {k}, i)" for k in pairs]
        mask, begun = "inside", "_begun"
        if self._may_be_left_out() and self.kernel.figures:  # sums are wanted all the same
            mask, begun = (f"both({m}, item(amp, 1) == 0)" for m in (mask, begun))
        for s in blocks:
            n = identifier(s)
            wide += [
                f"_scale_{n} = scale_of(_new_{n}, inside, {self.mantissa}, BLOCK)",
                f"tl.store({identifier(s + SCALE)}_at + _block, _scale_{n}, mask={begun})",
            ]
        stores = [f"tl.store({identifier(s)}_at + i, {v}, mask={mask})" for s, v in values.items()]
        return noise + wide + stores

    def _loaded(self, slot: str, text: str) -> str:
        """What is loaded from a slot, in the dtype of the arithmetic."""
        dtype = self.kernels.layout.dtype_of(slot)
        if slot in self.packed:
            scales = f"tl.load({identifier(slot + SCALE)}_at + _block, mask=_begun, other=0)"
            dtype, text = "float32", f"unpacked({text}, {scales}, {self.mantissa}, BLOCK)"
        if dtype in HALVES:
            dtype, text = "float32", f"widen({text})"
        return text if dtype == self.kernels.compute else f"{text}.to(tl.{self.kernels.compute})"

    def _to_store(self, slot: str, text: str) -> str:
        """A value as a slot's arrays hold it."""
        layout = self.kernels.layout
        dtype, packed = layout.dtype_of(slot), slot in self.packed
        number = layout.number(slot) if packed else layout.noisy(slot)
        if number is not None:
            half = f"noise_{number // 2}{' >> 16' if number % 2 else ''}"
            if packed:
                n = identifier(slot)
                return f"packed(_new_{n}, _scale_{n}, {half}, {self.mantissa}, BLOCK)"
            return f"rounded({text}, {half}, tl.{dtype})"
        if dtype in HALVES:
            return f"narrow({text}, tl.{dtype})"
        return text if dtype == self.kernels.compute else f"({text}).to(tl.{dtype})"

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
                self.words.constant(node, "float64")
                if node.op == "const"
                else f"{self.names[node]}.to(tl.float64)"
            )
            out.append(f"    tl.store(group_new + {k}, {value})")
        return out


def arguments(kernel: Kernel, *, traced: bool = False) -> tuple[str, ...]:
    """The arguments of a stage's kernel here: a program for each row, so that the number of rows is not one."""
    return (*(a for a in kernel.arguments if a != "count"), *(("amp",) if traced else ()))


def _fact(column: str) -> str:
    return f"item(facts, {len(FACT_COLUMNS)} * array + {FACT_COLUMNS.index(column)})"
