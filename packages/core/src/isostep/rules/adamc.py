"""AdamC: AdamW whose weight decay follows the schedule of lr twice, for normalized layers.

    a  = Adam's update with this lr (adam.py, torch dialect)
    u  = a - lr * (lr / max_lr) * weight_decay * p

Follows: Defazio, "Why Gradients Rapidly Increase Near the End of Training", arXiv 2506.02285,
    Algorithm 1 (AdamC), the line for normalized layers. pytorch_optimizer's AdamC with
    normalized=True agrees; timm calls the same decay corrected_weight_decay.
Departs:
    - The paper's Algorithm 1 decays layers that no normalization follows as AdamW does: put those
      in a group with adamw.
    - max_lr, the largest lr of the schedule, is an argument; pytorch_optimizer takes the lr that it
      is made with.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import parts
from isostep.domains import Real
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
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    max_lr: Any,
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    u, m, v = adam.step(
        g, m, v, t, lr=lr, betas=betas, eps=eps, dialect="torch", denominator=denominator
    )
    return parts.decoupled(p, u, lr * (lr / max_lr), weight_decay), m, v


RULE = Rule(
    name="adamc",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(0.01, "decay, times lr and lr / max_lr"),
        "max_lr": Real(1e-3, low=0, low_open=True, doc="the largest lr of the schedule"),
    },
    family="adam",
    year=2025,
    paper="Defazio, Why Gradients Rapidly Increase Near the End of Training",
    arxiv="2506.02285",
)
