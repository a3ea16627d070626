"""AdamP: Adam without the part of its step that only makes a scale-invariant weight longer.

    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * g**2                   c1 = 1 - b1**t, c2 = 1 - b2**t
    d  = m / (sqrt(v / c2) + eps)                   nesterov: b1 * m + (1 - b1) * g for m
    d, ratio = projection(p, g, d)
    u  = -lr / c1 * d - lr * weight_decay * ratio * p

    projection, for arrays of two axes or more, first by units, then by the whole array:
    cos = |<g, p>| / (max(|g|, eps) * max(|p|, eps))
    if cos < delta / sqrt(size) in every unit (in the array):
        e = p / (|p| + eps),  d <- d - <e, d> * e,  ratio = wd_ratio
    otherwise d stays and ratio = 1

Follows: Heo, Chun, Oh, Han, Yun, Kim, Uh, Ha, "AdamP: Slowing Down the Slowdown for Momentum
    Optimizers on Scale-invariant Weights", arXiv 2006.08217, Algorithm 2, and the authors' package
    adamp. timm and torch-optimizer agree.
Departs:
    - The test by units and then by the whole array, eps and wd_ratio are the package's; the paper
      tests the array.
    - The axis of the units is an argument: torch's weights have it at 0, as in the package.
    - A NaN in any unit turns the projection off, as in the package.
    - pytorch_optimizer's AdamP has Adam's "eps hat".
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Integer, Real
from isostep.rule import Rule

Total = Callable[[Any], Any]


def cosine(p: Any, g: Any, total: Total, eps: Any) -> Any:
    """The size of the cosine between parameter and gradient, over what ``total`` sums."""
    size_p = nm.maximum(nm.sqrt(total(p * p)), eps)
    size_g = nm.maximum(nm.sqrt(total(g * g)), eps)
    return nm.abs(total(p * g)) / (size_g * size_p)


def without_radius(p: Any, d: Any, total: Total, eps: Any) -> Any:
    """The direction d without its part along the parameter."""
    e = p / (nm.sqrt(total(p * p)) + eps)
    return d - e * total(e * d)


def projection(
    p: Any, g: Any, d: Any, *, delta: Any, wd_ratio: Any, eps: Any, unit_axis: int
) -> tuple[Any, Any]:
    """The direction and the factor of the weight decay. SGDP shares it."""

    def by_unit(x: Any) -> Any:
        return nm.sum_units(x, unit_axis)

    several = nm.ndim(p) > 1
    near = cosine(p, g, by_unit, eps) < delta / nm.sqrt(nm.maximum(nm.unit_size(p, unit_axis), 1))
    # Every unit must pass: count the elements of those that do not (NaN elements are among them).
    failing = nm.logical_or(nm.logical_not(near), nm.isnan(p))
    units = nm.logical_and(several, nm.sum(nm.where(failing, 1.0, 0.0)) == 0)
    near = cosine(p, g, nm.sum, eps) < delta / nm.sqrt(nm.maximum(nm.size(p), 1))
    whole = nm.logical_and(several, near)
    projected = nm.where(whole, without_radius(p, d, nm.sum, eps), d)
    return (
        nm.where(units, without_radius(p, d, by_unit, eps), projected),
        nm.where(nm.logical_or(units, whole), wd_ratio, 1.0),
    )


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    delta: Any,
    wd_ratio: Any,
    nesterov: bool,
    unit_axis: int,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    m, v = parts.moments(g, m, v, betas)
    c1, c2 = parts.corrections(betas, t)
    ahead = parts.average(m, g, betas[0]) if nesterov else m
    d = ahead / (parts.root(v, c2) + eps)
    d, ratio = projection(p, g, d, delta=delta, wd_ratio=wd_ratio, eps=eps, unit_axis=unit_axis)
    return parts.decoupled(p, (-lr / c1) * d, lr * ratio, weight_decay), m, v


PROJECTION = {
    "delta": Real(
        0.1, low=0, cases=(1.47, 1.5, 1.5, 1.58), doc="how small the cosine must be to project"
    ),
    "wd_ratio": Real(0.1, low=0, cases=(0.3,), doc="factor of the decay where projected"),
}
UNIT_AXIS = {
    "unit_axis": Integer(0, static=True, cases=(-1,), doc="the axis that numbers the units")
}

RULE = Rule(
    name="adamp",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(),
        **PROJECTION,
        "nesterov": Flag(False, doc="Nesterov momentum"),
        **UNIT_AXIS,
    },
    family="adam",
    year=2020,
    paper="Heo et al., AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant"
    " Weights",
    arxiv="2006.08217",
)
