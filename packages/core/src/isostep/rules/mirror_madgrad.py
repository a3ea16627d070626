"""Mirror MADGRAD: MADGRAD's weights and cube root around mirror descent in the place of dual averaging.

    g <- g + weight_decay * p                       or z <- z - r * weight_decay * z, decouple_decay
    r  = lr + eps                                   0 where lr = 0
    v <- sqrt((t - 1) / t) * v + g**2
    z <- z - r * cbrt(t) * g / (cbrt(v) + eps)      z starts at the parameter
    u  = (1 - momentum) * (z - p)

Without momentum z is p, and is not stored. Without eps a divisor of 0 counts as 1.

Follows: the class MirrorMADGRAD of the package madgrad, by the authors of Defazio, Jelassi, "Adaptivity without
    Compromise: A Momentumized, Adaptive, Dual Averaged Gradient Method for Stochastic Optimization", arXiv 2101.11075.
    Times sqrt(t), v is MADGRAD's sum of sqrt(t) * g**2; that is the cbrt(t) here where sqrt(t) is there.
Departs:
    - Without eps the package takes no step where the root of v is zero; here a g whose square is zero is divided by 1.
    - t is counted per parameter; the package counts calls of step.
    - The package writes the coupled decay into the caller's gradient.
lr unit: parameter units per (gradient unit)**(1/3), about.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.rule import Rule
from isostep.rules import madgrad


def init(p: Any, /, *, momentum: Any) -> tuple[Any, ...]:
    """An empty sum, and with momentum a copy of the starting point."""
    return (parts.zeros(p), parts.copied(p)) if momentum else (parts.zeros(p),)


def update(
    p: Any,
    g: Any,
    v: Any,
    /,
    *point_t: Any,
    lr: Any,
    momentum: Any,
    weight_decay: Any,
    eps: Any,
    decouple_decay: bool,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *point, t = point_t
    z = point[0] if momentum else p
    rate = lr + eps * nm.sign(lr) if eps else lr
    g = parts.coupled(p, g, weight_decay, when=not decouple_decay)
    v = nm.sqrt((t - 1) / t) * v + g * g
    step = (-rate * nm.cbrt(t)) * madgrad.displacement(v, g, eps)
    step = parts.decoupled(z, step, rate, weight_decay, when=decouple_decay)
    if not momentum:
        return step, v
    z = z + step
    return (1 - momentum) * (z - p), v, z


RULE = Rule(
    name="mirror_madgrad",
    update=update,
    init=init,
    state=lambda h: ("grad_sum_sq", *(("z",) if h.momentum else ())),
    hyper={
        **madgrad.RULE.hyper,
        "eps": parts.eps(0.0, "added to the denominator and to lr", zero_is_static=True),
    },
    family="adaptive",
    year=2021,
    paper="Defazio and Jelassi, Adaptivity without Compromise (the package's mirror descent)",
    arxiv="2101.11075",
)
