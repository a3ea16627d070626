"""Grams: the length of Adam's step, element by element, in the direction of the gradient's sign.

    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * g**2
    u  = -lr * sign(g) * |m / (1 - b1**t)| / (sqrt(v / (1 - b2**t)) + eps) - lr * weight_decay * p

Follows: Cao, Li, Song, "Grams: Gradient Descent with Adaptive Momentum Scaling", arXiv 2412.17107, as pytorch_optimizer
    has it; the authors' code (Gunale0926/Grams) was not there to be read.
Departs:
    - Where the gradient is zero nothing moves, whatever the momentum, as in pytorch_optimizer.
    - weight_decay is decoupled and times lr, and both act on the parameter as it was before this step.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
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
    m, v = parts.moments(g, m, v, betas)
    c1, c2 = parts.corrections(betas, t)
    size = nm.abs(m) / denominator(parts.root(v, c2) + eps)
    return parts.decoupled(p, (-lr / c1) * nm.sign(g) * size, lr, weight_decay), m, v


RULE = Rule(
    name="grams",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-6),
        "weight_decay": parts.weight_decay(),
    },
    family="adam",
    year=2024,
    paper="Cao et al., Grams: Gradient Descent with Adaptive Momentum Scaling",
    arxiv="2412.17107",
)
