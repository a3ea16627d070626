"""Neutral maths: the functions that rules are written with.

Every function works on Python floats (float64, on the host), on the arrays of any array-API library, and on
traced values. Python's operators do the rest, so a rule imports this module and no framework.
"""

from __future__ import annotations

import builtins
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import array_api_compat

from isostep.shapes import broadcast, fill
from isostep.values import MAPS, Domain, TraceError, Value

__all__ = [
    "Overwrite", "abs", "atan2", "cbrt", "clip", "cos", "eigenbasis", "eps", "exp", "expm1", "floor", "isfinite",
    "isnan", "iterated_basis", "largest_column", "log", "log1p", "logical_and", "logical_not", "logical_or", "matmul",
    "max_axis", "maximum", "mean", "minimum", "ndim", "one_minus_pow", "over_triangle", "overwrite", "pow", "reshape",
    "sign", "sin", "size", "spectral_power", "sqrt", "square", "sum", "sum_axis", "sum_units", "tanh", "transpose",
    "unit_size", "upper_triangle", "where",
]  # fmt: skip


def _is_number(x: Any) -> bool:
    # NumPy's float64 scalars are floats too, but what a 0-d result is must not depend on the dtype.
    return isinstance(x, bool | int | float) and not hasattr(x, "dtype")


def namespace(x: Any) -> Any:
    """The array-API namespace of an array (NumPy's own for its scalars, which 0-d results may be)."""
    return array_api_compat.array_namespace(x)


def call(op: str, *args: Any) -> Any:
    """Apply the elementwise operation ``op`` to any mix of numbers with arrays or with traced values."""
    for a in args:
        if isinstance(a, Value):
            return a.graph.apply(op, args)
    arrays = [a for a in args if not _is_number(a)]
    if not arrays:
        return MAPS[op].host(*args)
    if op == "where":
        if _is_number(args[0]):
            return chosen(*(args[1:] if args[0] else args[:0:-1]))
        arrays = [a for a in args[1:] if not _is_number(a)] or [
            getattr(_computing, "like", args[0])
        ]
    like = arrays[-1]
    xp = namespace(like)
    return MAPS[op].array(xp, *(_like(xp, a, like) if _is_number(a) else a for a in args))


def chosen(x: Any, other: Any) -> Any:
    """A plain choice's result: x, in the shape that it would have if the choice were made element by element."""
    shape, own = (tuple(getattr(a, "shape", ())) for a in (other, x))
    wide = broadcast(own, shape)
    if wide == own:
        return x
    if _is_number(x):  # then the other one has this shape; a tensor on several devices stays one
        xp = namespace(other)
        return xp.full_like(other, x, dtype=xp.bool if isinstance(x, bool) else other.dtype)
    return namespace(x).broadcast_to(x, wide)


#: While a rule runs on arrays: the parameter, whose dtype a choice between two plain numbers takes.
_computing = threading.local()


@contextmanager
def computing(like: Any) -> Iterator[None]:
    """For executors: numbers that meet no array but a condition get the dtype and device of ``like``."""
    before = getattr(_computing, "like", None)
    _computing.like = like
    try:
        yield
    finally:
        if before is None:
            del _computing.like
        else:
            _computing.like = before


def _like(xp: Any, number: float, like: Any) -> Any:
    # Not every namespace takes Python scalars in functions (operators all do): round once to the array's dtype.
    place = device(like)
    if isinstance(number, bool) or "bool" in str(like.dtype):
        return xp.asarray(number, device=place)
    return xp.asarray(number, dtype=like.dtype, device=place)


def _unary(op: str, doc: str) -> Any:
    def function(x: Any, /) -> Any:
        return call(op, x)

    function.__name__ = function.__qualname__ = op
    function.__doc__ = doc
    return function


sign = _unary("sign", "-1, 0 or 1; sign(+-0) = 0 and sign(NaN) = NaN on every backend.")
sqrt = _unary("sqrt", "Square root, correctly rounded; NaN below zero.")
cbrt = _unary("cbrt", "Cube root of any real number.")
exp = _unary("exp", "e**x.")
expm1 = _unary("expm1", "e**x - 1 without cancellation near 0.")
log = _unary("log", "Natural logarithm; -inf at 0, NaN below.")
log1p = _unary("log1p", "log(1 + x) without cancellation near 0.")
sin = _unary("sin", "Sine of radians.")
cos = _unary("cos", "Cosine of radians.")
tanh = _unary("tanh", "Hyperbolic tangent.")
floor = _unary("floor", "The largest whole number not above x.")
isfinite = _unary("isfinite", "True where x is neither NaN nor infinite.")
isnan = _unary("isnan", "True where x is NaN.")
logical_not = _unary("not", "Elementwise not.")
abs = _unary("abs", "Absolute value.")


