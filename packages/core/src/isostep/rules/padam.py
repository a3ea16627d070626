"""Padam: Adam with a power of the denominator between 0 (SGD) and 1/2 (Adam).

    g <- g + weight_decay * p
    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * g**2                   c1 = 1 - b1**t, c2 = 1 - b2**t
    n <- max(n, v)                                  amsgrad; else n = v
    u  = -lr * sqrt(c2) / c1 * m / (sqrt(n) + eps)**(2 * partial)

Follows: Chen, Zhou, Tang, Yang, Cao, Gu, "Closing the Generalization Gap of Adaptive Gradient
    Methods in Training Deep Neural Networks", arXiv 1806.06763, Algorithm 1, and the authors' code
    uclaml/Padam. pytorch_optimizer's PAdam is the rule without amsgrad.
Departs:
    - The bias corrections, which keep Adam's exponents whatever partial is, and eps are the code's;
      the paper has neither.
    - weight_decay is the code's and coupled; not in Algorithm 1.
lr unit: parameter units per (gradient unit)**(1 - 2 * partial).
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Real
from isostep.rule import Rule
from isostep.rules import adam


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    /,
    *top_t: Any,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    partial: Any,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *tops, t = top_t
    g = parts.coupled(p, g, weight_decay)
    m, v = parts.moments(g, m, v, betas)
    c1, c2 = parts.corrections(betas, t)
    size, tops = parts.largest(v, tops)
    u = (-lr * nm.sqrt(c2) / c1) * m / nm.pow(nm.sqrt(size) + eps, 2 * partial)
    return u, m, v, *tops


RULE = Rule(
    name="padam",
    update=update,
    state=adam.state,
    hyper={
        "lr": parts.lr(0.1),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
        "amsgrad": Flag(True, doc="divide by the largest average of squares so far"),
        "partial": Real(0.25, low=0, high=0.5, cases=(0.2,), doc="power of the average of squares"),
    },
    family="adam",
    year=2018,
    paper="Chen et al., Closing the Generalization Gap of Adaptive Gradient Methods in Training"
    " Deep Neural Networks",
    arxiv="1806.06763",
)
