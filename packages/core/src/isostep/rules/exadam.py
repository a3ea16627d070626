"""EXAdam: Adam with the gradient once more beside its average, and corrections that look at each other's moment.

    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * g**2
    d1 = 1 + b2**t * v / (v + eps)
    d2 = 1 + b1**t * m**2 / (m**2 + eps)
    u  = -lr * d1 * (m + g) / (1 - b1**t) / (sqrt(d2 * v / (1 - b2**t)) + eps) - lr * weight_decay * p

Follows: Adly, "EXAdam: The Power of Adaptive Cross-Moments", arXiv 2412.20302, and the author's code
    AhmedMostafa16/EXAdam, exadam.py.
Departs:
    - x / (x + eps) is 1 - eps / (x + eps), which stays a number where x overflows.
    - weight_decay and the step act on the parameter as it was before this step; the code decays first.
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
    d1 = 1 + (1 - c2) * (1 - eps / (v + eps))
    d2 = 1 + (1 - c1) * (1 - eps / (m * m + eps))
    root = nm.sqrt(d2) * parts.root(v, c2)
    u = (-lr / c1) * d1 * (m + g) / denominator(root + eps)
    return parts.decoupled(p, u, lr, weight_decay), m, v


RULE = Rule(
    name="exadam",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-8, "added to the denominators", low_open=True),
        "weight_decay": parts.weight_decay(),
    },
    family="adam",
    year=2024,
    paper="Adly, EXAdam: The Power of Adaptive Cross-Moments",
    arxiv="2412.20302",
)