def _binary(op: str, doc: str) -> Any:
    def function(x: Any, y: Any, /) -> Any:
        return call(op, x, y)

    function.__name__ = function.__qualname__ = op
    function.__doc__ = doc
    return function


maximum = _binary("maximum", "The larger of two; NaN if either is NaN.")
minimum = _binary("minimum", "The smaller of two; NaN if either is NaN.")
pow = _binary("pow", "x to the power y.")
atan2 = _binary("atan2", "The angle of the point (y, x), in radians.")
logical_and = _binary("and", "Elementwise and.")
logical_or = _binary("or", "Elementwise or.")


def square(x: Any, /) -> Any:
    """x * x."""
    return x * x


def clip(x: Any, low: Any, high: Any, /) -> Any:
    """``minimum(maximum(x, low), high)``; NaN stays NaN."""
    return minimum(maximum(x, low), high)


def where(condition: Any, x: Any, y: Any, /) -> Any:
    """x where the condition holds, else y. With a condition known on the host it is a plain choice."""
    return call("where", condition, x, y)


def one_minus_pow(beta: Any, t: Any, /) -> Any:
    """1 - beta**t without the cancellation that costs float32 five digits at beta = 0.999.

    The logarithm depends on beta alone, so a program takes it on the host in float64 and only the
    expm1 runs where ``t`` lives: a few float32 ulp under jit, where ``1 - beta**t`` is off by 1e-5.
    """
    return -expm1(t * log(beta))


# Facts of an array: Python numbers now, one value per array in a program.


def _as_the_parameter(what: str, x: Any) -> bool:
    """Whether a fact of ``x`` is one of the parameter's shape, which kernels are told; others the tracer knows."""
    if _is_number(x) or (isinstance(x, Value) and x.domain <= Domain.STEP):
        message = f"nm.{what} asks an array, got a number; ask p or g"
        raise TraceError(message)
    if not isinstance(x, Value):
        return False
    return x.domain is Domain.ELEMENT or (
        x.domain is Domain.TENSOR and x.shape == x.graph.shape
    )


def size(x: Any, /) -> Any:
    """The number of elements."""
    return x.graph.apply("size", (x,)) if _as_the_parameter("size", x) else math.prod(x.shape)


def ndim(x: Any, /) -> Any:
    """The number of axes."""
    return x.graph.apply("ndim", (x,)) if _as_the_parameter("ndim", x) else len(x.shape)


def unit_axis_of(shape: tuple[int, ...], unit_axis: int) -> int | None:
    """The axis of the units, counted from the front; None for an array of fewer than two axes, one unit."""
    rank = len(shape)
    if rank < 2:
        return None
    if not -rank <= unit_axis < rank:
        message = f"unit_axis must be in [{-rank}, {rank}) for an array of shape {tuple(shape)}, got {unit_axis}"
        raise ValueError(message)
    return unit_axis % rank


def unit_size(x: Any, /, unit_axis: int = 0) -> Any:
    """Elements per unit: all axes but ``unit_axis``; the whole array if it has fewer than two axes."""
    if _as_the_parameter("unit_size", x):
        return x.graph.apply("unit_size", (x,), (unit_axis,))
    axis = unit_axis_of(x.shape, unit_axis)
    return math.prod(x.shape) // (1 if axis is None else builtins.max(x.shape[axis], 1))


def eps(x: Any, /) -> Any:
    """The spacing of numbers at 1 in the compute dtype of the array."""
    _as_the_parameter("eps", x)
    if isinstance(x, Value):
        return x.graph.apply("eps", (x,))
    return float(namespace(x).finfo(x.dtype).eps)


# Reductions. The array forms keep the dtype; the order is the library's own and fixed.


def _added_up(x: Any, **how: Any) -> Any:
    if "bool" in str(x.dtype):
        message = (
            f"a sum takes numbers, got an array of {x.dtype}; write nm.where(c, 1.0, 0.0) to count"
        )
        raise TraceError(message)
    return namespace(x).sum(x, dtype=x.dtype, **how)


def sum(x: Any, /) -> Any:
    """The sum of all elements: a 0-d array."""
    if isinstance(x, Value):
        return x.graph.apply("sum", (x,))
    if _is_number(x):
        return x
    return _added_up(x)


