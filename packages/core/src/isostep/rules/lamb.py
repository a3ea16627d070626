"""LAMB: Adam's step with decay, rescaled array by array to the size of the parameter.

    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * g**2
    r  = (m / (1 - b1**t)) / (sqrt(v / (1 - b2**t)) + eps) + weight_decay * p
    u  = -lr * |p| / |r| * r                        the ratio is 1 where either norm is 0

Follows: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    arXiv 1904.00962, Algorithm 2, with phi the identity. optax.lamb and timm's
    Lamb(max_grad_norm=None) agree.
Departs:
    - A ratio of 1 at a zero norm is not in the paper, which would divide by zero or never move;
      optax and timm do the same.
    - No clipping of the gradient (apex's FusedLAMB and timm's default clip the global norm to 1;
      put clip_by_global_norm in front), no clamp of |p| at 10 (torch-optimizer), no decay outside
      the ratio (Keras).
    - eps is 1e-6 by default, as in optax and timm.
lr unit: fraction of the parameter's norm per step.
"""

from __future__ import annotations

from typing import Any

from isostep import parts
from isostep.rule import Rule
from isostep.rules import adam


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: Any,
    eps: Any,
    weight_decay: Any,
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    # lr = -1 makes Adam's update, which is subtracted, the plain ratio.
    r, m, v = adam.step(
        g, m, v, t, lr=-1.0, betas=betas, eps=eps, dialect="paper", denominator=denominator
    )
    r = parts.coupled(p, r, weight_decay)
    size_p, size_r = parts.norm(p), parts.norm(r)
    trust = parts.quotient_or_one(size_p, size_r)
    return -(lr * trust) * r, m, v


RULE = Rule(
    name="lamb",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-6),
        "weight_decay": parts.weight_decay(doc="decay inside the trust ratio"),
    },
    family="adam",
    year=2019,
    paper="You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    arxiv="1904.00962",
)
