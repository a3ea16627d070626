"""AdaNorm: Adam whose momentum takes small gradients as large as they have been on average.

    e <- r * e + (1 - r) * |g|                      one number for an array
    s  = g * max(e / |g|, 1)
    m <- b1 * m + (1 - b1) * s
    v <- b2 * v + (1 - b2) * g**2 + eps             the gradient as it is; the eps stays in v
    u  = -lr * m / (1 - b1**t) / (sqrt(v / (1 - b2**t)) + eps) - lr * weight_decay * p

Follows: Dubey, Singh, Chaudhuri, "AdaNorm: Adaptive Gradient Norm Correction based Optimizer for CNNs",
    arXiv 2210.06364, and the authors' code shivram1987/AdaNorm, AdamNorm.py.
Departs:
    - A gradient of zeros stays zeros, where the code has 0 / 0.
    - weight_decay is the code's with weight_decouple=True; its default, the coupled kind, is the piece weight_decay,
      and fixed_decay the piece independent_weight_decay. Decay and step act on the parameter as it was.
    - r is 0.95 in the code. amsgrad and rectify are not here, nor the paper's other rules with this gradient.
    - pytorch_optimizer's AdaNorm adds eps before the division by the correction's root, and keeps none in v.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.rule import Rule


def init(p: Any, /) -> tuple[Any, Any, Any]:
    """Zeros, and one number for the array."""
    zeros = parts.zeros(p)
    return zeros, parts.zeros(p), nm.sum(zeros)


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    e: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    r: Any,
    eps: Any,
    weight_decay: Any,
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any, Any]:
    """See the module's equations."""
    size = parts.norm(g)
    e = parts.average(e, size, r)
    lift = e / nm.where(
        size == 0, 1.0, size
    )  # a gradient of zeros stays that, however it is lifted
    # Of norms beyond all numbers the quotient is none, and is not above 1.
    m = parts.average(m, nm.where(lift > 1, lift, 1.0) * g, betas[0])
    v = parts.average(v, g * g, betas[1]) + eps
    c1, c2 = parts.corrections(betas, t)
    u = (-lr / c1) * m / denominator(parts.root(v, c2) + eps)
    return parts.decoupled(p, u, lr, weight_decay), m, v, e


RULE = Rule(
    name="adanorm",
    update=update,
    init=init,
    state=("exp_avg", "exp_avg_sq", "exp_grad_norm"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.9, 0.999),
        "r": parts.decay_rate(0.95, "decay rate of the gradient's average norm"),
        "eps": parts.eps(1e-8, "added to v and to the denominator"),
        "weight_decay": parts.weight_decay(),
    },
    family="adam",
    year=2022,
    paper="Dubey et al., AdaNorm: Adaptive Gradient Norm Correction based Optimizer for CNNs",
    arxiv="2210.06364",
)
