"""Passes of programs with axes as Triton source: a kernel per pass, a program per tile (``isostep.lower.axes_device``).

A tile is a block with as many dimensions as there are axes to go along; an array that lacks an axis is 1 long there,
and broadcast. A kernel has two forms of the same lines: for tiles that are full, of arrays whose rows lie at multiples
of 16 bytes, without masks and with loads and stores 16 bytes wide; and for all others, with masks.
"""

from __future__ import annotations

from isostep.lower.axes import MOST_AXES, Axes, Bits, Pass, axes, in_text
from isostep.lower.axes_device import columns
from isostep.program import UPDATE, Program
from isostep.state import COMPUTE_DTYPE
from isostep.values import Value, is_bool
from isostep_torch.triton_words import CALLS, Words, identifier, indent

#: What passes call of ``triton_support``, where Triton's language lacks it.
SUPPORT = (
    "item", "pointer", "real", "below", "total", "kept_total", "largest", "kept_largest", "both", "either", *CALLS,
)  # fmt: skip
#: By axis: the length, how many tiles, which tile, its length; an element's index, and whether there is one.
OF_AXES = tuple(
    f"{letter}{k}" for letter in ("n", "c", "t", "B", "i", "in") for k in range(MOST_AXES)
)
#: What a kernel's own text uses, so that no value of a rule's may be called so.
RESERVED = (*SUPPORT, *OF_AXES, *"""
    tl triton device kernel float table array tile places aligned at inside WHOLE
""".split())  # fmt: skip


def source(axes: Axes, dtype: str) -> str:
    """The module text of a program's passes for arrays of ``dtype``."""
    words = _Words(axes, dtype)
    body: list[str] = []
    for one in axes.passes:
        body += ["", "", *_Text(words, axes, one).lines()]
    text = "\n".join(body)
    used = sorted(["device", "kernel", *(h for h in SUPPORT if f"{h}(" in text)])
    head = [
        f'"""{axes.program.name}, {dtype}: {axes.count} pass(es). Generated from the rule by isostep."""',
        "",
        "import triton",
        "import triton.language as tl",
        "",
        f"from isostep_torch.triton_support import {', '.join(used)}",
    ]
    return "\n".join(head) + "\n" + text + "\n"


def show(program: Program, dtype: str) -> str | None:
    """The text for ``isostep show RULE --source triton`` of a rule that is done in passes; None if it is not."""
    found = axes(program)
    return source(found, COMPUTE_DTYPE[dtype]) if found.fits else None


class _Words(Words):
    """Names and expressions of a program's passes. No value of the rule's has a name that begins with ``_``."""

    def __init__(self, axes: Axes, dtype: str) -> None:
        super().__init__(axes.program, dtype, RESERVED)

    def in_text(self, node: Value) -> bool:
        return in_text(node)


