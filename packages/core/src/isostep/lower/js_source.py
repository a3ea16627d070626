"""Programs as JavaScript: what the teaching page runs in the reader's browser, in float64 like the reference.

One function takes one step of one array without axes of its own (a vector): units and groups are then the array
itself, so every program runs that works elementwise, on units, arrays or the group. Operations are the rule's, in
its order; ``Math`` may differ from the C library in the last place of elementary functions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from isostep.calls import first_state
from isostep.domains import Pair
from isostep.listing import identifiers, lines
from isostep.program import UPDATE, Program, ancestors
from isostep.rule import BoundRule, Component
from isostep.values import MAPS, REDUCTIONS, Domain, Graph, Value

#: Where JavaScript's text differs from the listing's.
TEXT = {
    # JavaScript's remainder has the sign of the dividend, Python's that of the divisor.
    "mod": "(($) => $ !== 0 && $ < 0 !== {1} < 0 ? $ + {1} : $)({0} % {1})",
    "pow": "Math.pow({}, {})",
    "where": "({} ? {} : {})",
    "and": "({} && {})",
    "or": "({} || {})",
    "not": "(!{})",
    "eq": "({} === {})",
    "ne": "({} !== {})",
    "isfinite": "Number.isFinite({})",
    "isnan": "Number.isNaN({})",
    "maximum": "Math.max({}, {})",
    "minimum": "Math.min({}, {})",
    "atan2": "Math.atan2({}, {})",
    **{
        f: f"Math.{f}({{}})"
        for f in ("abs", "sign", "sqrt", "cbrt", "exp", "expm1", "log", "log1p", "sin", "cos")
    },
    **{f: f"Math.{f}({{}})" for f in ("tanh", "floor")},
    "size": "P.length",
    "unit_size": "P.length",
    "ndim": "1",
    "eps": "Number.EPSILON",
}
#: Words of the language and the names that a step function uses itself.
RESERVED = (
    *("H", "T", "P", "G", "I", "S", "GROUP", "i", "Math", "Number", "Infinity", "NaN", "undefined"),
    *("await", "break", "case", "catch", "class", "const", "continue", "debugger", "default", "delete"),
    *("do", "else", "enum", "eval", "export", "extends", "false", "finally", "for", "function", "if"),
    *("implements", "import", "in", "instanceof", "interface", "let", "new", "null", "package"),
    *("private", "protected", "public", "return", "static", "super", "switch", "this", "throw", "true"),
    *("try", "typeof", "var", "void", "while", "with", "yield", "arguments", "async", "of"),
)  # fmt: skip


class NoScript(ValueError):
    """A program that has no form on a single vector; the text says why."""


def number(value: float) -> str:
    """A literal."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "(-Infinity)"
    text = repr(value)
    return f"({text})" if text.startswith("-") else text


def render(node: Value, text: dict[Value, str]) -> str:
    """The right-hand side of one node."""
    if node.op == "const":
        return number(node.attrs[0])
    pattern = TEXT.get(node.op) or MAPS[node.op].text
    return pattern.format(*(text[a] for a in node.args))


def step_function(program: Program, name: str = "") -> str:
    """The text of ``function (H, T, P, G, I, S, GROUP)``: one step, P, S and GROUP changed in place.

    H: hyperparameters of this step by their names in listings (``betas[0]``); T: the number of this step; P: the
    parameter, G its gradient, arrays; I: extra inputs, S: state arrays, GROUP: the group's state, by name.

    Raises:
        NoScript: the program works on axes or matrices, or sums what is not per element.
    """
    if program.generic:
        message = f"{program.name} works on axes or matrices, or sums sums: it has no form on a single vector"
        raise NoScript(message)
    return "\n".join(_Writer(program).function(name))


