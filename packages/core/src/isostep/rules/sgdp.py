"""SGDP: SGD without the part of its step that only makes a scale-invariant weight longer.

    b <- momentum * b + (1 - dampening) * g
    d  = b, or g + momentum * b with nesterov
    d, ratio = projection(p, g, d)                  see adamp.py
    u  = -lr * d - lr * weight_decay * ratio / (1 - momentum) * p
    b <- d                                          original, without nesterov

Follows: Heo, Chun, Oh, Han, Yun, Kim, Uh, Ha, "AdamP: Slowing Down the Slowdown for Momentum
    Optimizers on Scale-invariant Weights", arXiv 2006.08217, Algorithm 1 (paper), and the authors'
    package adamp (original). torch-optimizer agrees with the package but for eps (see adamp.py), timm
    with the paper.
Departs:
    - The package projects the buffer itself, in place, unless nesterov is set: what it averages is
      then no longer the gradients of Algorithm 1. With nesterov the two dialects are the same.
    - As AdamP. Dampening acts at t = 1 too (not so in sgd.py), as in the package.
    - lr, a required argument there, defaults to 1e-3.
    - momentum = 1 is left out, the decay being divided by 1 - momentum.
lr unit: parameter units per gradient unit.
"""

from __future__ import annotations

from typing import Any

from isostep import parts
from isostep.domains import Choice, Flag, Real
from isostep.rule import Rule


def update(
    p: Any,
    g: Any,
    b: Any,
    t: int,
    /,
    *,
    lr: Any,
    momentum: Any,
    dampening: Any,
    weight_decay: Any,
    nesterov: bool,
    eps: Any,
    delta: Any,
    wd_ratio: Any,
    unit_axis: int,
    dialect: str,
) -> tuple[Any, Any]:
    """See the module's equations."""
    b = momentum * b + (1 - dampening) * g
    d = g + momentum * b if nesterov else b
    d, ratio = parts.projection(
        p, g, d, delta=delta, wd_ratio=wd_ratio, eps=eps, unit_axis=unit_axis
    )
    u = parts.decoupled(p, -lr * d, lr / (1 - momentum) * ratio, weight_decay)
    return u, (d if dialect == "original" and not nesterov else b)


RULE = Rule(
    name="sgdp",
    update=update,
    state=("momentum_buffer",),
    hyper={
        "lr": parts.lr(1e-3),
        "momentum": Real(0.0, low=0, high=1, high_open=True, cases=(0.85,), doc="momentum factor"),
        "dampening": Real(0.0, low=0, high=1, doc="part of the gradient kept out of the momentum"),
        "weight_decay": parts.weight_decay(),
        "nesterov": Flag(False, doc="Nesterov momentum"),
        # Cases for which each bound of a norm, and each hundredth of delta, decides some step. The last delta is past
        # all cosines: a buffer that is projected itself carries a decision within rounding on, in bfloat16 too far.
        "eps": parts.eps(
            1e-8, "smallest norm", cases=(7.09, 11.14, 7.76, 11.14, 14.62, 5.41, 4.51, 4.0)
        ),
        **parts.projected(delta=(0.4032, 0.0886, 0.176, 0.3, 0.0965, 1.0361, 0.6372, 6.0)),
        "unit_axis": parts.unit_axis(cases=(0,)),
        "dialect": Choice("paper", options=("paper", "original"), doc="what the buffer keeps"),
    },
    family="sgd",
    year=2020,
    paper="Heo et al., AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant"
    " Weights",
    arxiv="2006.08217",
)
