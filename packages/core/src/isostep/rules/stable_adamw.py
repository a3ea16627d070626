"""StableAdamW: AdamW whose learning rate falls, array by array, when the gradient outgrows v.

    m <- m + (1 - b1) / (1 - b1**t) * (g - m)       the bias-corrected averages themselves
    v <- v + (1 - b2) / (1 - b2**t) * (g**2 - v)
    R  = sqrt(mean of g**2 / max(v, eps**2))
    r  = lr / max(1, R)
    u  = -r * (m / (sqrt(v) + eps) + weight_decay * p)

Follows: Wortsman, Dettmers, Zettlemoyer, Morcos, Farhadi, Schmidt, "Stable and low-precision training
    for large-scale vision-language models", arXiv 2304.13013, Algorithm 2. optimi's and
    pytorch_optimizer's StableAdamW agree.
Departs:
    - The paper subtracts the decay with the undiminished lr in its text and with r in Algorithm 2;
      here it is r, as in both implementations.
    - optimi and pytorch_optimizer take the decoupled decay first and step from there: the same
      number but for rounding.
Other defaults: optimi eps 1e-6 and betas (0.9, 0.99), which are also here.
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
    m, v = parts.corrected(m, g, betas[0], t), parts.corrected(v, g * g, betas[1], t)
    rms = nm.sqrt(nm.sum(g * g / nm.maximum(v, eps * eps)) / nm.size(g))
    r = lr / nm.maximum(rms, 1.0)
    u = -r * (m / denominator(nm.sqrt(v) + eps))
    return parts.decoupled(p, u, r, weight_decay), m, v


RULE = Rule(
    name="stable_adamw",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.9, 0.99),
        "eps": parts.eps(1e-6, "added to the denominator; its square bounds v"),
        "weight_decay": parts.weight_decay(1e-2),
    },
    family="adam",
    year=2023,
    paper="Wortsman et al., Stable and low-precision training for large-scale vision-language"
    " models",
    arxiv="2304.13013",
)
