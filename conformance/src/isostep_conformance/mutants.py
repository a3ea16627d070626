"""Mutants: wrong versions of a rule, made mechanically from its program.

A program is a graph of small operations, so every slip that a hand could make has a mechanical form: another
operator, a dropped term, a constant one percent off, t off by one, the old state for the new, a branch or
comparison the wrong way round, a sum over the wrong axis, a state that is not stored. A mutant is told apart
from the truth on the same cases and with the same budget as a backend; it needs no backend itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from isostep.calls import COUNT
from isostep.program import UPDATE, Program, ancestors
from isostep.shapes import shape_of
from isostep.values import (
    BASES,
    DECOMPOSITIONS,
    FACTS,
    MAPS,
    MATRIX_OPS,
    Domain,
    Graph,
    Value,
    attributes,
)

#: Replaces one node: gets its new operands, returns another node (None: leave it alone).
Edit = Callable[[Graph, Value, tuple[Value, ...]], Value | None]

_SWAPS = {
    "add": ("sub",), "sub": ("add",), "mul": ("div",), "div": ("mul",),
    "maximum": ("minimum",), "minimum": ("maximum",),
    "lt": ("le", "gt"), "le": ("lt", "ge"), "gt": ("ge", "lt"), "ge": ("gt", "le"),
    "eq": ("ne",), "ne": ("eq",), "and": ("or",), "or": ("and",),
    "exp": ("expm1",), "expm1": ("exp",), "log": ("log1p",), "log1p": ("log",),
    "sin": ("cos",), "cos": ("sin",),
}  # fmt: skip
_DROP_EITHER = {"add", "sub", "mul", "div", "pow", "maximum", "minimum", "and", "or", "matmul"}
#: What may be left out, so that its first operand takes its place.
_UNDONE = ("transpose", *MATRIX_OPS, *DECOMPOSITIONS, *BASES)
_OTHER_FACT = {"size": "unit_size", "unit_size": "size"}
#: How much a number is off.
OFF = 1.01


@dataclass(frozen=True)
class Mutant:
    """A wrong program; ``id`` says what was done to which expression, ``place`` what that is used in."""

    id: str
    program: Program
    place: str = ""


def mutants(program: Program) -> Iterator[Mutant]:
    """Every mutant of a program; ids are distinct."""
    seen: Counter[str] = Counter()
    for label, make, place in _every(program):
        seen[label] += 1
        name = label if seen[label] == 1 else f"{label} ({seen[label]})"
        yield Mutant(name, make(), place)


def _every(program: Program) -> Iterator[tuple[str, Callable[[], Program], str]]:
    places: defaultdict[Value, list[str]] = defaultdict(list)
    for node in program.live:
        for arg in dict.fromkeys(node.args):
            places[arg].append(text(node, depth=2))
    for node in program.live:
        for label, edit in _edits(node):

            def make(node: Value = node, edit: Edit = edit) -> Program:
                return edited(program, node, edit)

            yield f"{label}: {text(node)}", make, "; ".join(sorted(places[node]))
    yield from ((label, make, "") for label, make in _of_outputs(program))


def _edits(node: Value) -> Iterator[tuple[str, Edit]]:
    """What can be done to one node."""
    op = node.op
    if _spreads(node):
        return
    for other in _SWAPS.get(op, ()):
        yield f"{op} -> {other}", _swap(other)
    if op in _DROP_EITHER:
        same = node.args[0] is node.args[1]
        yield "right operand dropped", lambda graph, n, args: args[0]
        if not same:
            yield "left operand dropped", lambda graph, n, args: args[1]
    yield from _misread(node)
    if op in (
        "isfinite",
        "isnan",
    ):  # a number is no condition: what some libraries would take it for
        yield f"{op} dropped", lambda graph, n, args: graph.apply("ne", (args[0], 0.0))
    elif (op in MAPS and MAPS[op].arity == 1) or op in _UNDONE:
        yield f"{op} dropped", lambda graph, n, args: args[0]
    if op == "where":
        yield (
            "branches swapped",
            lambda graph, n, args: graph.apply("where", (args[0], args[2], args[1])),
        )
        yield "always the first branch", lambda graph, n, args: args[1]
        yield "always the second branch", lambda graph, n, args: args[2]
    if op == "const" and not isinstance(node.attrs[0], bool):
        yield (
            f"x {OFF}",
            lambda graph, n, args: graph.const(n.attrs[0] * OFF if n.attrs[0] else OFF - 1),
        )
    if op == "input" and node.name == COUNT:
        yield "t + 1", lambda graph, n, args: graph.apply("add", (n_clone(graph, n), 1.0))
        yield "t - 1", lambda graph, n, args: graph.apply("sub", (n_clone(graph, n), 1.0))
    elif op == "input" and node.domain <= Domain.GROUP:  # a hyperparameter or a value of the group
        yield f"x {OFF}", lambda graph, n, args: graph.apply("mul", (n_clone(graph, n), OFF))
    if op in _OTHER_FACT:
        yield (
            f"{op} -> {_OTHER_FACT[op]}",
            lambda graph, n, args: graph.apply(
                _OTHER_FACT[n.op],
                args,
                n.attrs if n.op == "size" and n.attrs else (0,) if n.op == "size" else (),
            ),
        )
    elif op in FACTS:
        yield (
            f"{op} + 1" if op == "ndim" else f"x {OFF}",
            lambda graph, n, args: graph.apply(
                *(
                    ("add", (graph.apply(n.op, args, n.attrs), 1))
                    if n.op == "ndim"
                    else ("mul", (graph.apply(n.op, args, n.attrs), OFF))
                )
            ),
        )
    yield from _reductions(node)


def _spreads(node: Value) -> bool:
    """Whether it only gives one value another shape: a choice between it and itself, or what such a choice looks at."""
    if node.op == "where":
        return node.args[1] is node.args[2]
    if node.op != "eq":
        return False
    users = [n for n in node.graph.nodes if any(a is node for a in n.args)]
    return bool(users) and all(n.op == "where" and n.args[1] is n.args[2] for n in users)


def _misread(node: Value) -> Iterator[tuple[str, Edit]]:
    """What implementations are found to do: epsilon within the root or as a bound, a rate taken for what it leaves."""
    if node.op == "add":
        for i, root in enumerate(node.args):
            if _is_root(root) and node.args[1 - i].domain <= Domain.GROUP:
                yield "inside the root", partial(_inside_root, place=i)
                yield "a bound instead of a term", _swap("maximum")
                if root.op == "div":
                    yield "before the division", partial(_before_division, place=i)
    if node.op == "sub" and node.args[0].op == "const" and node.args[0].attrs[0] == 1:
        yield "1 - x -> x", lambda graph, n, args: args[1]
    if node.op == "mul":
        for i, factor in enumerate(node.args):
            if factor.op == "input" and factor.domain <= Domain.STEP and factor.attrs[0] != COUNT:
                yield f"{factor.attrs[0]} -> 1 - {factor.attrs[0]}", partial(_rest, place=i)


def _is_root(node: Value) -> bool:
    """A square root of an array, or one that is divided by a number."""
    if node.op == "div" and node.args[1].domain <= Domain.GROUP:
        node = node.args[0]
    return node.op == "sqrt" and node.domain > Domain.GROUP


def _inside_root(graph: Graph, node: Value, args: tuple[Value, ...], place: int) -> Value:
    """sqrt(x) / s + e as sqrt(x + e) / s."""
    root, e = args[place], args[1 - place]
    if root.op == "sqrt":
        return graph.apply("sqrt", (graph.apply("add", (root.args[0], e)),))
    inside = graph.apply("sqrt", (graph.apply("add", (root.args[0].args[0], e)),))
    return graph.apply("div", (inside, root.args[1]))


def _before_division(graph: Graph, node: Value, args: tuple[Value, ...], place: int) -> Value:
    """sqrt(x) / s + e as (sqrt(x) + e) / s."""
    root, e = args[place], args[1 - place]
    return graph.apply("div", (graph.apply("add", (root.args[0], e)), root.args[1]))


def _rest(graph: Graph, node: Value, args: tuple[Value, ...], place: int) -> Value:
    """A product with 1 - b for one with b."""
    rest = graph.apply("sub", (graph.const(1.0), args[place]))
    return graph.apply("mul", (rest, args[1]) if place == 0 else (args[0], rest))


def _swap(other: str) -> Edit:
    def edit(graph: Graph, node: Value, args: tuple[Value, ...]) -> Value:
        return graph.apply(other, args, node.attrs)

    return edit


def _reductions(node: Value) -> Iterator[tuple[str, Edit]]:
    op = node.op
    if op == "sum":
        yield "sum of each unit only", lambda graph, n, args: graph.apply("sum_units", args, (0,))
    if op == "sum_group":
        yield "sum of one array only", lambda graph, n, args: graph.apply("sum", args)
    if op == "sum_units":
        yield "other axis", lambda graph, n, args: graph.apply("sum_units", args, (n.attrs[0] + 1,))
        yield "sum of the whole array", lambda graph, n, args: graph.apply("sum", args)
    if op in ("sum_axis", "max_axis") and not _all_or_both(node):
        yield "other axis", lambda graph, n, args: graph.apply(n.op, args, (_mirrored(n),))
    if op == "matmul" and node.args[0] is not node.args[1]:
        yield "factors swapped", lambda graph, n, args: graph.apply("matmul", (args[1], args[0]))
    if op in ("sum", "sum_units", "sum_group", "sum_axis", "max_axis"):
        yield f"{op} dropped", lambda graph, n, args: args[0]


def _all_or_both(node: Value) -> bool:
    """Whether an axis for another is only another order: all axes of several, or the last two."""
    axes = set(node.attrs[0])
    rank = len(shape_of(node.args[0])) if node.graph.shape is not None else 0
    return len(axes) == rank > 1 or axes == set(_mirrored(node))


def _mirrored(node: Value) -> tuple[int, ...]:
    """The last axis for the one before it, and the other way round."""
    return tuple(-3 - a for a in node.attrs[0])


def n_clone(graph: Graph, node: Value) -> Value:
    """An input of one graph in another."""
    return graph.node(
        "input",
        attrs=node.attrs,
        domain=node.domain,
        scope=node.scope,
        name=node.attrs[0],
        truth=node.truth,
    )


def clone(graph: Graph, program: Program, edits: dict[Value, Edit]) -> dict[Value, Value]:
    """The program's live nodes made again in ``graph``, some of them edited."""
    made: dict[Value, Value] = {}
    for node in program.live:
        args = tuple(made[a] for a in node.args)
        new = edits[node](graph, node, args) if node in edits else None
        if new is None:
            if node.op == "input":
                new = n_clone(graph, node)
            elif node.op == "const":
                new = graph.const(node.attrs[0])
            else:
                new = graph.apply(node.op, args, node.attrs)
        made[node] = new
    return made


