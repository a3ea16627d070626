"""Programs as text: one line per named value, expressions written out, one block per stage."""

from __future__ import annotations

import keyword
from collections import Counter
from collections.abc import Callable, Iterable

from isostep.program import Program, ancestors
from isostep.values import FACTS, MAPS, REDUCTIONS, Domain, Value, attributes


def identifiers(program: Program, reserved: Iterable[str] = ()) -> dict[Value, str]:
    """A distinct identifier for every node, from the rule's own names where it has some; never a reserved one."""
    taken: Counter[str] = Counter([*keyword.kwlist, *reserved])
    found: dict[Value, str] = {}
    ordered = sorted(program.live, key=lambda n: (n.op != "input", n.scope == "group"))
    outputs = {node: name for name, node in program.outputs.items() if node.op != "input"}
    for i, node in enumerate(ordered):
        base = outputs.get(node) or node.name or f"v{i}"
        if node.op == "input" and node.scope == "group":
            base = f"group_{base}"
        elif node in outputs and outputs[node] in program.state_names:
            base = f"{base}_new"
        base = "".join(c if c.isalnum() else "_" for c in base).strip("_") or f"v{i}"
        name = base
        while name in taken:
            taken[base] += 1
            name = f"{base}_{taken[base]}"
        taken[name] = 1
        found[node] = name
    return found


def expression(node: Value, text: dict[Value, str]) -> str:
    """The right-hand side of one node, operands by name or written out as ``text`` has them."""
    operands = [text[a] for a in node.args]
    if node.op in MAPS:
        return MAPS[node.op].text.format(*operands)
    if node.op == "const":
        return repr(node.attrs[0])
    return f"{node.op}({', '.join(operands + attributes(node))})"


def lines(
    program: Program,
    nodes: Iterable[Value],
    names: dict[Value, str],
    render: Callable[[Value, dict[Value, str]], str] = expression,
) -> list[str]:
    """``name = expression`` for each node that is named, used twice or an output; the others are inlined."""
    nodes = list(nodes)
    uses = Counter(a for n in program.live for a in n.args) + Counter(program.roots)
    inside, roots = set(nodes), set(program.roots)  # sets: == on a value makes a node
    text = {
        n: render(n, {}) if n.op == "const" else names[n]
        for n in program.live
        if n not in inside or n.op == "const"
    }
    out = []
    for n in nodes:
        if n.op == "const":
            continue
        if n.op == "input":
            text[n] = names[n]
            continue
        right = render(n, text)
        local = all(n in inside for n in _users(program, n))
        if uses[n] == 1 and n.name is None and n not in roots and local and n.op not in REDUCTIONS:
            text[n] = right
        else:
            text[n] = names[n]
            out.append(f"{names[n]} = {bare(right)}")
    return out


def _users(program: Program, node: Value) -> list[Value]:
    return [n for n in program.live if any(a is node for a in n.args)]


def bare(text: str) -> str:
    """Without the outermost parentheses, if they are one pair."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0 and i < len(text) - 1:
            return text
    return text[1:-1]


def listing(program: Program) -> str:
    """The whole program as ``isostep show`` prints it."""
    names = identifiers(program)
    out = [f"program {program.name}" + (f" for shape {program.shape}" if program.shape else "")]
    out.append("inputs")
    for domain in Domain:
        row = [names[n] for n in program.live if n.op == "input" and n.domain is domain]
        if row:
            out.append(f"    {domain.name.lower() + ':':9s} {', '.join(row)}")
    for domain, title in (
        (Domain.HOST, "scalars of the hyperparameters, in float64"),
        (Domain.STEP, "scalars of t"),
    ):
        block = lines(program, [n for n in program.live if n.domain is domain], names)
        if block:
            out += [title, *(f"    {line}" for line in block)]
    done: set[Value] = {n for n in program.live if n.domain <= Domain.STEP}
    for stage in range(program.stages):
        last = stage == program.stages - 1
        goals = program.reductions(stage) + (list(program.roots) if last else [])
        needed = ancestors(goals, stop=done)
        nodes = [n for n in program.live if n in needed and n not in done and n.op != "input"]
        kept = {n for n in nodes if n.domain in (Domain.ELEMENT, Domain.TENSOR) and not last}
        done |= {n for n in nodes if n not in kept}
        out.append(f"stage {stage}" + (" (generic)" if program.generic else ""))
        for domain in (Domain.GROUP, Domain.ARRAY, Domain.UNIT, Domain.ELEMENT, Domain.TENSOR):
            inner = [
                n
                for n in nodes
                if n.domain is domain and n.op not in REDUCTIONS and n.op not in FACTS
            ]
            inner += [n for n in nodes if n.domain is domain and n.op in FACTS]
            ordered = [n for n in program.nodes if n in set(inner)]
            block = lines(program, ordered, names)
            out += [f"    {domain.name.lower() + ':':9s} {line}" for line in block]
        out += [
            f"    {'reduce:':9s} {line}"
            for line in lines(program, program.reductions(stage), names)
        ]
    shown = [
        f"{k} = {names[n]}" if n.op != "const" else f"{k} = {n.attrs[0]!r}"
        for k, n in program.outputs.items()
    ]
    out.append("outputs  " + ", ".join(shown))
    if program.group_outputs:
        out.append(
            "group    " + ", ".join(f"{k} = {names[n]}" for k, n in program.group_outputs.items())
        )
    return "\n".join(out)
