"""What ``observe`` sums over each array in a step: as nodes of a program, and on arrays as they are.

Nothing in a step waits for these sums, so they end no stage: the last pass, which has every array in hand, collects
them beside what it stores. They are products added up in float64 (in JAX in the dtype that the step computes in).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isostep import nm
from isostep.values import Domain, Graph, Value

#: The sums that every rule has, in order; and those of a rule with a momentum.
BASIC = ("gradient", "update", "parameter", "nonfinite_gradient", "nonfinite_update")
OF_MOMENTUM = ("momentum", "alignment", "agreement")
#: What rules call their running average of gradients; ``observe(rule, momentum=...)`` names another.
MOMENTA = ("exp_avg", "m", "momentum_buffer", "exp_avg_fast", "exp_avg_grad", "grads_ema", "pos_momentum")


def names(momentum: bool) -> tuple[str, ...]:
    """The names of the sums, in the order in which they come."""
    return BASIC + (OF_MOMENTUM if momentum else ())


def expressions(
    p: Any, g: Any, u: Any, m: Any = None, call: Callable[..., Any] = nm.call
) -> list[tuple[Any, Any]]:
    """What is summed: pairs of factors, the second None where there is one term only.

    ``p`` and ``g`` are as the step was given them, ``u`` is what it adds, ``m`` the new momentum. ``call(op, *args)``
    applies an operation.
    """
    odd = [call("where", call("isfinite", x), 0.0, 1.0) for x in (g, u)]
    found: list[tuple[Any, Any]] = [(g, g), (u, u), (p, p), *((x, None) for x in odd)]
    if m is not None:
        same = call("gt", call("mul", call("sign", m), g), 0.0)
        found += [(m, m), (m, g), (call("where", same, 1.0, 0.0), None)]
    return found


def nodes(p: Value, g: Value, u: Value, m: Value | None) -> tuple[Value, ...]:
    """The sums as nodes of the graph of ``p``; no output depends on them."""
    graph: Graph = p.graph
    if u.domain < Domain.ELEMENT:  # an update that is one number: its sum is over the elements all the same
        u = graph.apply("where", (p == p, u, u))
    return tuple(
        graph.apply("sum", (x if y is None else x * y,)) for x, y in expressions(p, g, u, m)
    )


def factors(node: Value) -> tuple[Value, ...]:
    """The one or two factors of a sum's terms, which a lowering multiplies in float64."""
    term = node.args[0]
    return term.args if term.op == "mul" else (term,)


def of_arrays(
    p: Any, g: Any, u: Any, m: Any, wide: Callable[[Any], Any], call: Callable[..., Any]
) -> Any:
    """The sums of one parameter's arrays: a vector, of the dtype that ``wide`` gives them."""
    if tuple(getattr(u, "shape", ())) != tuple(p.shape):
        u = call("where", p == p, u, u)
    arrays = [None if a is None else wide(a) for a in (p, g, u, m)]
    xp = nm.namespace(arrays[0])
    with nm.computing(arrays[0]):
        found = [nm.sum(x if y is None else x * y) for x, y in expressions(*arrays, call)]
    return xp.stack([xp.asarray(s) for s in found])
