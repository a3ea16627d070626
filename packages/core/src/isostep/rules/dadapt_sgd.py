"""D-Adapt SGD: SGD with a lower bound d of the distance to the solution in place of lr.

    G  = norm of the first step's gradients, over the group     group state
    k  = d * lr / G
    g <- g + weight_decay * p
    N <- N + k * (sum of g * s)                     the old s; group state
    s <- s + k * g
    h  = 2 * N / (norm of s over the group)         d where that norm is 0
    d <- max(d, min(h, d * growth_rate))            group state, starts at d0; the next step's
    u  = (1 - momentum) * (p0 - s - p)              p0 is the parameter before the first step

Follows: Defazio, Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", arXiv 2301.07733,
    Algorithm 4 (D-Adapted SGD), and the authors' package dadaptation, DAdaptSGD.
    pytorch_optimizer's DAdaptSGD agrees.
Departs:
    - The norm of the new s is made from the sums of s**2, s * g and g**2, which one pass over the
      old s gives.
    - As in the package, G is the norm of the gradients without their weight decay.
    - The package leaves the step out as long as every gradient was exactly zero, and divides by
      zero where the first ones were; here k = d * lr then, until the state is made anew.
    - The sums are over the parameter group; the package's over all groups together.
lr unit: a factor, to be left at 1 or given a schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.rule import Rule
from isostep.rules import dadapt_adam


def init(p: Any, /) -> tuple[Any, Any]:
    """The sum of steps, and a copy of the starting point."""
    return parts.zeros(p), parts.copied(p)


def measure(p: Any, g: Any, s: Any, p0: Any, t: int, /, *, weight_decay: Any) -> Mapping[str, Any]:
    """The first gradients' squares, and the products that the norm of the new s is made of."""
    decayed = parts.coupled(p, g, weight_decay)
    return {"raw": g * g, "gg": decayed * decayed, "gs": decayed * s, "ss": s * s}


def advance(
    sums: Mapping[str, Any],
    group: Mapping[str, Any],
    t: int,
    /,
    *,
    lr: Any,
    growth_rate: Any,
) -> dict[str, Any]:
    """The next bound, and the factor k that this step goes by."""
    d = group["d"]
    first = nm.where(t > 1, group["g0_norm"], nm.sqrt(sums["raw"]))
    k = d * lr / nm.where(first == 0, 1.0, first)
    numerator = group["numerator_weighted"] + k * sums["gs"]
    norm = nm.sqrt(sums["ss"] + 2 * k * sums["gs"] + k * k * sums["gg"])
    # Where all gradients were zero so are both, and d stays.
    found = 2 * numerator / nm.where(norm == 0, 1.0, norm)
    new = dadapt_adam.larger(d, found, growth_rate)
    return {"d": new, "numerator_weighted": numerator, "g0_norm": first, "factor": k}


def update(
    p: Any,
    g: Any,
    s: Any,
    p0: Any,
    t: int,
    /,
    *,
    momentum: Any,
    weight_decay: Any,
    factor: Any,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    s = s + factor * parts.coupled(p, g, weight_decay)
    return (1 - momentum) * (p0 - s - p), s, p0


RULE = Rule(
    name="dadapt_sgd",
    update=update,
    init=init,
    measure=measure,
    advance=advance,
    # factor is k, which this step's sums may change before update sees it.
    group={
        "d": lambda h: h.d0,
        "numerator_weighted": lambda h: 0.0,
        "g0_norm": lambda h: 0.0,
        "factor": lambda h: 0.0,
    },
    state=("s", "x0"),
    hyper={
        "lr": parts.lr(1.0, "factor of the bound", cases=(0.7,)),
        "momentum": Real(0.0, low=0, high=1, high_open=True, doc="momentum, by averaging points"),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
        **dadapt_adam.ESTIMATE,
        "growth_rate": parts.growth_rate(1.3),
    },
    family="parameter-free",
    year=2023,
    paper="Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation",
    arxiv="2301.07733",
)
