"""D-Adapt AdaGrad: AdaGrad by dual averaging, with a lower bound d of the distance to the solution in place of lr.

    k  = d * lr
    g <- g + weight_decay * p
    a <- a + g**2                                   starts at 1e-6; q = sqrt(a) + eps
    s <- s + k * g
    G <- G + k**2 * (sum of g**2 / q)               group state
    h  = (sum of s**2 / q - G) / sum of |s|         d where that sum is 0
    d <- max(d, min(h, d * growth_rate))            group state, starts at d0; the next step's
    u  = (1 - momentum) * (p0 - s / q - p)          p0 is the parameter before the first step

Follows: Defazio, Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", arXiv 2301.07733, Algorithm 3
    (D-Adapted AdaGrad), and the authors' package dadaptation, DAdaptAdaGrad, for dense gradients.
    pytorch_optimizer's DAdaptAdaGrad agrees.
Departs:
    - a starts at 1e-6 and eps stands in q, as in the package; in Algorithm 3 a starts at the square of a bound of the
      gradients, which is to be given.
    - The package adds to the sums of s what each step changes of them, so that they hold parameters without a
      gradient too; here both sums are taken anew, over the parameters of the step.
    - The package leaves the whole step out as long as every gradient was exactly zero.
    - The sums are over the parameter group; the package's over all groups together.
lr unit: a factor, to be left at 1 or given a schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.rule import Rule
from isostep.rules import dadapt_adam, dadapt_adan


def init(p: Any, /) -> tuple[Any, Any, Any]:
    """The sum of squares, which starts above zero, the sum of steps, and a copy of the starting point."""
    return parts.filled(p, 1e-6), parts.zeros(p), parts.copied(p)


def sums_of(
    p: Any, g: Any, a: Any, s: Any, k: Any, eps: Any, weight_decay: Any
) -> tuple[Any, Any, Any, Any]:
    """The decayed gradient, both new sums, and what the rule divides by."""
    g = parts.coupled(p, g, weight_decay)
    a = a + g * g
    return g, a, s + k * g, nm.sqrt(a) + eps


def measure(
    p: Any,
    g: Any,
    a: Any,
    s: Any,
    p0: Any,
    t: int,
    /,
    *,
    lr: Any,
    eps: Any,
    weight_decay: Any,
    d: Any,
) -> Mapping[str, Any]:
    """The weighted squares of the gradient and of the sum of steps, and that sum's norm; d is that of the last step."""
    k = d * lr
    g, _, s, q = sums_of(p, g, a, s, k, eps, weight_decay)
    return {"grown": k * k * (g * g / q), "sum_sq": s * s / q, "norm": nm.abs(s)}


def advance(
    sums: Mapping[str, Any], group: Mapping[str, Any], t: int, /, *, growth_rate: Any
) -> dict[str, Any]:
    """The next bound; the one before it is what this step still goes by."""
    d = group["d"]
    weighted = group["gsq_weighted"] + sums["grown"]
    found = dadapt_adan.bound(sums["sum_sq"] - weighted, sums["norm"])
    return {
        "d": dadapt_adam.larger(d, found, growth_rate),
        "gsq_weighted": weighted,
        "d_used": d,
    }


def update(
    p: Any,
    g: Any,
    a: Any,
    s: Any,
    p0: Any,
    t: int,
    /,
    *,
    lr: Any,
    momentum: Any,
    eps: Any,
    weight_decay: Any,
    d_used: Any,
) -> tuple[Any, Any, Any, Any]:
    """See the module's equations."""
    _, a, s, q = sums_of(p, g, a, s, d_used * lr, eps, weight_decay)
    return (1 - momentum) * (p0 - s / q - p), a, s, p0


RULE = Rule(
    name="dadapt_adagrad",
    update=update,
    init=init,
    measure=measure,
    advance=advance,
    group=dadapt_adan.RULE.group,
    state=("alphak", "sk", "x0"),
    hyper={
        "lr": parts.lr(1.0, "factor of the bound", cases=(0.7,)),
        "momentum": Real(0.0, low=0, high=1, high_open=True, doc="momentum, by averaging points"),
        "eps": parts.eps(1e-6),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
        **dadapt_adam.ESTIMATE,
        "growth_rate": parts.growth_rate(1.001),
    },
    family="parameter-free",
    year=2023,
    paper="Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation",
    arxiv="2301.07733",
)
