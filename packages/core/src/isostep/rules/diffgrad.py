"""diffGrad: Adam whose step shrinks where the gradient hardly changes.

    g <- g + weight_decay * p
    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * g**2                   c1 = 1 - b1**t, c2 = 1 - b2**t
    f  = 1 / (1 + exp(-|g - (g of the step before)|))                   0 before the first
    u  = -lr * sqrt(c2) / c1 * f * m / (sqrt(v) + eps)

With rectify, where q and r are RAdam's (see radam.py):
    u  = -lr * sqrt(c2) / c1 * r * f * m / (sqrt(v) + eps)              where q > 5
    u  = -lr / c1 * m                                                   else; 0 without degenerated_to_sgd

Follows: Dubey, Chakraborty, Roy, Mukherjee, Singh, Chaudhuri, "diffGrad: An Optimization Method for
    Convolutional Neural Networks", arXiv 1909.11015, equations 5 to 11, and the authors' code
    shivram1987/diffGrad. torch-optimizer agrees.
Departs:
    - eps is Adam's "eps hat", as in the code; in the paper it is added to the corrected root.
    - weight_decay is the code's and coupled; not in the paper.
    - rectify is pytorch_optimizer's, an optimizer of its own there at first (diffRGrad); of no paper.
    - pytorch_optimizer adds 1e-15 under the root.
lr unit: parameter units per step, as Adam; a step is between half of Adam's and Adam's.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.rule import Rule
from isostep.rules import adam, radam


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    before: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    rectify: bool,
    degenerated_to_sgd: bool,
    denominator: Any = parts.same,
) -> tuple[Any, ...]:
    """See the module's equations."""
    g = parts.coupled(p, g, weight_decay)
    m, v = parts.moments(g, m, v, betas)
    friction = 1 / (1 + nm.exp(-nm.abs(g - before)))
    how: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "denominator": denominator}
    if rectify:
        how |= {"degenerated_to_sgd": degenerated_to_sgd, "friction": friction}
        u, _ = radam.directed(m, v, t, **how)
    else:
        u, _ = adam.directed(friction * m, v, None, t, dialect="keras", **how)
    return u, m, v, g


RULE = Rule(
    name="diffgrad",
    update=update,
    state=("exp_avg", "exp_avg_sq", "previous_grad"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": radam.betas(0.9),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
        "rectify": radam.RECTIFY,
        "degenerated_to_sgd": radam.DEGENERATED,
    },
    known_as={"diffrgrad": {"rectify": True}},
    family="adam",
    year=2019,
    paper="Dubey et al., diffGrad: An Optimization Method for Convolutional Neural Networks",
    arxiv="1909.11015",
)
