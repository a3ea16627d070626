"""Apollo: momentum over the absolute diagonal of a quasi-Newton matrix, learned from the steps.

    g <- g + weight_decay * p                       weight_decay_type L2
    w  = (1 - beta) / (1 - beta**t)
    e  = g - m
    m <- m + w * e                                  the bias-corrected average itself
    d  = D / (4-norm of D + eps)                    D is the last step's direction, 0 at first
    q  = -w * (sum of e * d) / (4-norm of D + eps) - sum of B * d**2
    B <- B + q * d**2
    n  = max(|B|, rebound)
    D <- m / n                                      + weight_decay * p with decoupled,
    u  = -lr * D                                    + weight_decay / (mean of n) * p with stable

Follows: Ma, "Apollo: An Adaptive Parameter-wise Diagonal Quasi-Newton Method for Nonconvex
    Stochastic Optimization", arXiv 2009.13586, Algorithm 1 with its rectified convexity (constant
    rebound), and the author's code XuezheMax/apollo, optim/apollo.py. pytorch_optimizer's Apollo
    with the constant rebound is rebound=0.01 and eps a hundred times its own.
Departs:
    - The paper's rebound is 0.01; the author's code has 1 with an lr that is larger as much. Only
      the product of lr and 1 / rebound matters, together with eps.
    - The warmup of the author's code is a schedule: lr=lambda done: ....
    - The decay's kinds are the author's code's. D keeps the decay, as there.
    - eps = 0 is left out: at t = 1 the 4-norm is 0.
lr unit: as SGD where |B| is below the rebound: parameter units per gradient unit.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Real
from isostep.rule import Rule


def update(
    p: Any,
    g: Any,
    m: Any,
    b: Any,
    direction: Any,
    t: int,
    /,
    *,
    lr: Any,
    beta: Any,
    eps: Any,
    rebound: Any,
    weight_decay: Any,
    weight_decay_type: str,
) -> tuple[Any, Any, Any, Any]:
    """See the module's equations."""
    g = parts.coupled(p, g, weight_decay, when=weight_decay_type == "L2")
    weight = (1 - beta) / nm.one_minus_pow(beta, t)
    change = g - m
    m = m + weight * change
    square = direction * direction
    size = nm.sqrt(nm.sqrt(nm.sum(square * square))) + eps
    d = direction / size
    d2 = d * d
    b = b + (-weight * nm.sum(change * d) / size - nm.sum(b * d2)) * d2
    n = nm.maximum(nm.abs(b), rebound)
    direction = m / n
    if weight_decay and weight_decay_type == "stable":
        direction = direction + (weight_decay / (nm.sum(n) / nm.size(n))) * p
    elif weight_decay_type == "decoupled":
        direction = parts.coupled(p, direction, weight_decay)
    return -lr * direction, m, b, direction


RULE = Rule(
    name="apollo",
    update=update,
    state=("exp_avg_grad", "approx_hessian", "update"),
    hyper={
        "lr": parts.lr(1.0, cases=(0.2,)),
        "beta": parts.decay_rate(0.9),
        "eps": parts.eps(1e-4, "added to the 4-norm of the last direction", low_open=True),
        "rebound": Real(1.0, low=0, low_open=True, cases=(0.3,), doc="smallest denominator"),
        "weight_decay": parts.weight_decay(doc="weight decay, coupled by default"),
        "weight_decay_type": Choice(
            "L2", options=("L2", "decoupled", "stable"), doc="where the decay goes"
        ),
    },
    family="quasi-newton",
    year=2020,
    paper="Ma, Apollo: An Adaptive Parameter-wise Diagonal Quasi-Newton Method",
    arxiv="2009.13586",
)
