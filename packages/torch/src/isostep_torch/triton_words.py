"""The values of a program as Triton text: names, constants, operations, each in its own dtype."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from isostep.listing import identifiers, lines
from isostep.lower.device import ARGUMENTS, FACT_COLUMNS, Kernels, of_group
from isostep.program import Program
from isostep.values import FACTS, MAPS, Value, is_bool

TEXT = {
    "and": "both({}, {})",
    "or": "either({}, {})",
    "not": "({} == 0)",
    "abs": "tl.abs({})",
    "where": "tl.where({}, {}, {})",
}
#: Operations that ``triton_support`` has, and Triton not, or not as the contract wants them.
CALLS = (
    "div", "mod", "pow", "sign", "sqrt", "cbrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "atan2",
    "maximum", "minimum", "floor", "isfinite", "isnan",
)  # fmt: skip
TEXT |= {f: f"{f}({', '.join(['{}'] * MAPS[f].arity)})" for f in CALLS}
#: Operations in which Triton gives a Python number the type of the other operand; comparisons make it a float32.
COMPARISONS = frozenset(("lt", "le", "gt", "ge", "eq", "ne"))
INFIX = COMPARISONS | {"add", "sub", "mul"}
HELPERS = (
    "item", "pointer", "widen", "narrow", "key_of", "hash_of", "noise_of", "rounded", "total", "kept_total", "quotient",
    "unit_of", "both", "either", "below", "scale_of", "packed", "unpacked",
)  # fmt: skip
FACT_NAMES = dict(zip(FACT_COLUMNS, ("size", "ndim", "inner", "units", "base"), strict=True))
#: What a kernel's own text uses, so that no value of a rule's may be called so.
RESERVED = (*HELPERS, *CALLS, *"""
    tl triton device kernel range float size ndim inner units base row array start stop kind aligned at lane i inside
    unit length u r mine key hashed some few nothing run tile amp times hypers kinds LANES AXIS BLOCK WHOLE ALONG UNITS
""".split(), *ARGUMENTS)  # fmt: skip


class Words:
    """Names and expressions of a program's values, all of one dtype."""

    def __init__(self, program: Program, compute: str, reserved: Iterable[str]) -> None:
        self.program, self.compute = program, compute
        self.names = identifiers(program, reserved)

    def lines(self, nodes: Iterable[Value]) -> list[str]:
        """These nodes, one line for each that has a name or is used twice."""
        return lines(self.program, nodes, self.names, self.render)

    def dtype_of(self, node: Value) -> str:
        """The dtype in which a value is computed."""
        return self.compute

    def dtype_among(self, node: Value) -> str:
        """The type of the numbers that an operation works on: a comparison has none, its operands do."""
        return self.dtype_of(node)

    def in_text(self, node: Value) -> bool:
        """Whether a value is a number that stands in the text; its users write it, each in a type of its own."""
        return node.op == "const"

    def constant(self, node: Value, dtype: str) -> str:
        """A number where Triton would not see of which type it is to be."""
        value = node.attrs[0]
        if isinstance(value, bool):
            return f"tl.full((), {value}, tl.int1)"
        return f"tl.full((), {number(value)}, tl.{dtype})"

    def render(self, node: Value, text: dict[Value, str]) -> str:
        """One node as Triton source."""
        if node.op == "const":
            return "" if self.in_text(node) else self.names[node]
        literal = node.op in INFIX and not all(map(self.in_text, node.args))
        words = [
            number(a.attrs[0])
            if literal and self.in_text(a) and self._as_written(a.attrs[0], node)
            else self.value(a, node, text)
            for a in node.args
        ]
        return TEXT.get(node.op, MAPS[node.op].text).format(*words)

    def _as_written(self, value: float | int | bool, user: Value) -> bool:
        """Whether Triton takes this number for what ``user`` means by it."""
        if user.op not in COMPARISONS or self.dtype_among(user) == "float32":
            return True
        with np.errstate(over="ignore"):
            return float(np.float32(value)) == float(value)

    def value(self, node: Value, user: Value | None, text: dict[Value, str] | None = None) -> str:
        """A value as ``user`` takes it (None: the loop over elements), in the user's dtype."""
        dtype = self.compute if user is None else self.dtype_among(user)
        if self.in_text(node):
            return self.constant(node, dtype)
        own = (text or self.names)[node]
        return own if is_bool(node) or self.dtype_of(node) == dtype else f"{own}.to(tl.{dtype})"


class KernelWords(Words):
    """Those of one program's kernels, in which the group's values have a dtype of their own."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        touch = [f"{identifier(n)}_at" for n in kernels.slots]
        touch += [f"noise_{k}" for k in (*kernels.layout.pairs, *kernels.layout.packed_pairs)]
        super().__init__(kernels.program, kernels.compute, (*RESERVED, *touch))

    def dtype_of(self, node: Value) -> str:
        return self.kernels.group_dtype if of_group(node) else self.compute

    def dtype_among(self, node: Value) -> str:
        if is_bool(node) and not of_group(node):
            numbers = [a for a in node.args if a.op != "const" and not is_bool(a)]
            if numbers and all(map(of_group, numbers)):
                return self.kernels.group_dtype
        return self.dtype_of(node)

    def render(self, node: Value, text: dict[Value, str]) -> str:
        if node.op in FACTS:
            return self._fact(node)
        if node.op == "stored":  # the number that the parameter's dtype has for it
            return f"widen(narrow({self.value(node.args[0], node, text)}, tl.{self.kernels.dtype}))"
        return super().render(node, text)

    def _fact(self, node: Value) -> str:
        if node.op == "eps":
            return f"tl.full((), {float(np.finfo(self.compute).eps)!r}, tl.{self.compute})"
        if node.op == "unit_size":
            return f"(size // tl.maximum(units, 1)).to(tl.{self.compute})"
        return f"{node.op}.to(tl.{self.compute})"


def number(value: float | int | bool) -> str:
    """A number as Triton reads it."""
    text = repr(float(value))
    return f'float("{text}")' if text.strip("-") in ("inf", "nan") else text


def identifier(name: str) -> str:
    """A slot's name as part of an identifier."""
    return "".join(c if c.isalnum() else "_" for c in name)


def indent(block: list[str], levels: int = 1) -> list[str]:
    """The lines further in."""
    return ["    " * levels + line for line in block]
