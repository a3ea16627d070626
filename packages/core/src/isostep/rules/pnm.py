"""PNM: two momenta that take the gradients in turn; the older one is subtracted.

    g <- g + weight_decay * p                       decoupled: u <- u - lr * weight_decay * p instead
    odd t                                           even t
    b <- b1**2 * b + (1 - b1**2) * g                n <- b1**2 * n + (1 - b1**2) * g
    d  = ((1 + b2) * b - b2 * n) / norm             d  = ((1 + b2) * n - b2 * b) / norm
    norm = sqrt((1 + b2)**2 + b2**2)
    u  = -lr * d

Follows: Xie, Yuan, Zhu, Sugiyama, "Positive-Negative Momentum: Manipulating Stochastic Gradient
    Noise to Improve Generalization", arXiv 2103.17182, Algorithm 1 (PNM), whose beta_0 is b2 here,
    and the authors' code zeke-xie/Positive-Negative-Momentum, pnm.py. pytorch_optimizer's PNM
    agrees.
Departs:
    - weight_decay is not in Algorithm 1: decoupled by default, as in the authors' code.
    - lr, a required argument there, defaults to 1e-3.
lr unit: as SGD.
"""

from __future__ import annotations

from typing import Any

from isostep import parts
from isostep.domains import Flag, Pair, Real
from isostep.rule import Rule


def phase(t: int, /) -> int:
    """Which of the two momenta takes this gradient: 1 for the first."""
    return t % 2


def update(
    p: Any,
    g: Any,
    odd: Any,
    even: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    weight_decay: Any,
    decoupled: bool,
    phase: int,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    g = parts.coupled(p, g, weight_decay, when=not decoupled)
    new, old, odd, even = parts.in_turn(g, odd, even, betas[0] * betas[0], phase)
    u = -lr * parts.positive_negative(new, old, betas[1])
    return parts.decoupled(p, u, lr, weight_decay, when=decoupled), odd, even


DECAY = {
    "weight_decay": parts.weight_decay(doc="weight decay, decoupled by default"),
    "decoupled": Flag(True, doc="weight decay past the momenta, as in AdamW"),
}

RULE = Rule(
    name="pnm",
    update=update,
    phase=phase,
    state=("pos_momentum", "neg_momentum"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": Pair(
            parts.decay_rate(0.9, doc=""),
            Real(1.0, low=0),
            doc="decay rate of the momenta, and how much of the older one is subtracted",
        ),
        **DECAY,
    },
    family="sgd",
    year=2021,
    paper="Xie et al., Positive-Negative Momentum",
    arxiv="2103.17182",
)
