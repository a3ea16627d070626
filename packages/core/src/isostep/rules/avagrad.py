"""AvaGrad: Adam with last step's squares, and lr apart from how unequal the elements' rates are.

    g <- g + weight_decay * p                       decoupled: u <- u - lr * weight_decay * p instead
    m <- b1 * m + (1 - b1) * g                      c1 = 1 - b1**t
    rate = 1 / (sqrt(v / c2(t - 1)) + eps)          the old v; c2(t) = 1 - b2**t
    u  = -lr * gamma / c1 * m * rate                0 at t = 1, the decoupled decay too
    v <- b2 * v + (1 - b2) * g**2

    paper    gamma = 1 / sqrt(mean of rate**2 over the group)
    authors  as paper, but of the step before, and with c2(t - 1) there for its c2(t - 2)

Follows: Savarese, McAllester, Babu, Maire, "Domain-independent Dominance of Adaptive Methods", arXiv
    1912.01823, Algorithm 2 (paper), and the authors' code lolemacs/avagrad, optimizers.py
    (authors). pytorch_optimizer's AvaGrad is the authors' dialect.
Departs:
    - The paper has no bias corrections; both dialects have the authors'.
    - Nothing is known at t = 1, where the authors' code makes no step; so in both dialects.
    - weight_decay is the authors' code's: their AvaGradW is decoupled=True.
lr unit: parameter units per step, for elements of the common rate; eps unit: gradient units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Flag, Real
from isostep.rule import Rule


def denominator(v: Any, t: Any, b2: Any, eps: Any) -> Any:
    """The root of v without its bias at step t, plus eps."""
    return parts.root(v, nm.one_minus_pow(b2, t)) + eps


def before(t: Any) -> Any:
    """The number of the step before; at t = 1, where nothing comes of it, 1."""
    return nm.maximum(t - 1, 1)


def measure(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    t: int,
    /,
    *,
    betas: tuple[Any, Any],
    eps: Any,
    dialect: str,
) -> Mapping[str, Any]:
    """The squared rates, and the elements: a power of zero counts every one of them, NaN too."""
    d = denominator(v, t if dialect == "authors" else before(t), betas[1], eps)
    return {"squares": 1 / (d * d), "count": nm.pow(g, 0.0)}


def advance(
    sums: Mapping[str, Any], group: Mapping[str, Any], t: int, /, *, dialect: str
) -> dict[str, Any]:
    """This step's gamma; the authors' dialect goes by the one before."""
    new = 1 / nm.sqrt(sums["squares"] / sums["count"])
    return {"gamma": new, "gamma_used": group["gamma"] if dialect == "authors" else new}


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    decoupled: bool,
    gamma_used: Any,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    g = parts.coupled(p, g, weight_decay, when=not decoupled)
    rooted = denominator(v, before(t), betas[1], eps)
    m, v = parts.moments(g, m, v, betas)
    u = -(lr * gamma_used / nm.one_minus_pow(betas[0], t)) * m / rooted
    u = parts.decoupled(p, u, lr, weight_decay, when=decoupled)
    return nm.where(t > 1, u, 0.0), m, v


RULE = Rule(
    name="avagrad",
    update=update,
    measure=measure,
    advance=advance,
    group={"gamma": lambda h: 0.0, "gamma_used": lambda h: 0.0},
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(0.1),
        "betas": parts.betas(0.9, 0.999),
        "eps": Real(0.1, low=0, low_open=True, doc="added to the root: smaller is more adaptive"),
        "weight_decay": parts.weight_decay(doc="weight decay, coupled by default"),
        "decoupled": Flag(False, doc="weight decay past the average, as in AdamW"),
        "dialect": Choice("authors", options=("authors", "paper"), doc="which step's gamma"),
    },
    family="adam",
    year=2019,
    paper="Savarese et al., Domain-independent Dominance of Adaptive Methods",
    arxiv="1912.01823",
)