class _Writer:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.names = identifiers(program, RESERVED)

    def function(self, name: str) -> list[str]:
        program, names = self.program, self.names
        out = [f"function {name}(H, T, P, G, I, S, GROUP) {{"]
        for n in program.live:
            if n.op == "input" and n.domain < Domain.ELEMENT:
                where = (
                    "T"
                    if n.attrs[0] == "t"
                    else f"{'GROUP' if n.domain is Domain.GROUP else 'H'}[{n.attrs[0]!r}]"
                )
                out.append(f"    const {names[n]} = {where};")
        scalars = [n for n in program.live if n.domain <= Domain.STEP]
        out += [f"    const {line};" for line in self._lines(scalars)]
        for stage in range(program.stages):
            out += self._stage(stage)
        for name, node in program.group_outputs.items():
            out.append(f"    GROUP[{name!r}] = {self._text(node)};")
        return [*out, "}"]

    def _stage(self, stage: int) -> list[str]:
        program, names = self.program, self.names
        last = stage == program.stages - 1
        between = [
            n
            for n in program.live
            if Domain.STEP < n.domain < Domain.ELEMENT
            and program.stage[n] == stage
            and n.op not in REDUCTIONS
        ]
        out = [f"    const {line};" for line in self._lines(between)]
        sums = program.reductions(stage)
        out += [f"    let {names[r]} = 0;" for r in sums]
        goals = [r.args[0] for r in sums] + (list(program.outputs.values()) if last else [])
        outside = [n for n in program.live if n.domain is not Domain.ELEMENT]
        needed = ancestors(goals, stop=outside)
        nodes = [n for n in program.live if n in needed and n.domain is Domain.ELEMENT]
        out.append("    for (let i = 0; i < P.length; i++) {")
        for n in nodes:
            if n.op == "input":
                array = {"p": "P", "g": "G"}.get(n.attrs[0])
                array = (
                    array or f"{'I' if n.attrs[0] in program.input_names else 'S'}[{n.attrs[0]!r}]"
                )
                out.append(f"        const {names[n]} = {array}[i];")
        out += [f"        const {line};" for line in self._lines(nodes)]
        out += [f"        {names[r]} += {self._text(r.args[0])};" for r in sums]
        if last:
            for name, node in program.outputs.items():
                if name in program.state_names:
                    target = f"S[{name!r}][i] ="
                else:
                    target = "P[i] +=" if name == UPDATE else "P[i] ="
                out.append(f"        {target} {self._text(node)};")
        return [*out, "    }"]

    def _lines(self, nodes: list[Value]) -> list[str]:
        return lines(self.program, nodes, self.names, render)

    def _text(self, node: Value) -> str:
        return number(node.attrs[0]) if node.op == "const" else self.names[node]


def state_start(rule: BoundRule, arrays: Mapping[str, Any]) -> str:
    """The text of ``function (H, P)``: the state before the first step; ``arrays`` where it is not elementwise."""
    graph = Graph()
    p = graph.node("input", attrs=("p",), domain=Domain.ELEMENT, name="p", truth=False)
    texts = {n: json.dumps(a) for n, a in arrays.items()}
    for c in rule.components:
        if c.part.init is None:
            continue
        given = {**rule.given_init(c, rule.at(1)), **symbols(rule, c, graph)}
        names = rule.state_of(c)
        try:
            made = first_state(c, p, names, given)
        except Exception:  # it looks at what only an array has, which no slider moves
            continue
        for n, value in zip(names, made, strict=True):
            if value.domain is Domain.ELEMENT:
                texts[n] = f"Array.from(P, ($p) => {expression(value, {p: '$p'})})"
    entries = ", ".join(f"{n!r}: {text}" for n, text in texts.items())
    return f"function (H, P) {{ return {{{entries}}}; }}"


def group_start(rule: BoundRule) -> str:
    """The text of ``function (H)``: the group's state before the first step."""
    graph = Graph()
    entries = []
    for c in rule.components:
        own = SimpleNamespace(**symbols(rule, c, graph))
        for n, make in c.group_state(rule.values).items():
            entries.append(f"{c.prefix + n!r}: {expression(make(own))}")
    return f"function (H) {{ return {{{', '.join(entries)}}}; }}"


def symbols(rule: BoundRule, component: Component, graph: Graph) -> dict[str, Any]:
    """A component's hyperparameters by their own names: static ones as they are, the others as values of the graph."""

    def symbol(name: str, value: Any, static: bool) -> Any:
        return (
            value
            if static
            else graph.node("input", attrs=(name,), domain=Domain.HOST, name=name, truth=True)
        )

    own: dict[str, Any] = {}
    for n, d in component.part.hyper.items():
        label, value = component.prefix + n, rule.values[component.prefix + n]
        if isinstance(d, Pair):
            own[n] = tuple(
                symbol(f"{label}[{i}]", v, p.is_static(v))
                for i, (p, v) in enumerate(zip(d.parts, value, strict=True))
            )
        else:
            own[n] = symbol(label, value, d.is_static(value))
    return own


def expression(node: Any, names: Mapping[Value, str] | None = None) -> str:
    """A value with everything that it depends on as one expression; inputs without a name are entries of ``H``."""
    if not isinstance(node, Value):
        return number(node)
    if names and node in names:
        return names[node]
    if node.op == "input":
        return f"H[{node.attrs[0]!r}]"
    return render(node, {a: expression(a, names) for a in node.args})
