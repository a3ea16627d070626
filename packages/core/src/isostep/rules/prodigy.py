"""Prodigy: Adam with an estimate d of the distance to the solution in place of a learning rate.

    k  = lr * sqrt(1 - b2**t) / (1 - b1**t) with use_bias_correction, else lr
    g <- g + weight_decay * p                       decouple=False
    s <- b3 * s + d / d0 * (d * k) * g              safeguard_warmup: d / d0 * d * g
    N <- b3 * N + sum of d / d0 * (d * k) * g * (p0 - p)       group state, over all its parameters
    h  = d_coef * N / sum of |s|                    N where that sum is 0
    D <- max(D, h)                                  group state, starts at d0 as d does
    d' = D while d = d0, else min(D, d * growth_rate)           group state: d
    m <- b1 * m + (1 - b1) * d * g
    v <- b2 * v + (1 - b2) * d**2 * g**2
    u  = -(d * k) * m / (sqrt(v) + d' * eps) - d * k * weight_decay * p

d' is the d of the next step; b3 = beta3 or sqrt(b2); p0 is the parameter before the first step.

Follows: Mishchenko, Defazio, "Prodigy: An Expeditiously Adaptive Parameter-Free Learner", arXiv
    2306.06101, Algorithm 4 (Adam), and the authors' package prodigyopt with slice_p=1.
    pytorch_optimizer agrees; optax.contrib.prodigy is use_bias_correction=True.
Departs:
    - The paper's d never falls and has no growth_rate; D and growth_rate are the package's.
    - The package writes the first growth, which growth_rate does not bound, as d = max(d, h)
      before the minimum: the same. Here a flag of the group says whether d has left d0.
    - With b1 = 0 the package keeps no m; here m is d * g then, the same step.
    - The package leaves the whole step out (decay too) as long as every gradient was exactly zero.
    - The sums are over the parameter group; the package's over all groups together.
lr unit: a factor, to be left at 1 or given a schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Real
from isostep.rule import Rule


def init(p: Any, /) -> tuple[Any, Any, Any, Any]:
    """Three zeros and a copy of the starting point."""
    return parts.zeros(p), parts.copied(p), parts.zeros(p), parts.zeros(p)


def rate(lr: Any, betas: tuple[Any, Any], t: Any, use_bias_correction: bool) -> Any:
    """The factor k beside d."""
    if not use_bias_correction:
        return lr
    c1, c2 = parts.corrections(betas, t)
    return lr * nm.sqrt(c2) / c1


def weighted(s: Any, g: Any, b3: Any, d: Any, k: Any, d0: Any, safeguard_warmup: bool) -> Any:
    """The new s."""
    return b3 * s + (d / d0 * (d if safeguard_warmup else d * k)) * g


def measure(
    p: Any,
    g: Any,
    s: Any,
    p0: Any,
    m: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    beta3: Any,
    weight_decay: Any,
    decouple: bool,
    use_bias_correction: bool,
    safeguard_warmup: bool,
    d0: Any,
    d: Any,
) -> dict[str, Any]:
    """What the estimate's numerator grows by, and its denominator; d is that of the last step."""
    g = parts.coupled(p, g, weight_decay, when=not decouple)
    k = rate(lr, betas, t, use_bias_correction)
    b3 = nm.sqrt(betas[1]) if beta3 is None else beta3
    gain = (d / d0 * (d * k)) * (g * (p0 - p))
    return {"gain": gain, "norm": nm.abs(weighted(s, g, b3, d, k, d0, safeguard_warmup))}


def advance(
    sums: Mapping[str, Any],
    group: Mapping[str, Any],
    t: int,
    /,
    *,
    betas: tuple[Any, Any],
    beta3: Any,
    d_coef: Any,
    growth_rate: Any,
) -> dict[str, Any]:
    """The new estimate; the one before it is what this step still goes by."""
    d, norm = group["d"], sums["norm"]
    b3 = nm.sqrt(betas[1]) if beta3 is None else beta3
    numerator = b3 * group["d_numerator"] + sums["gain"]
    # Before the first gradient both are zero, and d stays.
    found = d_coef * numerator / nm.where(norm == 0, 1.0, norm)
    largest = nm.maximum(group["d_max"], found)
    new = {"d": largest, "d_max": largest, "d_numerator": numerator, "d_previous": d}
    if growth_rate is None:
        return new
    grown = group["grown"]  # the first growth is free
    new["d"] = nm.where(grown == 0, largest, nm.minimum(largest, d * growth_rate))
    return {**new, "grown": nm.where(found > d, 1.0, grown)}


def update(
    p: Any,
    g: Any,
    s: Any,
    p0: Any,
    m: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    beta3: Any,
    eps: Any,
    weight_decay: Any,
    decouple: bool,
    use_bias_correction: bool,
    safeguard_warmup: bool,
    d0: Any,
    d: Any,
    d_previous: Any,
) -> tuple[Any, ...]:
    """See the module's equations."""
    g = parts.coupled(p, g, weight_decay, when=not decouple)
    b3 = nm.sqrt(betas[1]) if beta3 is None else beta3
    k = rate(lr, betas, t, use_bias_correction)
    s = weighted(s, g, b3, d_previous, k, d0, safeguard_warmup)
    m, v = parts.moments(d_previous * g, m, v, betas)
    step = d_previous * k
    u = -step * m / (nm.sqrt(v) + d * eps)
    return parts.decoupled(p, u, step, weight_decay, when=decouple), s, p0, m, v


def group(h: SimpleNamespace) -> dict[str, Any]:
    """d_previous is the d that this step goes by; grown is 1 once d has left d0."""
    first = dict.fromkeys(("d", "d_max", "d_previous"), lambda h: h.d0)
    none = ("d_numerator",) if h.growth_rate is None else ("d_numerator", "grown")
    return first | dict.fromkeys(none, lambda h: 0.0)


RULE = Rule(
    name="prodigy",
    update=update,
    init=init,
    measure=measure,
    advance=advance,
    group=group,
    state=("s", "p0", "exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1.0, "factor of the estimated distance", cases=(0.7,)),
        "betas": parts.betas(0.9, 0.999),
        "beta3": Real(
            None,
            low=0,
            high=1,
            high_open=True,
            optional=True,
            cases=(0.9,),
            doc="decay rate of the estimate's sums; None: sqrt(betas[1])",
        ),
        "eps": parts.eps(1e-8, "added to the denominator, times d"),
        "weight_decay": parts.weight_decay(doc="weight decay"),
        "decouple": Flag(True, doc="weight decay past the averages, as in AdamW"),
        "use_bias_correction": Flag(False, doc="Adam's bias corrections"),
        "safeguard_warmup": Flag(False, doc="leave lr out of s, for warm-ups"),
        "d0": Real(
            1e-6, low=0, low_open=True, cases=(0.1, 0.2, 0.1, 0.2, 0.1, 3.0), doc="first estimate"
        ),
        "d_coef": Real(1.0, low=0, cases=(3.0,), doc="factor of the estimate"),
        "growth_rate": parts.growth_rate(1.5, 1.1, 1.1),
    },
    family="parameter-free",
    year=2023,
    paper="Mishchenko and Defazio, Prodigy: An Expeditiously Adaptive Parameter-Free Learner",
    arxiv="2306.06101",
)
