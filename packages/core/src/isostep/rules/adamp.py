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
    adamp. timm agrees.
Departs:
    - The test by units and then by the whole array, eps and wd_ratio are the package's; the paper
      tests the array.
    - The axis of the units is an argument: torch's weights have it at 0, as in the package.
    - A NaN in any unit turns the projection off, as in the package.
    - torch-optimizer adds eps to the norms of the cosine where the package bounds them by it;
      pytorch_optimizer's AdamP has Adam's "eps hat".
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import parts
from isostep.domains import Flag
from isostep.rule import Rule


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
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    m, v = parts.moments(g, m, v, betas)
    c1, c2 = parts.corrections(betas, t)
    ahead = parts.average(m, g, betas[0]) if nesterov else m
    d = ahead / denominator(parts.root(v, c2) + eps)
    d, ratio = parts.projection(
        p, g, d, delta=delta, wd_ratio=wd_ratio, eps=eps, unit_axis=unit_axis
    )
    return parts.decoupled(p, (-lr / c1) * d, lr * ratio, weight_decay), m, v


RULE = Rule(
    name="adamp",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.9, 0.999),
        # Cases for which each bound of a norm, and each hundredth of delta, decides some step.
        "eps": parts.eps(1e-8, cases=(2.87, 9.77, 6.48, 7.76)),
        "weight_decay": parts.weight_decay(),
        **parts.projected(delta=(0.4394, 0.3417, 0.4032, 0.1569)),
        "nesterov": Flag(False, doc="Nesterov momentum"),
        "unit_axis": parts.unit_axis(),
    },
    family="adam",
    year=2020,
    paper="Heo et al., AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant"
    " Weights",
    arxiv="2006.08217",
)
