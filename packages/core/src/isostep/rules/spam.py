"""SPAM: Adam that clips spikes of the gradient, and whose moments start again every so often, with a warm-up.

    r  = t % delta_t
    m  = v = 0 where r = 0
    k  = sqrt(threshold * v)                        the v of the steps before
    g <- min(max(g, -k), k)                         where r >= grad_accu_steps
    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * g**2
    w  = 1 - 0.99 * (1 + cos(pi * r / (warmup_steps + 1))) / 2      where t >= delta_t and r < warmup_steps, else 1
    q  = p - w * lr * sqrt(1 - b2**t) / (1 - b1**t) * m / (sqrt(v) + eps)
    u  = q - lr * weight_decay * q - p

Follows: Huang, Zhu, Jin, Liu, Wang, Liu, "SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM
    Training", arXiv 2501.06842, by the authors' code TianjinYellow/SPAM-Optimizer,
    galore_torch/SPAM.py, from which are names and defaults. The bias corrections go on where the
    moments start again, as there.
Departs:
    - The masks of the authors' code, which leave a random part of each matrix alone, are left out:
      this is density = 1.
    - An element that exceeds k in size becomes k with its own sign, as there, where it is where
      g**2 > threshold * v. threshold = 0 is no clipping, as there.
    - delta_t = 1, where their warm-up begins a step later, is refused.
    - pytorch_optimizer's SPAM, whose delta_t is called update_proj_gap and its warmup_steps
      warmup_epoch, has the cosine of r + 1: its warm-up is a step ahead.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

import math
from typing import Any

from isostep import nm, parts
from isostep.domains import Integer, Real
from isostep.rule import Rule
from isostep.rules import adam

#: How much of a step the warm-up takes away at first.
HELD_BACK = 0.99


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
    warmup_steps: Any,
    threshold: Any,
    delta_t: Any,
    grad_accu_steps: Any,
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    since = t % delta_t
    m, v = (nm.where(since == 0, 0.0, old) for old in (m, v))
    if threshold:
        bound = nm.sqrt(threshold) * nm.sqrt(v)
        g = nm.where(since < grad_accu_steps, g, nm.clip(g, -bound, bound))
    wave = 0.5 * HELD_BACK * (1 + nm.cos(math.pi * since / (warmup_steps + 1)))
    held = nm.where(t < delta_t, 0.0, nm.where(since < warmup_steps, wave, 0.0))
    how: dict[str, Any] = {"betas": betas, "eps": eps, "dialect": "keras"}
    u, m, v = adam.step(g, m, v, t, lr=lr * (1 - held), denominator=denominator, **how)
    return parts.decoupled(p + u, u, lr, weight_decay), m, v


RULE = Rule(
    name="spam",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-6),
        "weight_decay": parts.weight_decay(),
        "warmup_steps": Integer(
            150, low=0, cases=(2,), doc="steps of the warm-up after each new start"
        ),
        "threshold": Real(
            5000.0,
            low=0,
            zero_is_static=True,
            cases=(1.5,),
            doc="largest square of an element in units of v; 0: no clipping",
        ),
        "delta_t": Integer(
            500, low=2, cases=(3,), doc="steps from one start of the moments to the next"
        ),
        "grad_accu_steps": Integer(
            20, low=0, cases=(1,), doc="steps after each start before spikes are clipped"
        ),
    },
    family="adam",
    year=2025,
    paper="Huang et al., SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training",
    arxiv="2501.06842",
)
