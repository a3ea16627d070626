"""LaProp: the gradient is divided by the root first, and the quotients are averaged.

    v <- b2 * v + (1 - b2) * g**2
    a <- b2 * a + (1 - b2) * g                      centered only; s = v - a**2 where t > steps_before_using_centered
    n <- max(n, s)                                  amsgrad only; else, and in those first steps, n = s, and s = v
    m <- b1 * m + (1 - b1) * g / (sqrt(n / (1 - b2**t)) + eps)
    u  = -lr / (1 - b1**t) * m - lr * weight_decay * p

Follows: Ziyin, Wang, Ueda, "LaProp: Separating Momentum and Adaptivity in Adam", arXiv 2002.04839,
    Algorithm 1; names, defaults, the place of eps, centered and amsgrad from the authors' code Z-T-WANG/
    LaProp-Optimizer, laprop.py (whose newest version no longer runs with centered). timm's LaProp agrees while
    lr is constant.
Departs:
    - The authors' code (and timm, pytorch_optimizer) averages lr * quotient and divides by the
      average of lr, in place of 1 - b1**t. Here lr multiplies the average, as in the paper: the
      same while lr is constant; otherwise a change of lr acts at once here.
    - steps_before_using_centered is a constant of the authors' code; s may come out below zero by rounding where
      the gradient has long been constant: with a small eps that is NaN, as there.
    - pytorch_optimizer puts eps inside of the bias correction and 1e-15 under the root.
    - weight_decay is decoupled and times lr, as in timm's; not in Algorithm 1. The authors' code takes
      weight_decay * p away after the step, without lr.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Integer
from isostep.rule import Rule
from isostep.rules import adam


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    /,
    *state_t: Any,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    amsgrad: bool,
    centered: bool,
    steps_before_using_centered: int,
    denominator: Any = parts.same,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *state, t = state_t
    b1, b2 = betas
    c1, c2 = parts.corrections(betas, t)
    v = parts.average(v, g * g, b2)
    square, late, means = v, t > steps_before_using_centered, []
    if centered:
        means = [parts.average(state[0], g, b2)]
        square = nm.where(late, v - means[0] * means[0], v)
    largest, tops = parts.largest(square, state[len(means) :])
    if amsgrad and centered:  # a top of zero changes nothing in the first steps
        tops = [nm.where(late, largest, state[-1])]
    m = parts.average(m, g / denominator(parts.root(largest, c2) + eps), b1)
    u = (-lr / c1) * m
    return parts.decoupled(p, u, lr, weight_decay), m, v, *means, *tops


def state(h: SimpleNamespace) -> tuple[str, ...]:
    """What centering and amsgrad need beside the averages."""
    mean = ("exp_mean_avg_beta2",) if h.centered else ()
    return ("exp_avg", "exp_avg_sq", *mean, *(("max_exp_avg_sq",) if h.amsgrad else ()))


RULE = Rule(
    name="laprop",
    update=update,
    state=state,
    hyper={
        "lr": parts.lr(4e-4),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-15),
        "weight_decay": parts.weight_decay(),
        "amsgrad": adam.RULE.hyper["amsgrad"],
        "centered": Flag(False, doc="divide by the standard deviation"),
        "steps_before_using_centered": Integer(
            10, low=0, cases=(3,), doc="how long the mean is averaged before it is taken away"
        ),
    },
    family="adam",
    year=2020,
    paper="Ziyin et al., LaProp: Separating Momentum and Adaptivity in Adam",
    arxiv="2002.04839",
)
