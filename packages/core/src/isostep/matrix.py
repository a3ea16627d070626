"""Matrix functions for the rules that treat a parameter as a matrix. They run generically."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from isostep import nm, parts
from isostep.domains import Domain, Flag, Integer, Pair, Real
from isostep.values import Value

#: The largest number of axes of rules with a matrix for each axis: a rule has the same states for every array.
AXES = 4


def others(rank: int, axis: int) -> tuple[int, ...]:
    """All axes but one, counted from the end."""
    return tuple(a - rank for a in range(rank) if a != axis)


def identity(p: Any, axis: int) -> Any:
    """The identity matrix of an axis of p, of its dtype and on its device, or on all of its devices. For ``init``."""
    if isinstance(p, Value):  # traced for its shape alone
        row = unfold(diagonal(p, axis), axis)
        return nm.matmul(nm.transpose(row), row)
    size = p.shape[axis]
    # From a sum of p's own zeros: that is on p's device, or on all that p is spread over, as the identity has to be.
    xp, one = nm.namespace(p), nm.sum(parts.zeros(p)) + 1.0
    ones = xp.broadcast_to(one, (size, size))
    return xp.triu(ones) * xp.tril(ones)


def unfold(x: Any, axis: int) -> Any:
    """The array as a matrix with ``axis`` for its columns; the rows are the other axes, in order."""
    before, size, after = _around(x.shape, axis)
    if after > 1:
        x = nm.transpose(nm.reshape(x, (before, size, after)))
    return nm.reshape(x, (before * after, size))


def fold(rows: Any, axis: int, shape: tuple[int, ...]) -> Any:
    """The array of this shape whose ``unfold`` along ``axis`` is ``rows``."""
    before, size, after = _around(shape, axis)
    if after > 1:
        rows = nm.transpose(nm.reshape(rows, (before, after, size)))
    return nm.reshape(rows, shape)


def _around(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def along(x: Any, axis: int, matrix: Any) -> Any:
    """The product of a square matrix with every vector along ``axis``: v^T matrix in the place of v."""
    return mapped(x, axis, nm.matmul, matrix)


def mapped(x: Any, axis: int, change: Callable[[Any, Any], Any], matrix: Any) -> Any:
    """The array with every vector along ``axis`` changed: ``change(rows, matrix)`` gets them as rows."""
    return fold(change(unfold(x, axis), matrix), axis, x.shape)


def diagonal(x: Any, axis: int) -> Any:
    """The sums over all axes but one, kept as axes of length 1."""
    return nm.sum_axis(x, axis=others(x.ndim, axis)) if x.ndim > 1 else x


def gram(x: Any, axis: int) -> Any:
    """The inner products of the slices at each pair of indices of ``axis``: x x^T for axis 0 of a matrix."""
    rows = unfold(x, axis)
    return nm.matmul(nm.transpose(rows), rows)


def newton_schulz(x: Any, coefficients: tuple[Any, Any, Any], steps: int, eps: Any) -> Any:
    """Push all singular values of a matrix towards 1, leaving its singular vectors.

    ``steps`` times x <- a x + (b A + c A**2) x with A = x x^T, after x has been divided by
    max(|x|, eps) (Frobenius), which puts its singular values into [0, 1]. Muon's coefficients are
    chosen for speed, not convergence: values that were not tiny end up between about 0.7 and 1.2.
    """
    a, b, c = coefficients
    rows, columns = x.shape
    tall = rows > columns
    if tall:  # x x^T is then the smaller of the two products
        x = nm.transpose(x)
    x = x / nm.maximum(nm.sqrt(nm.sum(x * x)), eps)
    for _ in range(steps):
        gram = nm.matmul(x, nm.transpose(x))
        x = a * x + nm.matmul(b * gram + c * nm.matmul(gram, gram), x)
    return nm.transpose(x) if tall else x


def direction(b: Any, g: Any, momentum: Any, nesterov: bool) -> tuple[Any, Any]:
    """Muon's running average of the gradients, and what it orthogonalises: that, or Nesterov's look ahead of it."""
    b = parts.average(b, g, momentum)
    return b, parts.average(b, g, momentum) if nesterov else b


def width(rows: int, columns: int) -> float:
    """By how much more than in a square matrix an orthogonal one's outputs grow: sqrt(rows / columns), at least 1."""
    return math.sqrt(max(1.0, rows / max(columns, 1)))


def orthogonalising() -> dict[str, Domain]:
    """The hyperparameters of ``direction`` and ``newton_schulz``, as Muon has them, but for the norm's bound."""
    # The cases are an iteration that stays bounded, as others near Muon's do not, and few steps of it: each multiplies
    # what rounding has done to small singular values by three.
    coefficients = (
        Real(3.4445, cases=(3.0,)),
        Real(-4.7750, cases=(-3.2,)),
        Real(2.0315, cases=(1.2,)),
    )
    return {
        "momentum": parts.decay_rate(0.95),
        "nesterov": Flag(True, doc="Nesterov momentum"),
        "ns_coefficients": Pair(*coefficients, doc="a, b, c of the Newton-Schulz iteration"),
        "ns_steps": Integer(
            5, low=0, high=99, static=True, cases=(2,), doc="Newton-Schulz iterations"
        ),
    }
