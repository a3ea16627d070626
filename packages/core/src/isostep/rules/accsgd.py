"""AccSGD: a short step of SGD, averaged with a point that takes long steps and is drawn to the parameter.

    g <- g + weight_decay * p
    a  = small_const**2 * xi / kappa
    w <- (1 - a) * w + a * (p - lr * kappa / small_const * g)       w starts at the parameter
    u  = (small_const * (-lr * g) + a * (w - p)) / (small_const + a)

Follows: Kidambi, Netrapalli, Jain, Kakade, "On the insufficiency of existing momentum schemes for Stochastic
    Optimization", arXiv 1803.05591 (there ASGD, with 0.7 for small_const), and the authors' code rahulkidambi/AccSGD,
    AccSGD.py, for smallConst, weight_decay and defaults. torch_optimizer and pytorch_optimizer agree.
Departs:
    - The long step is taken as lr * small_const * xi, which is what a makes of it: the code multiplies by
      1 / a - 1, adds, and multiplies by a.
    - lr, a required argument there, defaults to 0.1, which its README has.
    - kappa and xi have to be such that a is at most 1; the code takes any.
lr unit: as SGD, of the short step; the long one is kappa / small_const times as much.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from isostep import parts
from isostep.domains import Real
from isostep.rule import Rule


def init(p: Any, /) -> Any:
    """The point of the long steps starts at the parameter."""
    return parts.copied(p)


def update(
    p: Any,
    g: Any,
    w: Any,
    t: int,
    /,
    *,
    lr: Any,
    kappa: Any,
    xi: Any,
    small_const: Any,
    weight_decay: Any,
) -> tuple[Any, Any]:
    """See the module's equations."""
    g = parts.coupled(p, g, weight_decay)
    share = small_const * (small_const * xi / kappa)
    w = (1 - share) * w + (share * p - (lr * small_const * xi) * g)
    total = small_const + share
    return (share / total) * (w - p) - (small_const / total * lr) * g, w


def check(h: SimpleNamespace) -> str | None:
    """The average has to be one, as far as its weight is a number."""
    kappa, xi, const = h.kappa, h.xi, h.small_const
    if all(isinstance(x, float) for x in (kappa, xi, const)) and const * const * xi > kappa:
        return f"kappa must be at least small_const**2 * xi, {const * const * xi!r}, got {kappa!r}"
    return None


RULE = Rule(
    name="accsgd",
    update=update,
    init=init,
    state=("momentum_buffer",),
    hyper={
        "lr": parts.lr(0.1, "learning rate of the short step"),
        "kappa": Real(
            1000.0, low=0, low_open=True, cases=(30.0,), doc="ratio of the long step to the short"
        ),
        "xi": Real(10.0, low=0, doc="statistical advantage"),
        "small_const": Real(
            0.7, low=0, high=1, low_open=True, doc="small constant; the paper's 0.7"
        ),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
    },
    check=check,
    family="sgd",
    year=2018,
    paper="Kidambi et al., On the insufficiency of existing momentum schemes",
    arxiv="1803.05591",
)
