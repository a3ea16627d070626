"""D-Adapt Adan: Adan with a lower bound d of the distance to the solution in place of lr.

    k  = d * lr
    e  = g - (g of the step before)                 0 at t = 1
    m <- b1 * m + (1 - b1) * k * g
    v <- b2 * v + (1 - b2) * k * e
    n <- b3 * n + (1 - b3) * (g + b2 * e)**2        q = sqrt(n) + eps
    s <- b3 * s + (1 - b3) * k * g
    G <- b3 * G + (1 - b3) * k**2 * (sum of g**2 / q)           group state
    h  = (sum of s**2 / q / (1 - b3) - G) / sum of |s|          d where that sum is 0
    d <- max(d, min(h, d * growth_rate))            group state, starts at d0; the next step's
    a  = (m + b2 * v) / q
    u  = -(a + k * weight_decay * p) / (1 + k * weight_decay)           that is, p <- (p - a) / (1 + k * weight_decay)
    u  = -a - k * weight_decay * p                                      no_prox

Follows: the authors' package of Defazio, Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", arXiv
    2301.07733: dadaptation, DAdaptAdan, which the paper does not have. pytorch_optimizer's DAdaptAdan agrees.
Departs:
    - The package leaves the whole step out (decay too) as long as every gradient was exactly zero, and has a
      method for Adan's restart: a new state is one.
    - The sums are over the parameter group; the package's over all groups together.
lr unit: a factor, to be left at 1 or given a schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.rule import Rule
from isostep.rules import adan, dadapt_adam


def squares(
    g: Any, n: Any, before: Any, t: Any, betas: tuple[Any, Any, Any], eps: Any
) -> tuple[Any, Any, Any]:
    """The gradient's difference, the new average of squares and what it makes the rule divide by."""
    e = nm.where(t > 1, g - before, 0.0)
    ahead = g + betas[1] * e
    n = parts.average(n, ahead * ahead, betas[2])
    return e, n, nm.sqrt(n) + eps


def measure(
    p: Any,
    g: Any,
    s: Any,
    m: Any,
    v: Any,
    n: Any,
    before: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any, Any],
    eps: Any,
    d: Any,
) -> Mapping[str, Any]:
    """The weighted squares of the gradients and of their sum, and that sum's norm; d is that of the last step."""
    _, _, q = squares(g, n, before, t, betas, eps)
    k = d * lr
    s = parts.average(s, k * g, betas[2])
    return {"grown": k * k * (g * g / q), "sum_sq": s * s / q, "norm": nm.abs(s)}


def advance(
    sums: Mapping[str, Any],
    group: Mapping[str, Any],
    t: int,
    /,
    *,
    betas: tuple[Any, Any, Any],
    growth_rate: Any,
) -> dict[str, Any]:
    """The next bound; the one before it is what this step still goes by."""
    d, norm, b3 = group["d"], sums["norm"], betas[2]
    weighted = parts.average(group["gsq_weighted"], sums["grown"], b3)
    found = bound(sums["sum_sq"] / (1 - b3) - weighted, norm)
    return {
        "d": dadapt_adam.larger(d, found, growth_rate),
        "gsq_weighted": weighted,
        "d_used": d,
    }


def bound(gap: Any, norm: Any) -> Any:
    """The bound found. Where all gradients were zero it is not above zero, and d stays. D-Adapt AdaGrad shares it."""
    return gap / nm.where(norm == 0, 1.0, norm)


def update(
    p: Any,
    g: Any,
    s: Any,
    m: Any,
    v: Any,
    n: Any,
    before: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any, Any],
    eps: Any,
    weight_decay: Any,
    no_prox: bool,
    d_used: Any,
) -> tuple[Any, ...]:
    """See the module's equations."""
    b1, b2, b3 = betas
    e, n, q = squares(g, n, before, t, betas, eps)
    k = d_used * lr
    m, v, s = (parts.average(a, k * x, b) for a, x, b in ((m, g, b1), (v, e, b2), (s, g, b3)))
    u = parts.decoupled(p, -(m + b2 * v) / q, k, weight_decay)
    if weight_decay and not no_prox:
        u = u / (1 + k * weight_decay)
    return u, s, m, v, n, g


RULE = Rule(
    name="dadapt_adan",
    update=update,
    measure=measure,
    advance=advance,
    # d_used is the d that this step goes by.
    group={"d": lambda h: h.d0, "gsq_weighted": lambda h: 0.0, "d_used": lambda h: h.d0},
    state=("s", "exp_avg", "exp_avg_diff", "exp_avg_sq", "previous_grad"),
    hyper={
        "lr": parts.lr(1.0, "factor of the bound", cases=(2.0,)),
        "betas": adan.RULE.hyper["betas"],
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(0.02, doc="decay beside the averages"),
        "no_prox": adan.RULE.hyper["no_prox"],
        **dadapt_adam.ESTIMATE,
    },
    family="parameter-free",
    year=2023,
    paper="Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation",
    arxiv="2301.07733",
)
