"""Adai: momentum whose inertia per element falls with the size of that element's gradients.

    g <- g + weight_decay * p                       decoupled: u <- u - lr * weight_decay * p instead
    v <- b2 * v + (1 - b2) * g**2
    a  = mean of v over all elements of all arrays of the group
    b1 = min(max(1 - b0 * v / a, 0), 1 - eps)
    m <- b1 * m + (1 - b1) * g
    q <- q * b1                                     starts at one
    u  = -lr * m / (1 - q)

Follows: Xie, Wang, Zhang, Sato, Sugiyama, "Adaptive Inertia: Disentangling the Effects of Adaptive
    Learning Rate and Momentum", arXiv 2006.15815, Algorithm 2, and the authors' code
    zeke-xie/adaptive-inertia-adai, adai.py. pytorch_optimizer's Adai agrees at dampening 1.
Departs:
    - v and its mean have the same bias correction, which cancels and is left out. The authors' code
      counts steps by parameter, and so differs where one joined late.
    - The mean is over the parameter group; the authors' over all groups together.
    - a = 0, all gradients so far being zero, makes 0 / 0 in the authors' code; here b1 = 1 - eps.
    - weight_decay is the authors' code's; the AdaiW of the paper is decoupled=True.
    - The dampening of the authors' AdaiV2 is left out: this is its value 1.
    - lr, a required argument there, defaults to 0.1.
lr unit: as SGD with the momentum normalised: parameter units per gradient unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Pair, Real
from isostep.rule import Rule


def init(p: Any, /) -> tuple[Any, Any, Any]:
    """Zero averages, and the empty product of inertias."""
    return parts.zeros(p), parts.zeros(p), parts.filled(p, 1.0)


def averaged(
    p: Any, g: Any, v: Any, b2: Any, weight_decay: Any, decoupled: bool
) -> tuple[Any, Any]:
    """The gradient with its coupled decay, and the new v."""
    g = parts.coupled(p, g, weight_decay, when=not decoupled)
    return g, parts.average(v, g * g, b2)


def measure(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    q: Any,
    t: int,
    /,
    *,
    betas: tuple[Any, Any],
    weight_decay: Any,
    decoupled: bool,
) -> Mapping[str, Any]:
    """What the mean over the group is made of; a power of zero counts every element, NaN too."""
    _, v = averaged(p, g, v, betas[1], weight_decay, decoupled)
    return {"total": v, "count": nm.pow(g, 0.0)}


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    q: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    decoupled: bool,
    total: Any,
    count: Any,
) -> tuple[Any, Any, Any, Any]:
    """See the module's equations."""
    g, v = averaged(p, g, v, betas[1], weight_decay, decoupled)
    mean = total / count
    share = v / nm.where(mean == 0, 1.0, mean)
    inertia = nm.clip(1 - betas[0] * share, 0.0, 1 - eps)
    m = parts.average(m, g, inertia)
    q = q * inertia
    u = -lr * m / (1 - q)
    return parts.decoupled(p, u, lr, weight_decay, when=decoupled), m, v, q


RULE = Rule(
    name="adai",
    update=update,
    measure=measure,
    init=init,
    state=("exp_avg", "exp_avg_sq", "beta1_prod"),
    hyper={
        "lr": parts.lr(0.1),
        "betas": Pair(
            Real(0.1, low=0),
            parts.decay_rate(0.99, doc=""),
            doc="b0, which scales the loss of inertia, and the decay rate of the squares' average",
        ),
        "eps": Real(
            1e-3,
            low=0,
            high=1,
            low_open=True,
            cases=(0.05,),
            doc="the inertia's distance from one at least",
        ),
        "weight_decay": parts.weight_decay(doc="weight decay, coupled by default"),
        "decoupled": Flag(False, doc="weight decay past the average, as in AdamW"),
    },
    family="sgd",
    year=2020,
    paper="Xie et al., Adaptive Inertia",
    arxiv="2006.15815",
)
