"""AdaPNM: Adam with positive-negative momentum.

    g <- g + weight_decay * p                       decoupled: u <- u - lr * weight_decay * p instead
    d  = difference of two momenta that take the gradients in turn (pnm.py), with b1 and b3
    v <- b2 * v + (1 - b2) * g**2                   c1 = 1 - b1**t, c2 = 1 - b2**t
    top <- max(top, v)                              v itself without amsgrad
    u  = -lr / c1 * d / (sqrt(top / c2) + eps)

Follows: Xie, Yuan, Zhu, Sugiyama, "Positive-Negative Momentum: Manipulating Stochastic Gradient
    Noise to Improve Generalization", arXiv 2103.17182, Algorithm 2 (AdaPNM), whose beta_0 is b3
    here, and the authors' code zeke-xie/Positive-Negative-Momentum, adapnm.py.
Departs:
    - pytorch_optimizer divides eps too by sqrt(c2) and adds 1e-15 under the root.
    - weight_decay is not in Algorithm 2: decoupled by default, as in the authors' code.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import parts
from isostep.domains import Flag, Pair, Real
from isostep.rule import Rule
from isostep.rules import adam, pnm


def update(
    p: Any,
    g: Any,
    odd: Any,
    even: Any,
    v: Any,
    /,
    *top_t: Any,
    lr: Any,
    betas: tuple[Any, Any, Any],
    eps: Any,
    weight_decay: Any,
    decoupled: bool,
    phase: int,
    denominator: Any = parts.same,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *tops, t = top_t
    b1, b2, b3 = betas
    g = parts.coupled(p, g, weight_decay, when=not decoupled)
    new, old, odd, even = parts.in_turn(g, odd, even, b1 * b1, phase)
    v = parts.average(v, g * g, b2)
    d = parts.positive_negative(new, old, b3)
    top = tops[0] if tops else None
    u, top = adam.directed(d, v, top, t, lr=lr, betas=(b1, b2), eps=eps, denominator=denominator)
    u = parts.decoupled(p, u, lr, weight_decay, when=decoupled)
    return (u, odd, even, v, top) if tops else (u, odd, even, v)


RULE = Rule(
    name="adapnm",
    update=update,
    phase=pnm.phase,
    state=lambda h: (
        "exp_avg",
        "neg_exp_avg",
        "exp_avg_sq",
        *(("max_exp_avg_sq",) if h.amsgrad else ()),
    ),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": Pair(
            *parts.betas(0.9, 0.999).parts,
            Real(1.0, low=0),
            doc="decay rates of the momenta and of the average of squares, and how much of the"
            " older momentum is subtracted",
        ),
        "eps": parts.eps(1e-8),
        **pnm.DECAY,
        "amsgrad": Flag(True, doc="divide by the largest average of squares so far"),
    },
    family="adam",
    year=2021,
    paper="Xie et al., Positive-Negative Momentum",
    arxiv="2103.17182",
)
