"""AdEMAMix: Adam with a second, much slower average of gradients beside the first.

    m <- b1 * m + (1 - b1) * g
    n <- b3 * n + (1 - b3) * g
    v <- b2 * v + (1 - b2) * g**2
    u  = -lr * ((m / (1 - b1**t) + alpha * n) / (sqrt(v / (1 - b2**t)) + eps) + weight_decay * p)

Follows: Pagliardini, Ablin, Grangier, "The AdEMAMix Optimizer: Better, Faster, Older", arXiv
    2409.03137, Algorithm 1, and the authors' code apple/ml-ademamix. optax.contrib.ademamix and
    pytorch_optimizer agree.
Departs:
    - The warm-ups of alpha and b3 (alpha_warmup, beta3_warmup in the authors' code) are schedules:
      give alpha or betas[2] a callable of the steps already done.
    - The slow average is not corrected for its start, as in the paper.
Other defaults of alpha: optax and pytorch_optimizer 5, the paper's experiments 5 to 10.
lr unit: parameter units per step, as Adam; a steady gradient moves p by (1 + alpha) * lr.
"""

from __future__ import annotations

from typing import Any

from isostep import parts
from isostep.domains import Real
from isostep.rule import Rule


def update(
    p: Any,
    g: Any,
    m: Any,
    n: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any, Any],
    alpha: Any,
    eps: Any,
    weight_decay: Any,
    denominator: Any = parts.same,
) -> tuple[Any, ...]:
    """See the module's equations."""
    b1, b2, b3 = betas
    m, v = parts.moments(g, m, v, (b1, b2))
    n = parts.average(n, g, b3)
    c1, c2 = parts.corrections((b1, b2), t)
    u = -lr * (m / c1 + alpha * n) / denominator(parts.root(v, c2) + eps)
    return parts.decoupled(p, u, lr, weight_decay), m, n, v


RULE = Rule(
    name="ademamix",
    update=update,
    state=("exp_avg_fast", "exp_avg_slow", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(
            0.9,
            0.999,
            0.9999,
            doc="decay rates of the fast average, the average of squares and the slow average",
        ),
        "alpha": Real(2.0, low=0, doc="weight of the slow average"),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(),
    },
    family="adam",
    year=2024,
    paper="Pagliardini et al., The AdEMAMix Optimizer: Better, Faster, Older",
    arxiv="2409.03137",
)