def _program(
    program: Program,
    made: dict[Value, Value],
    graph: Graph,
    outputs: dict[str, Value],
    groups: dict[str, Value],
) -> Program:
    sums = {name: made[node] for name, node in program.group_sums.items()}
    return Program(
        program.name,
        tuple(graph.nodes),
        outputs,
        groups,
        program.state_names,
        program.input_names,
        program.shape,
        {name: node for name, node in sums.items() if node.op == "sum_group"},
    )


def edited(program: Program, node: Value, edit: Edit) -> Program:
    """The program with one node replaced."""
    graph = Graph(program.shape)
    made = clone(graph, program, {node: edit})
    return _program(
        program,
        made,
        graph,
        {n: made[v] for n, v in program.outputs.items()},
        {n: made[v] for n, v in program.group_outputs.items()},
    )


def _of_outputs(program: Program) -> Iterator[tuple[str, Callable[[], Program]]]:
    """What can go wrong between computing and storing."""
    if UPDATE in program.outputs:
        yield "update negated", lambda: _changed(program, UPDATE, "neg")
    read = {n.attrs[0] for n in program.nodes if n.op == "input"}  # a mutant may have lost some
    for name, node in program.stored.items():
        old = next((n for n in program.live if n.op == "input" and n.attrs[0] == name), None)
        if name in read:
            yield f"{name} not stored", partial(_changed, program, name, "old")
        users = [n for n in program.live if node in set(n.args)]
        elsewhere = users or any(v is node for n, v in program.outputs.items() if n != name)
        if old is not None and elsewhere:
            yield f"old {name} for new", partial(_changed, program, name, "old for new")
        behind = ancestors([v for n, v in program.outputs.items() if n != name], stop=[node])
        if old is not None and old in behind:
            yield f"new {name} for old", partial(_changed, program, name, "new for old")
    for name, node in program.group_outputs.items():
        if node.op != "input" and name in read:
            yield f"group's {name} not stored", partial(_changed, program, name, "group old")