def sum_units(x: Any, /, unit_axis: int = 0) -> Any:
    """Sums over all axes but ``unit_axis``, kept as axes of length 1.

    ``unit_axis`` is explicit because layouts differ: output channels are axis 0 of torch's (out, in) weights
    and axis -1 of JAX's (in, out). An array with fewer than two axes is one unit.
    """
    if isinstance(x, Value):
        return x.graph.apply("sum_units", (x,), (unit_axis,))
    if _is_number(x):
        return x
    axis = unit_axis_of(x.shape, unit_axis)
    axes = tuple(i for i in range(len(x.shape)) if i != axis)
    return _added_up(x, axis=axes, keepdims=True)


# Generic operations: factored state and matrices. A program that has one of them is not fused.


def _within(x: Value, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The axes, which have to be some of the traced array's: every library says in its own way that they are not."""
    rank = len(x.shape)
    for axis in axes:
        if not -rank <= axis < rank:
            message = f"an axis of an array of shape {x.shape} must be in [{-rank}, {rank}), got {axis}"
            raise TraceError(message)
    return axes


def sum_axis(x: Any, /, *, axis: int | tuple[int, ...]) -> Any:
    """The sum over one axis or several, kept as axes of length 1."""
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if isinstance(x, Value):
        return x.graph.apply("sum_axis", (x,), (_within(x, axes),))
    return _added_up(x, axis=axes, keepdims=True)


def max_axis(x: Any, /, *, axis: int | tuple[int, ...]) -> Any:
    """The largest along one axis or several, kept as axes of length 1; NaN if any is NaN, -inf of nothing."""
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if isinstance(x, Value):
        return x.graph.apply("max_axis", (x,), (_within(x, axes),))
    xp = namespace(x)
    if 0 in (x.shape[a] for a in axes):
        # A sum of nothing has the right shape, dtype and device.
        return xp.sum(x, axis=axes, keepdims=True, dtype=x.dtype) - math.inf
    return xp.max(x, axis=axes, keepdims=True)


def mean(x: Any, /, *, axis: int | tuple[int, ...], keepdims: bool = True) -> Any:
    """The mean over axes, kept as axes of length 1 (``keepdims`` is accepted for readability only)."""
    if not keepdims:
        message = "nm.mean keeps the axes it reduces; use nm.reshape to drop them"
        raise ValueError(message)
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    total = sum_axis(x, axis=axes)
    count = math.prod(x.shape[a] for a in axes)
    return total / builtins.max(count, 1)


def matmul(x: Any, y: Any, /) -> Any:
    """Matrix product."""
    for v in (x, y):
        if isinstance(v, Value):
            own, other = x.shape, y.shape
            if len(own) < 2 or len(other) < 2 or own[-1] != other[-2]:
                message = f"nm.matmul takes matrices that fit, got arrays of shapes {own} and {other}"
                raise TraceError(message)
            return v.graph.apply("matmul", (x, y))
    return x @ y


def transpose(x: Any, /) -> Any:
    """The last two axes swapped."""
    if isinstance(x, Value):
        _within(x, (-2,))
        return x.graph.apply("transpose", (x,))
    return namespace(x).matrix_transpose(x)


def reshape(x: Any, shape: tuple[int, ...], /) -> Any:
    """The same elements, row by row, in another shape."""
    if isinstance(x, Value):
        size = math.prod(x.shape)
        if math.prod(fill(tuple(shape), size)) != size:
            message = f"nm.reshape: {tuple(shape)} has no room for an array of shape {x.shape}"
            raise TraceError(message)
        return x.graph.apply("reshape", (x,), (tuple(shape),))
    return namespace(x).reshape(x, tuple(shape))


def upper_triangle(x: Any, /) -> Any:
    """The square matrix with zeros below its diagonal."""
    if isinstance(x, Value):
        return x.graph.apply("upper_triangle", (x,))
    return namespace(x).triu(x)


def largest_column(x: Any, /) -> Any:
    """The column of the largest Euclidean norm, as a matrix of one column: the first of several, zeros of none.

    Squares of elements are summed, so scale what they may overflow.
    """
    if isinstance(x, Value):
        return x.graph.apply("largest_column", (x,))
    xp = namespace(x)
    if not x.shape[1]:
        return xp.sum(x, axis=1, keepdims=True, dtype=x.dtype)
    return xp.take(x, xp.reshape(xp.argmax(xp.sum(x * x, axis=0)), (1,)), axis=1)


def over_triangle(x: Any, upper: Any, /) -> Any:
    """``x`` times the inverse of an upper triangular matrix; what is below that one's diagonal has to be zero.

    NaN in rows of x that are not finite, and everywhere if the triangular matrix is not, or has a zero on its
    diagonal. The array API has no solver for triangular matrices, so it is the general one, which costs as much as a
    decomposition.
    """
    for v in (x, upper):
        if isinstance(v, Value):
            return v.graph.apply("over_triangle", (x, upper))
    xp = namespace(x)
    one = xp.eye(upper.shape[0], dtype=x.dtype, device=device(x))
    diagonal = xp.sum(one * upper, axis=0)
    sound = xp.logical_and(xp.all(xp.isfinite(upper)), xp.all(diagonal != 0))
    rows = xp.all(xp.isfinite(x), axis=1, keepdims=True)
    triangle = xp.matrix_transpose(xp.where(sound, upper, one))
    found = xp.linalg.solve(triangle, xp.matrix_transpose(xp.where(rows, x, xp.zeros_like(x))))
    sound = xp.logical_and(sound, rows)
    return xp.where(sound, xp.matrix_transpose(found), _like(xp, math.nan, x))


def spectral_power(x: Any, exponent: Any, low: Any, /) -> Any:
    """The symmetric matrix with the eigenvectors of x and ``maximum(eigenvalue, low) ** exponent`` for eigenvalues.

    It does not depend on which eigenvectors are chosen, so it is compared element by element. Of an x that is
    symmetric but for rounding the symmetric part is taken; anything not finite in x makes all of the result NaN.
    """
    for v in (x, exponent, low):
        if isinstance(v, Value):
            return v.graph.apply("spectral_power", (x, exponent, low))
    values, vectors = _eigh(x)
    powers = pow(maximum(values, low), exponent)
    return (vectors * powers[None, :]) @ namespace(x).matrix_transpose(vectors)


def eigenbasis(x: Any, /) -> Any:
    """Orthonormal eigenvectors of a symmetric matrix, as columns, that of the largest eigenvalue first.

    Which they are is the library's choice (signs; all of it where eigenvalues are equal), so a step that makes a
    basis may store it and use it for nothing else. Anything not finite in x makes all of the result NaN.
    """
    if isinstance(x, Value):
        return x.graph.apply("eigenbasis", (x,))
    return namespace(x).flip(_eigh(x)[1], axis=-1)


def iterated_basis(x: Any, basis: Any, /) -> Any:
    """The basis after one step of orthogonal iteration: the Q of a QR decomposition of ``x @ basis``.

    Columns are taken in the order of basis^T x basis's diagonal, the largest first, and each stays in its place. A
    choice of the library's as an ``eigenbasis`` is, and for use in the next step only.
    """
    for v in (x, basis):
        if isinstance(v, Value):
            return v.graph.apply("iterated_basis", (x, basis))
    xp = namespace(x)
    product = x @ basis
    sound = xp.all(xp.isfinite(product))
    order = xp.argsort(-xp.sum(basis * product, axis=0), stable=True)
    columns = xp.where(sound, xp.take(product, order, axis=1), xp.zeros_like(product))
    found = xp.take(xp.linalg.qr(columns)[0], xp.argsort(order, stable=True), axis=1)
    return xp.where(sound, found, _like(xp, math.nan, x))


def _eigh(x: Any) -> tuple[Any, Any]:
    """Ascending eigenvalues and eigenvectors (columns) of the symmetric part of a square matrix, or all NaN.

    LAPACK raises on numbers that are not finite, so it is not shown them.
    """
    xp = namespace(x)
    x = 0.5 * x + 0.5 * xp.matrix_transpose(x)
    sound = xp.all(xp.isfinite(x))
    values, vectors = xp.linalg.eigh(xp.where(sound, x, xp.zeros_like(x)))
    none = _like(xp, math.nan, x)
    return xp.where(sound, values, none), xp.where(sound, vectors, none)


@dataclass(frozen=True)
class Overwrite:
    """A new parameter in place of an update; see ``overwrite``."""

    value: Any


def overwrite(p: Any, /) -> Overwrite:
    """Return this in place of u where a rule or piece sets the parameter instead of adding to it."""
    return Overwrite(p)


def device(x: Any, /) -> Any:
    """Where to make what meets this array, for adapters; rules have no use for it.

    None where that is the library's business: JAX moves what it made to whatever it meets, and the device of a sharded
    array is a layout, which nothing of another shape has.
    """
    anywhere = array_api_compat.is_numpy_array(x) or array_api_compat.is_jax_array(x)
    return None if anywhere else array_api_compat.device(x)
