"""AdaMod: Adam whose rate per element may not exceed the running average of its rates.

    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * g**2                   c1 = 1 - b1**t, c2 = 1 - b2**t
    rate = lr * sqrt(c2) / c1 / (sqrt(v) + eps)
    s <- beta3 * s + (1 - beta3) * rate
    u  = -min(rate, s) * m - lr * weight_decay * p

Follows: Ding, Ren, Luo, Sun, "An Adaptive and Momental Bound Method for Stochastic Learning",
    arXiv 1910.12249, Algorithm 1, and the authors' package adamod. torch-optimizer's and
    pytorch_optimizer's AdaMod agree.
Departs:
    - The paper's eps is outside of the bias correction (Adam's Algorithm 1); the package and both
      others have Adam's "eps hat", as here.
    - Decoupled weight decay is the package's; the paper has none.
    - pytorch_optimizer counts beta3 among its betas.
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
    s: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    beta3: Any,
    eps: Any,
    weight_decay: Any,
) -> tuple[Any, Any, Any, Any]:
    """See the module's equations."""
    m, v = parts.moments(g, m, v, betas)
    c1, c2 = parts.corrections(betas, t)
    rate = (lr * nm.sqrt(c2) / c1) / (nm.sqrt(v) + eps)
    s = parts.average(s, rate, beta3)
    u = -nm.minimum(rate, s) * m
    return parts.decoupled(p, u, lr, weight_decay), m, v, s


RULE = Rule(
    name="adamod",
    update=update,
    state=("exp_avg", "exp_avg_sq", "exp_avg_lr"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.9, 0.999),
        "beta3": parts.decay_rate(0.999, "decay rate of the average of the rates"),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(),
    },
    family="adam",
    year=2019,
    paper="Ding et al., An Adaptive and Momental Bound Method for Stochastic Learning",
    arxiv="1910.12249",
)
