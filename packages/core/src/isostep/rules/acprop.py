"""ACProp: the gradient over the root of AdaBelief's average as it was before this step.

    d  = sqrt(s / (1 - b2**(t - 1))) + eps          the s of the steps before; 1 at t = 1
    u  = -lr * g / d - lr * weight_decay * p
    m <- b1 * m + (1 - b1) * g
    s <- b2 * s + (1 - b2) * (g - m)**2 + eps       the new m; the eps stays in s

Follows: Zhuang, Ding, Tang, Dvornek, Tatikonda, Duncan, "Momentum Centering and Asynchronous Update for
    Adaptive Gradient Methods", arXiv 2110.05454, and the authors' code juntang-zhuang/ACProp-Optimizer,
    ACProp.py, as their experiments call it: without rectify, amsgrad and momentum_update.
Departs:
    - The first step is plain gradient descent, as in the code, since there is no s yet.
    - s is stored with the eps that the code adds to it just before it is used.
    - weight_decay is decoupled and times lr, the code's default; the experiments have the coupled kind, which is the
      piece weight_decay. fixed_decay is the piece independent_weight_decay.
    - optax.contrib.acprop (0.2.8) takes g - m with the old m, which is 1 / b1 times as much, and divides by 1 + eps at
      t = 1. With lr / b1, eps / b1 and eps_root = eps / b1**2 its later steps are these.
lr unit: parameter units per step, as Adam; at t = 1 parameter units per gradient unit.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.rule import Rule


def update(
    p: Any,
    g: Any,
    m: Any,
    s: Any,
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
    correction = nm.where(t > 1, nm.one_minus_pow(b2, t - 1), 1.0)
    d = nm.where(t > 1, denominator(parts.root(s, correction) + eps), 1.0)
    u = parts.decoupled(p, -lr * g / d, lr, weight_decay)
    m = parts.average(m, g, b1)
    surprise = g - m
    return u, m, parts.average(s, surprise * surprise, b2) + eps


RULE = Rule(
    name="acprop",
    update=update,
    state=("exp_avg", "exp_avg_var"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(
            0.9, 0.999, doc="decay rates of the averages of the gradient and of its surprise"
        ),
        "eps": parts.eps(1e-16, "added to the average and to the denominator"),
        "weight_decay": parts.weight_decay(),
    },
    family="adam",
    year=2021,
    paper="Zhuang et al., Momentum Centering and Asynchronous Update for Adaptive Gradient Methods",
    arxiv="2110.05454",
)
