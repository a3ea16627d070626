"""What rules share, as small functions: running averages, bias corrections, weight decay, norms, first states.

The first half is the arithmetic that a rule's ``update`` and ``init`` call, the second half declares the
hyperparameters that go with it. A rule keeps its own equations; what is here is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isostep import nm
from isostep.domains import Integer, Pair, Real


def average(old: Any, new: Any, beta: Any) -> Any:
    """The running average of ``new`` with decay rate ``beta``."""
    return beta * old + (1 - beta) * new


def moments(g: Any, m: Any, v: Any, betas: tuple[Any, Any]) -> tuple[Any, Any]:
    """The running averages of the gradient and of its square."""
    return average(m, g, betas[0]), average(v, g * g, betas[1])


def corrected(old: Any, new: Any, beta: Any, t: Any) -> Any:
    """The bias-corrected running average itself: a mean over t steps that forgets at the rate ``beta``."""
    weight = (1 - beta) / nm.one_minus_pow(beta, t)
    return (1 - weight) * old + weight * new


def corrections(betas: tuple[Any, ...], t: Any) -> tuple[Any, ...]:
    """What running averages from zero have to be divided by after t steps: 1 - beta**t for each."""
    return tuple(nm.one_minus_pow(beta, t) for beta in betas)


def root(v: Any, correction: Any) -> Any:
    """The root of a bias-corrected average. Two roots, so that no division comes before the scalar's own."""
    return nm.sqrt(v) / nm.sqrt(correction)


def largest(v: Any, tops: list[Any]) -> tuple[Any, list[Any]]:
    """What amsgrad divides by and stores: the largest v so far if the state has one, else v and nothing."""
    tops = [nm.maximum(top, v) for top in tops]
    return (tops or [v])[0], tops


def same(d: Any) -> Any:
    """What a rule divides by where no piece changes it: itself."""
    return d


def in_turn(g: Any, odd: Any, even: Any, beta: Any, odd_step: int) -> tuple[Any, Any, Any, Any]:
    """Two running averages that take the gradients in turn: the newer one, the older, both in the state's order."""
    new = average(odd if odd_step else even, g, beta)
    return (new, even, new, even) if odd_step else (new, odd, odd, new)


def positive_negative(new: Any, old: Any, weight: Any) -> Any:
    """(1 + weight) times the newer momentum minus weight times the older, scaled so that the noise keeps its size."""
    norm = amplitude(weight)
    return ((1 + weight) / norm) * new - (weight / norm) * old


def amplitude(weight: Any) -> Any:
    """How much larger the noise of (1 + weight) times one momentum minus weight times another is than that of one."""
    return nm.sqrt((1 + weight) * (1 + weight) + weight * weight)


def coupled(p: Any, g: Any, weight_decay: Any, *, when: bool = True) -> Any:
    """The gradient with L2 penalty. ``when``, as in ``decoupled``: a static choice of the rule's."""
    return g + weight_decay * p if weight_decay and when else g


def decoupled(p: Any, u: Any, lr: Any, weight_decay: Any, *, when: bool = True) -> Any:
    """The update beside a weight decay times lr that passes through no average."""
    return u - (lr * weight_decay) * p if weight_decay and when else u


def norm(x: Any) -> Any:
    """The Euclidean norm of a whole array."""
    return nm.sqrt(nm.sum(x * x))


def rms(x: Any) -> Any:
    """The root of the mean square of a whole array."""
    return nm.sqrt(nm.sum(x * x) / nm.size(x))


def deviation(
    x: Any, total: Callable[[Any], Any] = nm.sum, size: Callable[[Any], Any] = nm.size
) -> Any:
    """The sample's standard deviation, of the whole array or of what ``total`` sums; 0 of a single element.

    Of one element 0 / 0 would not be chosen, but its derivative would be.
    """
    n = size(x)
    off = x - total(x) / n
    return nm.sqrt(total(off * off) / nm.maximum(n - 1, 1))


def peak(x: Any) -> Any:
    """The largest magnitude in a whole array, 0 in an empty one. It makes a rule one program for each shape."""
    if 0 in x.shape:
        return nm.sum(x)
    x = nm.abs(x)
    return nm.reshape(nm.max_axis(x, axis=tuple(range(-x.ndim, 0))), ()) if x.ndim else x


def in_peaks(x: Any) -> tuple[Any, Any]:
    """The array in units of its peak, zeros in units of 1, so that no square is beyond all numbers; and the peak."""
    size = peak(x)
    return x / nm.where(size == 0, 1.0, size), size


def quotient_or_one(x: Any, y: Any) -> Any:
    """x / y of two norms, and 1 where either is zero: a layer of zeros can still move.

    Compared with == so that a NaN norm stays NaN; the divisor is made safe before the choice.
    """
    neither = nm.logical_or(x == 0, y == 0)
    return nm.where(neither, 1.0, x / nm.where(y == 0, 1.0, y))


