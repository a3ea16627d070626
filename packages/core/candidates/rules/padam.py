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

from isostep import nm
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
    if weight_decay:
        g = g + weight_decay * p
    m, v = adam.moments(g, m, v, betas)
    c1, c2 = (nm.one_minus_pow(b, t) for b in betas)
    tops = [nm.maximum(tops[0], v)] if tops else []
    size = tops[0] if tops else v
    u = (-lr * nm.sqrt(c2) / c1) * m / nm.pow(nm.sqrt(size) + eps, 2 * partial)
    return u, m, v, *tops


RULE = Rule(
    name="padam",
    update=update,
    state=adam.state,
    hyper={
        "lr": Real(0.1, low=0, doc="learning rate"),
        **{n: adam.RULE.hyper[n] for n in ("betas", "eps")},
        "weight_decay": Real(
            0.0, low=0, zero_is_static=True, cases=(0.1,), doc="coupled weight decay (L2 penalty)"
        ),
        "amsgrad": Flag(True, doc="divide by the largest average of squares so far"),
        "partial": Real(0.25, low=0, high=0.5, cases=(0.2,), doc="power of the average of squares"),
    },
    family="adam",
    year=2018,
    paper="Chen et al., Closing the Generalization Gap of Adaptive Gradient Methods in Training"
    " Deep Neural Networks",
    arxiv="1806.06763",
)
