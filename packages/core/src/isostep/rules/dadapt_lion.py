"""D-Adapt Lion: Lion with a lower bound d of the distance to the solution in place of lr.

    k  = d * lr
    c  = sign(b1 * m + (1 - b1) * g)
    m <- b2 * m + (1 - b2) * k * g
    N <- sqrt(b2) * N + (1 - sqrt(b2)) * k * (sum of c * s)     the old s; group state
    s <- sqrt(b2) * s + (1 - sqrt(b2)) * k * c
    h  = N / ((1 - sqrt(b2)) * sum of |s|)          the new s; d where that sum is 0
    d <- max(d, min(h, d * growth_rate))            group state, starts at d0; the next step's
    u  = -k * c - k * weight_decay * p

Follows: the authors' package of Defazio, Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", arXiv
    2301.07733: dadaptation, DAdaptLion, which the paper does not have. pytorch_optimizer's DAdaptLion agrees.
Departs:
    - growth_rate is the other D-Adaptation rules'; None, the default, is the package's.
    - m is as in the package: it averages k * g, and is mixed with g itself.
    - The sums are over the parameter group; the package's over all groups together.
lr unit: a factor, to be left at 1 or given a schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.rule import Rule
from isostep.rules import dadapt_adam


def direction(g: Any, m: Any, betas: tuple[Any, Any]) -> Any:
    """Lion's sign of a mix."""
    return nm.sign(parts.average(m, g, betas[0]))


def measure(
    p: Any, g: Any, s: Any, m: Any, t: int, /, *, lr: Any, betas: tuple[Any, Any], d: Any
) -> Mapping[str, Any]:
    """What the bound's numerator grows by, and its denominator; d is that of the last step."""
    c, k = direction(g, m, betas), d * lr
    return {"gain": k * (c * s), "norm": nm.abs(parts.average(s, k * c, nm.sqrt(betas[1])))}


def update(
    p: Any,
    g: Any,
    s: Any,
    m: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    weight_decay: Any,
    d_used: Any,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    c, k = direction(g, m, betas), d_used * lr
    s, m = parts.average(s, k * c, nm.sqrt(betas[1])), parts.average(m, k * g, betas[1])
    return parts.decoupled(p, -k * c, k, weight_decay), s, m


RULE = Rule(
    name="dadapt_lion",
    update=update,
    measure=measure,
    advance=dadapt_adam.advance,
    group=dadapt_adam.RULE.group,
    state=("s", "exp_avg"),
    hyper={
        "lr": parts.lr(1.0, "factor of the bound", cases=(20.0,)),
        "betas": parts.betas(
            0.9, 0.99, doc="weights of the momentum in the step and in its own average"
        ),
        "weight_decay": parts.weight_decay(),
        **dadapt_adam.ESTIMATE,
    },
    family="parameter-free",
    year=2023,
    paper="Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation",
    arxiv="2301.07733",
)
