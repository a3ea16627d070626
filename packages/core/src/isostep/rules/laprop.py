"""LaProp: the gradient is divided by the root first, and the quotients are averaged.

    v <- b2 * v + (1 - b2) * g**2
    m <- b1 * m + (1 - b1) * g / (sqrt(v / (1 - b2**t)) + eps)
    u  = -lr / (1 - b1**t) * m - lr * weight_decay * p

Follows: Ziyin, Wang, Ueda, "LaProp: Separating Momentum and Adaptivity in Adam", arXiv 2002.04839,
    Algorithm 1; names, defaults and the place of eps from the authors' code Z-T-WANG/LaProp-
    Optimizer. timm's LaProp agrees while lr is constant.
Departs:
    - The authors' code (and timm, pytorch_optimizer) averages lr * quotient and divides by the
      average of lr, in place of 1 - b1**t. Here lr multiplies the average, as in the paper: the
      same while lr is constant; otherwise a change of lr acts at once here.
    - The authors' centered and amsgrad options are left out.
    - pytorch_optimizer puts eps inside of the bias correction and 1e-15 under the root.
    - weight_decay (authors' code) is decoupled and times lr; not in Algorithm 1.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import parts
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
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    b1, b2 = betas
    c1, c2 = parts.corrections(betas, t)
    v = parts.average(v, g * g, b2)
    m = parts.average(m, g / denominator(parts.root(v, c2) + eps), b1)
    u = (-lr / c1) * m
    return parts.decoupled(p, u, lr, weight_decay), m, v


RULE = Rule(
    name="laprop",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(4e-4),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-15),
        "weight_decay": parts.weight_decay(),
    },
    family="adam",
    year=2020,
    paper="Ziyin et al., LaProp: Separating Momentum and Adaptivity in Adam",
    arxiv="2002.04839",
)
