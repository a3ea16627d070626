"""D-Adapt Adam: Adam with a lower bound d of the distance to the solution in place of lr.

    k  = d * lr, with use_bias_correction d * lr * sqrt(1 - b2**t) / (1 - b1**t)
    g <- g + weight_decay * p                       decouple=False
    N <- sqrt(b2) * N + (1 - sqrt(b2)) * k * (sum of g * s / (sqrt(v) + eps))   the old s and v
    m <- b1 * m + (1 - b1) * k * g
    v <- b2 * v + (1 - b2) * g**2
    s <- sqrt(b2) * s + (1 - sqrt(b2)) * k * g
    h  = N / ((1 - sqrt(b2)) * sum of |s|)          the new s; d where that sum is 0
    d <- max(d, min(h, d * growth_rate))            group state, starts at d0; the next step's
    u  = -m / (sqrt(v) + eps) - k * weight_decay * p            the decay with decouple=True

Follows: Defazio, Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", arXiv 2301.07733,
    Algorithm 5 (D-Adapted Adam), and the authors' package dadaptation, DAdaptAdam.
    pytorch_optimizer's DAdaptAdam agrees.
Departs:
    - The package leaves the whole step out (decay too) as long as every gradient was exactly zero,
      and skips the averages where lr is 0.
    - layer_scale, one factor for each parameter group there, is left out.
    - The sums are over the parameter group; the package's over all groups together.
    - optax.contrib.dadapt_adamw is another rule under this name.
lr unit: a factor, to be left at 1 or given a schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Real
from isostep.rule import Rule


def rate(lr: Any, d: Any, betas: tuple[Any, Any], t: Any, use_bias_correction: bool) -> Any:
    """The factor k that stands where Adam has lr, but inside of the average."""
    if not use_bias_correction:
        return d * lr
    c1, c2 = parts.corrections(betas, t)
    return d * (lr * nm.sqrt(c2) / c1)


def measure(
    p: Any,
    g: Any,
    s: Any,
    m: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    decouple: bool,
    use_bias_correction: bool,
    d: Any,
) -> Mapping[str, Any]:
    """What the bound's numerator grows by, and its denominator; d is that of the last step."""
    g = parts.coupled(p, g, weight_decay, when=not decouple)
    k = rate(lr, d, betas, t, use_bias_correction)
    return {
        "gain": k * (g * (s / (nm.sqrt(v) + eps))),
        "norm": nm.abs(parts.average(s, k * g, nm.sqrt(betas[1]))),
    }


def larger(d: Any, found: Any, growth_rate: Any) -> Any:
    """The new bound: never smaller, and not much larger at once. D-Adapt SGD shares it."""
    limited = found if growth_rate is None else nm.minimum(found, d * growth_rate)
    return nm.maximum(d, limited)


def advance(
    sums: Mapping[str, Any],
    group: Mapping[str, Any],
    t: int,
    /,
    *,
    betas: tuple[Any, Any],
    growth_rate: Any,
) -> dict[str, Any]:
    """The next bound; the one before it is what this step still goes by."""
    d, norm = group["d"], sums["norm"]
    b3 = nm.sqrt(betas[1])
    numerator = parts.average(group["numerator_weighted"], sums["gain"], b3)
    # Where all gradients were zero so are both, and d stays.
    found = numerator / ((1 - b3) * nm.where(norm == 0, 1.0, norm))
    new = larger(d, found, growth_rate)
    return {"d": new, "numerator_weighted": numerator, "d_used": d}


def update(
    p: Any,
    g: Any,
    s: Any,
    m: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    decouple: bool,
    use_bias_correction: bool,
    d_used: Any,
) -> tuple[Any, ...]:
    """See the module's equations."""
    g = parts.coupled(p, g, weight_decay, when=not decouple)
    k = rate(lr, d_used, betas, t, use_bias_correction)
    m, v = parts.average(m, k * g, betas[0]), parts.average(v, g * g, betas[1])
    s = parts.average(s, k * g, nm.sqrt(betas[1]))
    u = -m / (nm.sqrt(v) + eps)
    return parts.decoupled(p, u, k, weight_decay, when=decouple), s, m, v


ESTIMATE = {
    "d0": Real(1e-6, low=0, low_open=True, cases=(0.01,), doc="first bound"),
    "growth_rate": parts.growth_rate(1.5),
}

RULE = Rule(
    name="dadapt_adam",
    update=update,
    measure=measure,
    advance=advance,
    # d_used is the d that this step goes by.
    group={
        "d": lambda h: h.d0,
        "numerator_weighted": lambda h: 0.0,
        "d_used": lambda h: h.d0,
    },
    state=("s", "exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1.0, "factor of the bound", cases=(2.0,)),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(doc="weight decay, coupled by default"),
        "decouple": Flag(False, doc="weight decay past the averages, as in AdamW"),
        "use_bias_correction": Flag(False, doc="Adam's bias corrections"),
        **ESTIMATE,
    },
    family="parameter-free",
    year=2023,
    paper="Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation",
    arxiv="2301.07733",
)
