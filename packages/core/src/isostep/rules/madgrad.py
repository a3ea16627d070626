"""MADGRAD: dual averaging with the cube root of the sum of squares, and an average of its points.

    g <- g + weight_decay * p                       or u <- u - r * weight_decay * p, decouple_decay
    r  = lr + eps                                   0 where lr = 0
    s <- s + r * sqrt(t) * g
    v <- v + r * sqrt(t) * g**2
    z  = x0 - s / (cbrt(v) + eps)                   x0 is the parameter before the first step
    u  = (1 - momentum) * (z - p)

Without momentum x0 is not stored: u = s / (cbrt(v) + eps) of the step before, minus that of this
step. A quotient with a divisor of 0 counts as 0.

Follows: Defazio, Jelassi, "Adaptivity without Compromise: A Momentumized, Adaptive, Dual Averaged
    Gradient Method for Stochastic Optimization", arXiv 2101.11075, Algorithm 1, and the authors'
    package madgrad. timm, pytorch_optimizer, torch-optimizer and optax.contrib.madgrad agree.
Departs:
    - eps is added to lr also, as in the package.
    - weight_decay is the package's: coupled, or decoupled. timm's decoupled decay is times lr and
      not lr + eps.
lr unit: parameter units per (gradient unit)**(1/3), about.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Real
from isostep.rule import Rule


def init(p: Any, /, *, momentum: Any) -> tuple[Any, ...]:
    """Empty sums, and with momentum a copy of the starting point."""
    sums = parts.zeros(p), parts.zeros(p)
    return (*sums, parts.copied(p)) if momentum else sums


def displacement(v: Any, s: Any, eps: Any) -> Any:
    """How far dual averaging is from its starting point, downhill."""
    root = nm.cbrt(v)
    # s is zero too where the root is: any other divisor will do.
    return s / (root + eps if eps else nm.where(root == 0, 1.0, root))


def update(
    p: Any,
    g: Any,
    v: Any,
    s: Any,
    /,
    *start_t: Any,
    lr: Any,
    momentum: Any,
    weight_decay: Any,
    eps: Any,
    decouple_decay: bool,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *start, t = start_t
    rate = lr + eps * nm.sign(lr) if eps else lr
    g = parts.coupled(p, g, weight_decay, when=not decouple_decay)
    weight = rate * nm.sqrt(t)
    before = displacement(v, s, eps)
    v = v + weight * (g * g)
    s = s + weight * g
    after = displacement(v, s, eps)
    u = (1 - momentum) * (start[0] - after - p) if momentum else before - after
    return parts.decoupled(p, u, rate, weight_decay, when=decouple_decay), v, s, *start


RULE = Rule(
    name="madgrad",
    update=update,
    init=init,
    state=lambda h: ("grad_sum_sq", "s", *(("x0",) if h.momentum else ())),
    hyper={
        "lr": parts.lr(1e-2),
        "momentum": Real(
            0.9,
            low=0,
            high=1,
            high_open=True,
            zero_is_static=True,
            doc="part of p that a step keeps",
        ),
        "weight_decay": parts.weight_decay(doc="weight decay, coupled by default"),
        "eps": parts.eps(1e-6, "added to the denominator and to lr", zero_is_static=True),
        "decouple_decay": Flag(False, doc="weight decay past the sums"),
    },
    family="adaptive",
    year=2021,
    paper="Defazio and Jelassi, Adaptivity without Compromise",
    arxiv="2101.11075",
)
