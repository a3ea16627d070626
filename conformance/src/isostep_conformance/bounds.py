"""Arithmetic of the truth: values in a wider format, error bounds and threshold flags beside them.

A ``Num`` is an array of true values ``v``, a bound ``e`` of what an honest backend's value may differ by, and
a flag ``f``: this element depends on a decision (a sign, a comparison, an overflow) that sits within rounding
of its threshold, so that honest backends may differ by any amount. Where every operand is exact (``e == 0``)
nothing is flagged: an exact zero has to be hit by everyone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from isostep.values import MAPS
from isostep_conformance import spectral, triangular
from isostep_conformance.formats import Format, rounded, ulp

#: How many times its error bound an operand may be from a threshold and still be exempt. The bound follows the
#: rule's own order of operations; contraction and a library's exp or log differ from it by a small factor.
CAUTION = 4.0
#: Error of a library's transcendental functions, in units of the spacing at the result.
LIBRARY_ULPS = 4.0

_EXACTLY_ROUNDED = {
    "add",
    "sub",
    "mul",
    "div",
    "neg",
    "abs",
    "sqrt",
    "maximum",
    "minimum",
    "floor",
    "sign",
}
_COMPARISONS = {"lt", "le", "gt", "ge", "eq", "ne"}


class Num:
    """Values with bounds and flags; ``e`` may be 0.0 and ``f`` False for all elements at once."""

    __slots__ = ("e", "f", "v")

    def __init__(self, v: np.ndarray, e: Any = 0.0, f: Any = False) -> None:
        self.v, self.e, self.f = v, e, f


class Chosen(Num):
    """One of several right answers, and how wrong another matrix would be as one: 1 is honest rounding."""

    __slots__ = ("faults",)

    def __init__(self, v: np.ndarray, f: Any, faults: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(v, 0.0, f)
        self.faults = faults


def in_range(v: np.ndarray, form: Format) -> np.ndarray:
    """Too large for the compute format is infinite there, too small is zero: so it is here."""
    # Half a spacing above the largest number is where rounding goes to infinity.
    limit = v.dtype.type(form.largest) * (1 + v.dtype.type(form.eps) / 4)
    size = np.abs(v)
    large, small = size >= limit, (size <= v.dtype.type(form.tiny) / 2) & (size > 0)
    if large.any():
        v = np.where(large, np.copysign(v.dtype.type(np.inf), v), v)
    return np.where(small, np.copysign(v.dtype.type(0), v), v) if small.any() else v


class Plain:
    """Values only, for mutants: as fast as NumPy is."""

    def __init__(self, form: Format) -> None:
        self.form, self.wide, self.stored = form.compute, form.wide, form

    def scalar(self, number: Any, exact: bool = True) -> Any:
        """A Python number where an array operation needs it."""
        return np.asarray(number, dtype=None if isinstance(number, bool) else self.wide)

    def array(self, values: np.ndarray) -> Any:
        """An exact input."""
        return values

    def value(self, x: Any) -> np.ndarray:
        """The bare values."""
        return x

    def apply(self, op: str, args: tuple[Any, ...]) -> Any:
        """One elementwise operation."""
        v = np.asarray(MAPS[op].array(np, *args))
        return v if v.dtype == bool else in_range(v, self.form)

    def shaped(self, op: Callable[[np.ndarray], np.ndarray], x: Any) -> Any:
        """A change of shape."""
        return op(x)

    def concatenate(self, parts: list[Any]) -> Any:
        """Arrays end to end as one vector."""
        return np.concatenate([np.ravel(x) for x in parts])

    def sum(self, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        """A sum over axes, or over all elements."""
        return in_range(np.asarray(np.sum(x, axis=axis, keepdims=keepdims)), self.form)

    def matmul(self, x: Any, y: Any) -> Any:
        """A matrix product."""
        return in_range(np.asarray(x @ y), self.form)

    def upper_triangle(self, x: Any) -> Any:
        """A matrix without what is below its diagonal."""
        return self.shaped(np.triu, x)

    def largest_column(self, x: Any) -> Any:
        """The column of the largest norm."""
        return (
            np.take(x, [triangular.largest(x)], axis=1) if x.shape[1] else 0.0 * x.sum(1)[:, None]
        )

    def over_triangle(self, x: Any, upper: Any) -> Any:
        """A matrix times the inverse of a triangular one."""
        return in_range(triangular.over(x, upper), self.form)

    def spectral_power(self, x: Any, exponent: Any, low: Any) -> Any:
        """A power of a symmetric matrix."""
        return in_range(spectral.power(x, exponent, low), self.form)

    def eigenbasis(self, x: Any) -> Any:
        """Eigenvectors of a symmetric matrix: some of those there are."""
        return spectral.eigenbasis(x)

    def iterated_basis(self, x: Any, basis: Any) -> Any:
        """A basis after a step of orthogonal iteration: one of those there are."""
        return spectral.iterated_basis(x, basis)


class Shaking(Plain):
    """Values of honest decompositions and products of matrices: those of matrices within rounding of the given ones.

    LAPACK promises no more, in whatever way it goes about it. Where eigenvalues are small beside the norm that
    is far more than an ulp, and the plain rule's own error is one draw of it. A product's terms are added up in any
    order; where products follow each other (Newton-Schulz) each enlarges what the one before has left.
    """

    def __init__(self, form: Format, seed: int) -> None:
        super().__init__(form)
        self.rng = np.random.default_rng(seed)

    def matmul(self, x: Any, y: Any) -> Any:
        noise = self.rng.standard_normal((*x.shape[:-1], y.shape[-1])) * (self.form.eps / 2)
        return super().matmul(x, y) + noise * np.sqrt((x * x) @ (y * y))

    def spectral_power(self, x: Any, exponent: Any, low: Any) -> Any:
        noise = self.rng.standard_normal(x.shape) * (self.form.eps / 2 * spectral.norm(x))
        return super().spectral_power(x + noise, exponent, low)


class Bounded(Plain):
    """Values, bounds and flags."""

    def scalar(self, number: Any, exact: bool = True) -> Num:
        """A host scalar: float64 rounded once, or within a few ulp where it may be computed on the device."""
        if isinstance(number, bool):
            return Num(np.asarray(number))
        v = np.asarray(number, dtype=self.wide)
        if not np.isfinite(v):
            return Num(v)
        e = np.abs(rounded(v, self.form) - v)
        return Num(
            in_range(v, self.form), e if exact else e + LIBRARY_ULPS * self.form.eps * np.abs(v)
        )

    def array(self, values: np.ndarray) -> Num:
        return Num(values)

    def value(self, x: Num) -> np.ndarray:
        return x.v

    def apply(self, op: str, args: tuple[Num, ...]) -> Num:
        values = [a.v for a in args]
        v = np.asarray(MAPS[op].array(np, *values))
        flag = _any_flag(args)
        if op in _COMPARISONS:
            # The bound of a truth value says whether it may be the other one; whether that matters, ``where`` knows.
            return Num(v, self._near(values[0] - values[1], args[0].e + args[1].e), flag)
        if op in ("isfinite", "isnan"):
            return Num(v, 0.0, flag)  # what may overflow was flagged where it was made
        if v.dtype == bool:
            return Num(
                v,
                np.any([np.broadcast_to(np.asarray(a.e) > 0, v.shape) for a in args], axis=0),
                flag,
            )
        if op == "sign":
            return Num(v, 0.0, flag | self._near(values[0], args[0].e))
        if op == "floor":
            away = values[0] - np.round(values[0])
            return Num(v, 0.0, flag | self._near(away, args[0].e))
        if op == "where":
            return self._where(v, args)
        e = _propagated(op, v, args, values)
        return self._finish(op, v, e, args, flag)

    def _near(self, distance: np.ndarray, e: Any) -> np.ndarray:
        """Whether a decision at distance 0 may go either way. Exact operands decide exactly."""
        return (np.abs(distance) <= CAUTION * e) & (np.asarray(e) > 0)

    def _where(self, v: np.ndarray, args: tuple[Num, ...]) -> Num:
        """A choice that may go either way matters only where the branches differ by more than their own rounding."""
        c, x, y = args
        e = np.where(c.v, x.e, y.e)
        f = np.where(c.v, x.f, y.f) | c.f
        open_choice = np.asarray(c.e) > 0
        if open_choice.any():
            gap = np.abs(x.v - y.v)
            small = gap <= 2 * CAUTION * (x.e + y.e + self.form.eps * np.abs(v))
            e = np.where(open_choice & small, np.maximum(x.e, y.e) + gap, e)
            f = (
                f
                | (open_choice & ~(small & np.isfinite(gap)))
                | (open_choice & (np.asarray(x.f) | np.asarray(y.f)))
            )
        return Num(v, e, f)

    def _finish(self, op: str, v: np.ndarray, e: Any, args: tuple[Num, ...], flag: Any) -> Num:
        """Add this operation's own rounding; flag where it may or may not overflow, or divide by zero."""
        form = self.form
        exact = True
        for a in args:
            exact = exact & (np.asarray(a.e) == 0)
        size = np.abs(v)
        gone = (
            size + CAUTION * e <= v.dtype.type(form.tiny) / 2
        )  # rounds to zero whatever happened before
        own = form.eps / 2 * size + np.where(
            (size > 0) & (size < form.smallest_normal), form.tiny, 0
        )
        if op in _EXACTLY_ROUNDED:
            off = np.abs(rounded(v, form) - v)
            own = np.where(exact & np.isfinite(off), off, own)
        else:
            at_zero = exact & (args[0].v == 0)  # exp, tanh, log1p, ... are exact there
            own = np.where(at_zero, 0, 2 * LIBRARY_ULPS * own)
        e = np.where(np.isfinite(v) & ~gone, e + own, 0)
        limit = v.dtype.type(form.largest)
        edge = (size + CAUTION * e >= limit) & (size - CAUTION * e <= limit * (1 + form.eps))
        flag = flag | (edge & (e > 0))
        if (
            op == "div"
        ):  # no caution: only a divisor that may itself be zero makes the quotient anything at all
            flag = flag | ((np.abs(args[1].v) <= args[1].e) & (np.asarray(args[1].e) > 0))
        v = in_range(v, form)
        return Num(v, np.where(np.isfinite(v), e, 0), flag)

    def shaped(self, op: Callable[[np.ndarray], np.ndarray], x: Num) -> Num:
        e, f = (np.broadcast_to(part, x.v.shape) for part in (x.e, x.f))
        return Num(op(x.v), op(e), op(f))

    def concatenate(self, parts: list[Num]) -> Num:
        def join(name: str) -> np.ndarray:
            return np.concatenate(
                [np.ravel(np.broadcast_to(getattr(x, name), x.v.shape)) for x in parts]
            )

        return Num(join("v"), join("e"), join("f"))

    def sum(self, x: Num, axis: Any = None, keepdims: bool = False) -> Num:
        e, f = (np.broadcast_to(part, x.v.shape) for part in (x.e, x.f))
        options = {"axis": axis, "keepdims": keepdims}
        v, size = np.sum(x.v, **options), np.sum(np.abs(x.v), **options)
        count = x.v.size / max(np.size(v), 1)
        # Exact in any order: every term is a multiple of the spacing at the sum of magnitudes.
        spacing = ulp(np.asarray(size), self.form)
        fits = np.all((np.fmod(x.v, spacing) == 0) & (e == 0), **options)
        own = np.where(fits, 0, self.form.eps * np.sqrt(max(count, 1)) * size)
        own = own + np.where(
            (size > 0) & (size < self.form.smallest_normal) & ~fits, self.form.tiny, 0
        )
        total = np.asarray(np.where(np.isfinite(v), np.sum(e, **options) + own, 0))
        size = np.abs(v)
        edge = (size + CAUTION * total >= self.form.largest) & np.isfinite(size) & (total > 0)
        return Num(in_range(np.asarray(v), self.form), total, np.any(f, **options) | edge)

    def matmul(self, x: Num, y: Num) -> Num:
        ax, ay = np.abs(x.v), np.abs(y.v)
        ex, ey = np.broadcast_to(x.e, ax.shape), np.broadcast_to(y.e, ay.shape)
        size = ax @ ay
        own = self.form.eps * np.sqrt(max(ax.shape[-1], 1)) * size
        fx = np.asarray(np.broadcast_to(x.f, x.v.shape).any(axis=-1))
        fy = np.asarray(np.broadcast_to(y.f, y.v.shape).any(axis=-2))
        flag = fx[..., :, None] | fy[..., None, :]
        v = np.asarray(x.v @ y.v)
        e = (ax + ex) @ ey + ex @ ay + own
        if (size >= self.form.largest).any():
            flag = flag | self._overflows_on_the_way(x.v, y.v, v)
        return Num(in_range(v, self.form), np.where(np.isfinite(v), e, 0), flag)

    def _overflows_on_the_way(self, x: np.ndarray, y: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Terms of both signs: a sum of some of them may be infinite, of either sign, as the order has it."""
        up, down = np.maximum(x, 0), np.minimum(x, 0)
        high, low = np.maximum(y, 0), np.minimum(y, 0)
        largest = self.form.largest
        plus, minus = up @ high + down @ low, -(up @ low + down @ high)
        both = (plus >= largest) & (minus >= largest)
        return np.asarray(both | ((np.maximum(plus, minus) >= largest) & (np.abs(v) < largest)))

    def largest_column(self, x: Num) -> Num:
        if not x.v.shape[1]:
            return Num(np.zeros((len(x.v), 1), x.v.dtype))
        i = triangular.largest(x.v)
        sizes = self.sum(self.apply("mul", (x, x)), axis=0)
        e, f = (np.broadcast_to(part, sizes.v.shape) for part in (sizes.e, sizes.f))
        open_choice = self._near(sizes.v[i] - np.delete(sizes.v, i), e[i] + np.delete(e, i))
        found = self.shaped(lambda a: np.take(a, [i], axis=1), x)
        return Num(found.v, found.e, found.f | open_choice.any() | f.any())

    def over_triangle(self, x: Num, upper: Num) -> Num:
        v = triangular.over(x.v, upper.v)
        if triangular.unsound(upper.v):
            return Num(v)
        odd = np.broadcast_to(x.f, x.v.shape).any(axis=-1, keepdims=True)
        flag = np.broadcast_to(odd | np.any(upper.f), v.shape)
        e = triangular.error((x.v, x.e), (upper.v, upper.e), v, self.form.eps)
        return Num(in_range(v, self.form), np.where(np.isfinite(v), e, 0), flag)

    def spectral_power(self, x: Num, exponent: Num, low: Num) -> Num:
        v = spectral.power(x.v, exponent.v, low.v)
        odd = ~np.isfinite(x.v)
        if (odd & ~np.broadcast_to(x.f, odd.shape)).any():  # NaN whatever the flagged ones are
            return Num(v)
        flag = np.any(_any_flag((x, exponent, low)))
        if odd.any():
            return Num(v, 0.0, flag)
        e = spectral.power_error(x.v, exponent.v, low.v, (x.e, exponent.e, low.e), self.form.eps)
        return Num(in_range(v, self.form), e, flag)

    def eigenbasis(self, x: Num) -> Num:
        return self._chosen(
            spectral.eigenbasis(x.v),
            x,
            lambda q: spectral.eigenbasis_faults(q, x.v, x.e, self.stored),
        )

    def iterated_basis(self, x: Num, basis: Num) -> Num:
        product = self.matmul(x, basis)
        estimates = self.sum(self.apply("mul", (basis, product)), axis=0)
        return self._chosen(
            spectral.iterated_basis(x.v, basis.v),
            product,
            lambda q: spectral.triangle_faults(
                q, (product.v, product.e), (estimates.v, CAUTION * estimates.e), self.stored
            ),
        )

    def _chosen(self, v: np.ndarray, x: Num, faults: Callable[[np.ndarray], np.ndarray]) -> Num:
        """A matrix made of x: NaN where x is not finite, unless that is a matter of rounding."""
        odd = ~np.isfinite(x.v)
        if (odd & ~np.broadcast_to(x.f, odd.shape)).any():
            return Num(v)
        flag = np.any(x.f)
        return Num(v, 0.0, flag) if odd.any() else Chosen(v, flag, faults)


def _any_flag(args: tuple[Num, ...]) -> Any:
    flag: Any = False
    for a in args:
        flag = flag | a.f
    return flag


def _propagated(op: str, v: np.ndarray, args: tuple[Num, ...], values: list[np.ndarray]) -> Any:
    """How far the result moves when each operand moves by its bound."""
    first = args[0].e
    if op in ("neg", "abs"):
        return first
    if op in ("add", "sub"):
        return first + args[1].e
    if op == "mul":
        x, y, ey = np.abs(values[0]), np.abs(values[1]), args[1].e
        return _times(x, ey) + _times(y, first) + first * ey
    if op == "div":
        room = np.abs(values[1]) - args[1].e
        moved = first + _times(np.abs(v), args[1].e)
        return np.where(moved == 0, 0, moved / np.where(room > 0, room, 0))
    if op == "sqrt":
        return np.abs(v) - np.sqrt(np.maximum(values[0] - first, 0))
    if op in ("maximum", "minimum"):
        apart = np.abs(values[0] - values[1]) > first + args[1].e
        winner = np.where(v == values[0], first, args[1].e)
        return np.where(apart, winner, np.maximum(first, args[1].e))
    total: Any = 0.0
    for i, a in enumerate(args):
        if np.any(np.asarray(a.e) > 0):
            for shift in (a.e, -a.e):
                moved = MAPS[op].array(
                    np, *(x + shift if i == j else x for j, x in enumerate(values))
                )
                total = total + np.nan_to_num(np.abs(moved - v), nan=0.0, posinf=np.inf)
    return total


def _times(size: np.ndarray, e: Any) -> Any:
    """size * e, with inf * 0 = 0: an exact operand adds no error whatever the other is."""
    return np.where(np.asarray(e) == 0, 0, size * e)
