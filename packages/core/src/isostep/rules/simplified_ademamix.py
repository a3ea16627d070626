"""Simplified AdEMAMix: Adam along one momentum, which gradients enter whole, and the gradient beside it.

    m <- b1 * m + g
    v <- b2 * v + (1 - b2) * g**2
    u  = -lr * ((m + alpha * g) / (sqrt(v / (1 - b2**t)) + eps) + weight_decay * p)

Follows: Morwani, Vyas, Zhang, Kakade, "Connections between Schedule-Free Optimizers, AdEMAMix, and Accelerated SGD
    Variants", arXiv 2502.02431, and the authors' code DepenM/Simplified-AdEMAMix. optax.contrib.simplified_ademamix
    agrees.
Departs:
    - The warm-up of b1 (beta1_warmup and min_beta1 in the authors' code) is a schedule: give betas[0] a callable of the
      steps already done.
    - bias_correction1, off in the authors' code by default, is a schedule of lr for a constant b1, times
      (1 - b1) / (1 - b1**t); their bias_correction2, on by default, is always on.
    - pytorch_optimizer's SimplifiedAdEMAMix averages m with 1 - b1 and corrects v the wrong way: another rule.
lr unit: parameter units per step, but a steady gradient moves p by (1 / (1 - b1) + alpha) * lr; the authors take Adam's
times sqrt((1 - min_beta1) * (1 - b1)).
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Real
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
    alpha: Any,
    eps: Any,
    weight_decay: Any,
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    b1, b2 = betas
    m = b1 * m + g
    v = parts.average(v, g * g, b2)
    d = denominator(parts.root(v, nm.one_minus_pow(b2, t)) + eps)
    u = -lr * (m + alpha * g) / d
    return parts.decoupled(p, u, lr, weight_decay), m, v


RULE = Rule(
    name="simplified_ademamix",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-4),
        "betas": parts.betas(
            0.99, 0.95, doc="decay rates of the momentum and of the average of squares"
        ),
        "alpha": Real(0.0, low=0, cases=(0.7,), doc="weight of the gradient beside the momentum"),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(),
    },
    family="adam",
    year=2025,
    paper="Morwani et al., Connections between Schedule-Free Optimizers, AdEMAMix, and Accelerated SGD Variants",
    arxiv="2502.02431",
)
