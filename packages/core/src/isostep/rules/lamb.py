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

from isostep import nm
from isostep.domains import Real
from isostep.rule import Rule
from isostep.rules import adam


def update(
    p: Any, g: Any, m: Any, v: Any, t: int, /, *, lr: Any, betas: Any, eps: Any, weight_decay: Any
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    # lr = -1 makes Adam's update, which is subtracted, the plain ratio.
    r, m, v = adam.step(g, m, v, t, lr=-1.0, betas=betas, eps=eps, dialect="paper")
    if weight_decay:
        r = r + weight_decay * p
    size_p, size_r = nm.sqrt(nm.sum(p * p)), nm.sqrt(nm.sum(r * r))
    # Compared with == so that a NaN norm stays NaN; the divisor is made safe before the choice.
    neither = nm.logical_or(size_p == 0, size_r == 0)
    trust = nm.where(neither, 1.0, size_p / nm.where(size_r == 0, 1.0, size_r))
    return -(lr * trust) * r, m, v


RULE = Rule(
    name="lamb",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": Real(1e-3, low=0, doc="learning rate"),
        "betas": adam.RULE.hyper["betas"],
        "eps": Real(1e-6, low=0, cases=(1e-3,), doc="added to the denominator"),
        "weight_decay": Real(
            0.0, low=0, zero_is_static=True, cases=(0.1,), doc="decay inside the trust ratio"
        ),
    },
    family="adam",
    year=2019,
    paper="You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    arxiv="1904.00962",
)