def _changed(program: Program, name: str, how: str) -> Program:
    graph = Graph(program.shape)
    made = clone(graph, program, {})
    outputs = {n: made[v] for n, v in program.outputs.items()}
    groups = {n: made[v] for n, v in program.group_outputs.items()}
    inputs = {n.attrs[0]: n for n in program.nodes if n.op == "input"}
    if how == "neg":
        outputs[name] = graph.apply("neg", (outputs[name],))
    elif how == "old":
        outputs[name] = n_clone(graph, inputs[name])
    elif how == "group old":
        groups[name] = n_clone(graph, inputs[name])
    else:
        new, old = program.outputs[name], inputs[name]
        target, instead = (new, n_clone(graph, old)) if how == "old for new" else (old, made[new])
        other = clone(graph, program, {target: lambda g, n, a: instead})
        outputs = {n: v if n == name else other[program.outputs[n]] for n, v in outputs.items()}
        groups = {n: other[program.group_outputs[n]] for n in groups}
    return _program(program, made, graph, outputs, groups)


def text(node: Value, depth: int = 3) -> str:
    """An expression as a rule's author would write it, cut off below ``depth``."""
    if node.op == "const":
        return repr(node.attrs[0])
    if node.op == "input":
        return ("group " if node.scope == "group" else "") + str(node.attrs[0])
    if depth == 0:
        return node.name or f"{node.op}(...)"
    parts = [text(a, depth - 1) for a in node.args]
    if node.op in MAPS:
        return MAPS[node.op].text.format(*parts)
    return f"{node.op}({', '.join(parts + attributes(node))})"
