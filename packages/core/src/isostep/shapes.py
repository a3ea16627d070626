"""Shapes of traced values, for the rules that look at them (factored state, matrices)."""

from __future__ import annotations

import math

from isostep.values import BASES, DECOMPOSITIONS, MATRIX_OPS, Domain, Value


def shape_of(value: Value) -> tuple[int, ...]:
    """The shape of ``value`` in a graph traced for one parameter shape. Kept: a chain of values shares its operands."""
    known = value.graph.shapes
    waiting = [value]
    while waiting:
        unknown = [a for a in waiting[-1].args if a not in known]
        if unknown:
            waiting += unknown
        else:
            last = waiting.pop()
            known[last] = _shape(last, [known[a] for a in last.args])
    return known[value]


def _shape(value: Value, operands: list[tuple[int, ...]]) -> tuple[int, ...]:
    shape = value.graph.shape
    assert shape is not None
    if value.op == "input":
        own = value.attrs[1] if len(value.attrs) > 1 else None
        if own is not None:
            return own
        return shape if value.domain >= Domain.UNIT else ()
    if value.domain <= Domain.ARRAY:
        return ()
    if value.op in ("sum_axis", "max_axis"):
        (axes,) = value.attrs
        return tuple(
            1 if i in {a % len(operands[0]) for a in axes} else n for i, n in enumerate(operands[0])
        )
    if value.op == "sum_units":
        own = operands[0]  # of fewer than two axes all are summed
        kept = value.attrs[0] % len(own) if len(own) > 1 else None
        return tuple(n if i == kept else 1 for i, n in enumerate(own))
    if value.op == "sum":
        return ()
    if value.op == "transpose":
        return (*operands[0][:-2], operands[0][-1], operands[0][-2])
    if value.op == "matmul":
        return (*operands[0][:-1], operands[1][-1])
    if value.op == "largest_column":
        return (operands[0][0], 1)
    if value.op in (*MATRIX_OPS, *DECOMPOSITIONS, *BASES):
        return operands[0]
    if value.op == "reshape":
        return fill(value.attrs[0], math.prod(operands[0]))
    return broadcast(*operands)


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape of operands, by the array API's rules (they are known to fit)."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(s)) + s for s in shapes]
    return tuple(0 if 0 in sizes else max(sizes) for sizes in zip(*padded, strict=True))


def fill(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """``shape`` with its one -1 replaced by what ``size`` leaves for it."""
    if -1 not in shape:
        return shape
    rest = math.prod(n for n in shape if n != -1)
    return tuple(size // max(rest, 1) if n == -1 else n for n in shape)
