"""The scalar part of a program: what depends on hyperparameters and t alone, in float64 on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from isostep.calls import COUNT
from isostep.program import Program
from isostep.values import MAPS, Domain, Value


def flat(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters by the names that a program's inputs have: ``betas`` becomes ``betas[0], betas[1]``."""
    found: dict[str, Any] = {}
    for name, value in hyper.items():
        if isinstance(value, tuple):
            found |= {f"{name}[{i}]": v for i, v in enumerate(value)}
        else:
            found[name] = value
    return found


def on_host(op: str, *args: Any) -> Any:
    """An operation on Python numbers, in float64."""
    return MAPS[op].host(*args)


def evaluate(
    program: Program,
    hyper: Mapping[str, Any],
    t: Any,
    *,
    scope: str = "array",
    upto: Domain = Domain.STEP,
    call: Callable[..., Any] = on_host,
) -> dict[Value, Any]:
    """The value of every scalar node of one scope, up to and including a domain.

    ``hyper`` are the values of this step (``BoundRule.at``), ``t`` the number of this step. With ``upto=HOST``
    only what does not change from step to step is evaluated, for backends that take t on the device. A backend
    whose t or hyperparameters are arrays gives ``call(op, *args)``, which takes them.
    """
    numbers = flat(hyper)
    found: dict[Value, Any] = {}
    for node in _nodes(program, scope, upto):
        if node.op == "const":
            found[node] = node.attrs[0]
        elif node.op == "input":
            found[node] = t if node.attrs[0] == COUNT else numbers[node.attrs[0]]
        else:
            found[node] = call(node.op, *(found[a] for a in node.args))
    return found


@cache
def _nodes(program: Program, scope: str, upto: Domain) -> tuple[Value, ...]:
    return tuple(n for n in program.live if n.domain <= upto and n.scope in (None, scope))


def of_group(
    programs: Iterable[Program],
    hyper: Mapping[str, Any],
    t: Any,
    *,
    call: Callable[..., Any] = on_host,
) -> dict[Value, Any]:
    """The scalars of the group's own t and hyperparameters, of all programs of a step."""
    found: dict[Value, Any] = {}
    for program in {id(p): p for p in programs}.values():
        if program.group_inputs:
            own = evaluate(program, hyper, t, scope="group", call=call)
            found |= {n: v for n, v in own.items() if n.scope == "group"}
    return found


def used_outside(program: Program, scalars: Iterable[Value]) -> list[Value]:
    """Those of the scalars that other nodes or outputs read, constants excepted: a lowering's arguments."""
    inside = set(scalars)
    wanted = {a for n in program.live if n not in inside for a in n.args} | set(program.roots)
    return [n for n in program.live if n in inside and n in wanted and n.op != "const"]