def cosine(p: Any, g: Any, total: Callable[[Any], Any], eps: Any) -> Any:
    """The size of the cosine of p and g over what ``total`` sums; no norm counts as less than eps."""
    size_p = nm.maximum(nm.sqrt(total(p * p)), eps)
    size_g = nm.maximum(nm.sqrt(total(g * g)), eps)
    return nm.abs(total(p * g)) / (size_g * size_p)


def without_radius(p: Any, d: Any, total: Callable[[Any], Any], eps: Any) -> Any:
    """The direction d without its part along the parameter."""
    e = p / (nm.sqrt(total(p * p)) + eps)
    return d - e * total(e * d)


def projection(
    p: Any, g: Any, d: Any, *, delta: Any, wd_ratio: Any, eps: Any, unit_axis: int
) -> tuple[Any, Any]:
    """AdamP's and SGDP's: the direction d and the factor of the weight decay.

    Where p and g are nearly orthogonal in every unit, or else in the whole array, d loses its part along p there.
    Arrays of fewer than two axes stay as they are.
    """

    def by_unit(x: Any) -> Any:
        return nm.sum_units(x, unit_axis)

    several = nm.ndim(p) > 1
    near = cosine(p, g, by_unit, eps) * nm.sqrt(nm.unit_size(p, unit_axis)) < delta
    # Sums are over elements: those of the units that fail are counted. Where p is NaN its unit does.
    failing = nm.logical_or(nm.logical_not(near), nm.isnan(p))
    units = nm.logical_and(several, nm.sum(nm.where(failing, 1.0, 0.0)) == 0)
    near = cosine(p, g, nm.sum, eps) * nm.sqrt(nm.size(p)) < delta
    whole = nm.logical_and(several, near)
    projected = nm.where(whole, without_radius(p, d, nm.sum, eps), d)
    return (
        nm.where(units, without_radius(p, d, by_unit, eps), projected),
        nm.where(nm.logical_or(units, whole), wd_ratio, 1.0),
    )


def zeros(p: Any) -> Any:
    """An array like p of positive zeros, also where p is infinite or NaN. For ``init``."""
    return nm.where(nm.isfinite(p), 0.0 * nm.abs(p), 0.0)


def filled(p: Any, value: Any) -> Any:
    """An array like p with one value everywhere. For ``init``."""
    return zeros(p) + value


def copied(p: Any) -> Any:
    """An array of its own with the values of p. For ``init``."""
    return 1.0 * p


# Hyperparameters. The values of ``cases`` are what conformance uses in place of a neutral default.

#: What a weight decay is called in a rule's table.
COUPLED, DECOUPLED = "coupled weight decay (L2 penalty)", "decoupled weight decay"


def lr(default: float, doc: str = "learning rate", **options: Any) -> Real:
    """A learning rate."""
    return Real(default, low=0, doc=doc, **options)


def decay_rate(
    default: float | None, doc: str = "decay rate of the running average", **options: Any
) -> Real:
    """The decay rate of a running average: in [0, 1)."""
    return Real(default, low=0, high=1, high_open=True, doc=doc, **options)


def betas(
    *defaults: float,
    doc: str = "decay rates of the running averages of the gradient and of its square",
    cases: tuple[float, ...] = (),
) -> Pair:
    """The decay rates of several running averages.

    ``cases`` are for rules that sum what is divided by the averages over the group. In half precision a fast average of
    squares that shrinks keeps the rounding of the time when it was large, and so would the sum.
    """
    chosen: list[tuple[float, ...]] = [(case,) for case in cases] or [()] * len(defaults)
    parts = (decay_rate(b, "", cases=c) for b, c in zip(defaults, chosen, strict=True))
    return Pair(*parts, doc=doc)


def growth_rate(*cases: float) -> Real:
    """How much an estimated distance may grow in one step; without a bound by default, which is others' infinity."""
    doc = "largest growth of d in one step"
    return Real(None, low=1, optional=True, none_is_infinite=True, cases=cases, doc=doc)


def eps(default: float, doc: str = "added to the denominator", **options: Any) -> Real:
    """A small number that keeps a division finite, large in conformance's cases."""
    return Real(default, low=0, doc=doc, **{"cases": (1e-3,), **options})


def weight_decay(default: float = 0.0, doc: str = DECOUPLED, case: float = 0.1) -> Real:
    """A weight decay; without one a program carries nothing of it."""
    return Real(default, low=0, zero_is_static=True, cases=(case,), doc=doc)


def projected(delta: tuple[float, ...]) -> dict[str, Real]:
    """What ``projection`` takes; ``delta`` are its cases, which have to be near cosines that occur."""
    return {
        "delta": Real(0.1, low=0, cases=delta, doc="how small the cosine must be to project"),
        "wd_ratio": Real(0.1, low=0, cases=(0.3,), doc="factor of the decay where projected"),
    }


def unit_axis(cases: tuple[int, ...] = (-1,), of: str = "units") -> Integer:
    """The axis of units: 0 in torch's (out, in) weights, -1 in JAX's (in, out)."""
    return Integer(0, static=True, cases=cases, doc=f"the axis that numbers the {of}")
