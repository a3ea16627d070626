"""Optimistic Adam: Adam that takes the change of its direction once more, as if it were to go on.

    m <- b1 * m + (1 - b1) * g                      c1(t) = 1 - b1**t, c2 = 1 - b2**t
    v <- b2 * v + (1 - b2) * g**2
    r  = m / c1(t) / (sqrt(v / c2) + eps)           with nesterov (b1 * m / c1(t + 1) + (1 - b1) * g / c1(t))
                                                    in the place of m / c1(t), as in NAdam's optax dialect
    u  = -lr * ((alpha + beta) * r - beta * (r of the step before))

    authors   the r before the first is 0
    optax     the r before the first is the first: u = -lr * alpha * r

Follows: Daskalakis, Ilyas, Syrgkanis, Zeng, "Training GANs with Optimism", arXiv 1711.00141, Algorithm 1 (authors, with
    alpha = beta = 1); optax.optimistic_adam_v2 (optax), and optax.optimistic_adam with beta = optimism / learning_rate.
Departs:
    - alpha, beta and nesterov are optax's; not in the paper.
    - The authors' code vsyrgkanis/optimistic_GAN_training, optimAdam in optimizer.py, adds eps to the uncorrected root
      and corrects the r before as if it were of this step.
Other defaults: optax nesterov True.
lr unit: parameter units per step, as Adam, where the gradient is steady and alpha is 1.
"""

from __future__ import annotations

from typing import Any

from isostep import parts
from isostep.domains import Flag
from isostep.rule import Rule
from isostep.rules import nadam
from isostep.rules.optimistic_sgd import OPTIMISM, optimistic


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    before: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    alpha: Any,
    beta: Any,
    nesterov: bool,
    dialect: str,
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any, Any]:
    """See the module's equations."""
    m, v = parts.moments(g, m, v, betas)
    c1, c2 = parts.corrections(betas, t)
    r = nadam.ahead(g, m, t, betas[0]) if nesterov else m / c1
    r = r / denominator(parts.root(v, c2) + eps)
    return -lr * optimistic(r, before, t, alpha=alpha, beta=beta, dialect=dialect), m, v, r


RULE = Rule(
    name="optimistic_adam",
    update=update,
    state=("exp_avg", "exp_avg_sq", "previous_direction"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-8),
        **OPTIMISM,
        "nesterov": Flag(False, doc="Nesterov momentum"),
    },
    family="adam",
    year=2017,
    paper="Daskalakis et al., Training GANs with Optimism",
    arxiv="1711.00141",
)
