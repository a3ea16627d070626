"""Adan: Adam with Nesterov momentum from averaged differences of gradients.

    d  = g - (g of the step before)                 0 at t = 1
    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * d
    n <- b3 * n + (1 - b3) * (g + b2 * d)**2        ci = 1 - bi**t
    a  = lr * (m / c1 + b2 * v / c2) / (sqrt(n / c3) + eps)
    u  = -(a + lr * weight_decay * p) / (1 + lr * weight_decay)         that is, p <- (p - a) / (1 + lr * weight_decay)
    u  = -a - lr * weight_decay * p                                     no_prox

Follows: Xie, Zhou, Li, Lin, Yan, "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing
    Deep Models", arXiv 2208.06677, Algorithm 1, and the authors' code sail-sg/Adan, whose betas are
    1 - the paper's. timm, pytorch_optimizer and optimi agree.
Departs:
    - The bias corrections and the place of eps are the code's, not the paper's.
    - The restart of the paper's Algorithm 1 and the code's max_grad_norm are left out; for the
      latter put clip_by_global_norm in front.
    - The gradient of the step before is stored as it is, in the code with its sign changed.
    - optax.adan (0.2.8) has 1 - b2 for b2 in a and n; it is no oracle.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Flag
from isostep.rule import Rule


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    n: Any,
    before: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any, Any],
    eps: Any,
    weight_decay: Any,
    no_prox: bool,
    denominator: Any = parts.same,
) -> tuple[Any, ...]:
    """See the module's equations."""
    b1, b2, b3 = betas
    c1, c2, c3 = parts.corrections(betas, t)
    d = nm.where(t > 1, g - before, 0.0)
    m = parts.average(m, g, b1)
    v = parts.average(v, d, b2)
    ahead = g + b2 * d
    n = parts.average(n, ahead * ahead, b3)
    u = -((lr / c1) * m + (lr * b2 / c2) * v) / denominator(parts.root(n, c3) + eps)
    u = parts.decoupled(p, u, lr, weight_decay)
    if weight_decay and not no_prox:
        u = u / (1 + lr * weight_decay)
    return u, m, v, n, g


RULE = Rule(
    name="adan",
    update=update,
    state=("exp_avg", "exp_avg_diff", "exp_avg_sq", "previous_grad"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(
            0.98,
            0.92,
            0.99,
            doc="decay rates of the averages of gradients, differences and squares",
        ),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(doc="decay beside the averages", case=0.3),
        "no_prox": Flag(False, doc="decay as in AdamW instead of by division"),
    },
    family="adam",
    year=2022,
    paper="Xie et al., Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep"
    " Models",
    arxiv="2208.06677",
)