class _Text:
    """The text of one pass: the function with its lines, and the kernel that calls it in the form that fits."""

    def __init__(self, words: _Words, axes: Axes, one: Pass) -> None:
        self.words, self.axes, self.one = words, axes, one
        self.names, self.dtype = words.names, words.compute
        self.rank, self.at = len(axes.groups), columns(axes, one)
        self.full: Bits = (True,) * self.rank

    def lines(self) -> list[str]:
        k, one = self._each, self.one
        forms = ["WHOLE: tl.constexpr", *k("B{}: tl.constexpr")]
        given = ["table", "array", *k("t{}"), *k("n{}"), *k("c{}")]
        call = f"tile{one.index}({', '.join(given)}, {{}}, {', '.join(k('B{}'))})"
        return [
            "@device",
            f"def tile{one.index}({', '.join([*given, *forms])}):",
            f'    """{self.axes.summary(self.one, self.names)}"""',
            *indent([*self._indices(), *self._numbers(), *self._pointers(), *self._loads()]),
            *indent(self.words.lines(one.nodes)),
            *indent([*self._kept(), *self._reduced(), *self._stores()]),
            *("", "", "@kernel"),
            f"def pass{one.index}({', '.join(['table', *forms[1:]])}):",
            '    """One tile, in the form that fits it."""',
            *indent(self._tile()),
            *indent(self._whole()),
            "    if aligned:",
            f"        {call.format('True')}",
            "    else:",
            f"        {call.format('False')}",
        ]

    def _each(self, form: str) -> list[str]:
        """Something for every axis."""
        return [form.format(k) for k in range(self.rank)]

    # Which tile of which array.

    def _tile(self) -> list[str]:
        """The tile's numbers, the last axis' fastest."""
        out = [f"n{k} = item(table, {self.at.sizes + k})" for k in range(self.rank)]
        out += [f"c{k} = item(table, {self.at.counts + k})" for k in range(self.rank)]
        out.append("tile = tl.program_id(0).to(tl.int64)")
        for k in reversed(range(self.rank)):
            out += [f"t{k} = tile % c{k}", f"tile = tile // c{k}"]
        return [*out, "array = tile"]

    def _whole(self) -> list[str]:
        """Whether loads and stores may be 16 bytes wide: the tile is full, and of what has all axes each row begins so.

        Of whole numbers one ``|`` is 0 only if all are; comparisons of scalars have a logic of their own in places.
        """
        places = [f"item(table, {self._slot(k)})" for k, _ in enumerate(self.one.slots)]
        places += [f"item(table, {self.at.blocks + k})" for k, n in self._wide()]
        full = " & ".join(self._each("((t{0} + 1) * B{0} <= n{0})"))
        lanes = self._lanes()
        return [
            f"places = {' | '.join(places)}",
            f"aligned = (((places % 16) | (n{self.rank - 1} % {lanes})) == 0) & {full}",
        ]

    def _wide(self) -> list[tuple[int, Value]]:
        """The blocks of the dtype of arithmetic in which neighbours along the last axis are neighbours, numbered."""
        reduced = set(self.one.reduced)
        every = enumerate(self.one.blocks)
        return [(k, n) for k, n in every if n not in reduced and self.axes.bits(n)[-1]]

    def _lanes(self) -> int:
        """How many elements 16 bytes hold."""
        return 16 // {"float64": 8, "float32": 4}[self.dtype]

    # What lies where.

    def _indices(self) -> list[str]:
        """The indices of the tile's elements along each axis, and of each kind of array where these are."""
        out, last = [], self.rank - 1
        for k in range(self.rank):
            ends = ", ".join(":" if j == k else "None" for j in range(self.rank))
            shaped = f"[{ends}]" if last else ""
            index = f"t{k} * B{k} + tl.arange(0, B{k})"
            out.append(f"i{k} = ({index}){shaped}" if last else f"i{k} = {index}")
        out += self._each("in{0} = below(i{0}, n{0}, WHOLE)")
        out.append(f"inside = {' & '.join(self._each('in{}'))}")
        # It is a multiple already; so the compiler learns it.
        out += ["if WHOLE:", f"    n{last} = n{last} // {self._lanes()} * {self._lanes()}"]
        out.append(f"at = {self._place('', self.full, self.full)}")
        of = {self.axes.bits(n) for n in (*self.one.stacks, *self.one.kept)}
        out += [f"{_of(b)} = {self._place('array', b, b)}" for b in sorted(of)]
        to = {self.axes.bits(n) for n in self.one.reduced}
        out += [f"{_to(b)} = {self._place('array', b, self.full)}" for b in sorted(to)]
        return out

    def _place(self, text: str, own: Bits, along: Bits) -> str:
        """Where elements are ``along`` certain axes, by the axes of its ``own``, and by tiles along the others."""
        for k in range(self.rank):
            length, index = (f"n{k}", f"i{k}") if own[k] else (f"c{k}", f"t{k}")
            if along[k]:
                before = f"({text})" if " " in text else text
                text = f"{before} * {length} + {index}" if text else index
        return text

    def _slot(self, k: int) -> str:
        """Where the address of the array lies that has a slot."""
        return f"{self.at.slots + k} + {_row(len(self.one.slots))}"

    def _numbers(self) -> list[str]:
        """The numbers of the step, of the group and of the array."""
        out = [
            self._number(n, f"real(table, {self.at.scalars + k})")
            for k, n in enumerate(self.one.scalars)
        ]
        if self.one.columns:
            row = _row(len(self.one.columns))
            out.append(f"_columns = pointer(table, {self.at.columns}, tl.float64, False) + {row}")
        return out + [
            self._number(n, f"item(_columns, {k})") for k, n in enumerate(self.one.columns)
        ]

    def _number(self, node: Value, found: str) -> str:
        change = " != 0" if is_bool(node) else f".to(tl.{self.dtype})"
        return f"{self.names[node]} = {found}{change}"

    def _pointers(self) -> list[str]:
        one, wide = self.one, {n for _, n in self._wide()}
        out = [
            f"{_at(n)} = pointer(table, {self._slot(k)}, tl.{self.dtype}, WHOLE)"
            for k, n in enumerate(one.slots)
        ]
        for k, n in enumerate(one.blocks):
            dtype = "float64" if n in {*one.reduced} else self.dtype
            whole = "WHOLE" if n in wide else "False"
            out.append(
                f"{_at(self.names[n])} = pointer(table, {self.at.blocks + k}, tl.{dtype}, {whole})"
            )
        return out

    # What is done with the elements.

    def _loads(self) -> list[str]:
        out = [f"{self.names[n]} = {self._load(n.attrs[0])}" for n in self.one.inputs]
        for n in self.one.stacks:
            name, bits = self.names[n], self.axes.bits(n)
            found = f"tl.load({_at(name)} + {_of(bits)}, mask={self._mask(bits)}, other=0)"
            out.append(f"{name} = {found}{' != 0' if is_bool(n) else ''}")
        return out

    def _load(self, slot: str) -> str:
        return f"tl.load({_at(slot)} + at, mask=inside, other=0)"

    def _mask(self, bits: Bits) -> str:
        return "inside" if all(bits) else " & ".join(f"in{k}" for k, own in enumerate(bits) if own)

    def _kept(self) -> list[str]:
        return [
            f"tl.store({_at(self.names[n])} + {_of(self.full)}, {self.names[n]}, mask=inside)"
            for n in self.one.kept
        ]

    def _reduced(self) -> list[str]:
        """What the tile has for each sum and maximum: a number for each of its elements along the result's axes."""
        out = []
        for r in self.one.reduced:
            bits, term = self.axes.bits(r), self.words.value(r.args[0], None)
            if r.op == "max_axis":
                reduce, found = "largest", f'tl.where(inside, {term}, float("-inf"))'
            else:
                reduce, found = "total", f"tl.where(inside, {term}.to(tl.float64), 0.0)"
            for k in reversed(range(self.rank)):
                if not bits[k]:
                    found = f"{'kept_' if any(bits) else ''}{reduce}({found}, {k})"
            mask = f", mask={self._mask(bits)}" if any(bits) else ""
            out.append(f"tl.store({_at(self.names[r])} + {_to(bits)}, {found}{mask})")
        return out

    def _stores(self) -> list[str]:
        if not self.one.last:
            return []
        out, added = [], UPDATE in self.axes.program.outputs
        own = next((self.names[n] for n in self.one.inputs if n.attrs[0] == "p"), None)
        for slot, node in self.axes.stores.items():
            value = self.words.value(node, None)
            if slot == "p" and added:
                value = f"{own or self._load('p')} + {value}"
            elif is_bool(node):
                value = f"{value}.to(tl.{self.dtype})"
            out.append(f"tl.store({_at(slot)} + at, {value}, mask=inside)")
        return out


def _row(width: int) -> str:
    """Where an array's row begins in something so wide."""
    return f"{width} * array" if width > 1 else "array"


def _at(name: str) -> str:
    """The pointer to where an array begins, or a block."""
    return f"_at_{identifier(name)}"


def _of(bits: Bits) -> str:
    """Where elements are in blocks that have certain axes."""
    return f"_of_{_digits(bits)}"


def _to(bits: Bits) -> str:
    """Where a tile's results go that have certain axes."""
    return f"_to_{_digits(bits)}"


def _digits(bits: Bits) -> str:
    return "".join(str(k) for k, own in enumerate(bits) if own)
