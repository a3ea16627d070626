"""MoMo-Adam: Adam whose rate is at most lr, and what a model of the loss says that is left to gain.

    d <- b1 * d + (1 - b1) * g                      c1 = 1 - b1**t, c2 = 1 - b2**t
    v <- b2 * v + (1 - b2) * g**2
    D  = sqrt(v / c2) + eps
    tau, and the group's state                      as in momo.py with b = b1, c = c1, and
                                                    <d, d / D> for <d, d>
    u  = (p - tau * d / D) / (1 + lr * weight_decay) - p        divide
    u  = -tau * d / D - lr * weight_decay * p                   without divide

Follows: Schaipp, Ohana, Eickenberg, Defazio, Gower, "MoMo: Momentum Models for Adaptive Learning
    Rates", arXiv 2305.07583, and the authors' code fabian-sp/MoMo, momo_adam.py. optax.contrib's
    momo_adam agrees without weight decay.
Departs:
    - As momo.py: loss is an input of the step, the sums are over the parameter group, and where
      the denominator is 0 there is no step but the decay's.
    - optax leaves tau * d / D undivided by 1 + lr * weight_decay.
lr unit: parameter units per step, as Adam, an upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.domains import Flag
from isostep.rule import Rule
from isostep.rules import momo


def scaled(
    g: Any, d: Any, v: Any, t: Any, betas: tuple[Any, Any], eps: Any
) -> tuple[Any, Any, Any]:
    """The new averages, and the first divided by D."""
    d, v = parts.moments(g, d, v, betas)
    return d, v, d / (parts.root(v, nm.one_minus_pow(betas[1], t)) + eps)


def measure(
    p: Any, g: Any, d: Any, v: Any, t: int, /, *, betas: tuple[Any, Any], eps: Any
) -> Mapping[str, Any]:
    """The products of the gradient and of its new average."""
    d, _, direction = scaled(g, d, v, t, betas, eps)
    return {"gp": g * p, "dp": d * p, "dd": d * direction}


def advance(
    sums: Mapping[str, Any],
    group: Mapping[str, Any],
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    weight_decay: Any,
    lb: Any,
    use_fstar: bool,
) -> dict[str, Any]:
    """The averages of the loss, the bound of it, and the rate."""
    b = betas[0]
    c = nm.one_minus_pow(b, t)
    return momo.modelled(
        sums, group, b, c, lr=lr, weight_decay=weight_decay, lb=lb, use_fstar=use_fstar
    )


def update(
    p: Any,
    g: Any,
    d: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    divide: bool,
    tau: Any,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    d, v, direction = scaled(g, d, v, t, betas, eps)
    step = tau * direction
    if divide:
        return momo.proximal(p, step, lr, weight_decay), d, v
    return parts.decoupled(p, -step, lr, weight_decay), d, v


RULE = Rule(
    name="momo_adam",
    update=update,
    measure=measure,
    advance=advance,
    group_inputs=("loss",),
    group=momo.GROUP,
    state=("grad_avg", "grad_avg_sq"),
    hyper={
        "lr": parts.lr(1e-2, "largest learning rate"),
        "betas": parts.betas(0.9, 0.999, cases=(0.85, 0.96)),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(doc="weight decay, proximal or decoupled"),
        "divide": Flag(True, doc="proximal weight decay; without, as AdamW"),
        **momo.bound(1.5, 1.5, 12.0, 1.5, 0.5),
    },
    family="adaptive",
    year=2023,
    paper="Schaipp et al., MoMo: Momentum Models for Adaptive Learning Rates",
    arxiv="2305.07583",
)
