"""NAdam: Adam with Nesterov momentum. Four rules have this name.

    g <- g + weight_decay * p                       u <- u - lr * weight_decay * p instead in keras
    m <- b1 * m + (1 - b1) * g                      and with decoupled_weight_decay
    v <- b2 * v + (1 - b2) * g**2                   c1(t) = 1 - b1**t, c2 = 1 - b2**t

    torch   mu(t) = b1 * (1 - 0.5 * 0.96**(t * momentum_decay))
            M <- M * mu(t)                          group state of torch and keras, from 1: the
                                                    product mu(1) * ... * mu(t)
            d = mu(t + 1) * m / (1 - M * mu(t + 1)) + (1 - mu(t)) * g / (1 - M)
            u = -lr * d / (sqrt(v / c2) + eps)
    keras   as torch, with momentum_decay = 1
    optax   d = b1 * m / c1(t + 1) + (1 - b1) * g / c1(t)
            u = -lr * d / (sqrt(v / c2) + eps)
    tf1     u = -lr * sqrt(c2) / c1(t) * (b1 * m + (1 - b1) * g) / (sqrt(v) + eps)

Follows: Dozat, "Incorporating Nesterov Momentum into Adam", ICLR 2016 workshop, Algorithm 2, with
    the schedule of mu that it recommends (torch.optim.NAdam, Keras's Nadam); the same algorithm
    with a constant mu (optax.nadam, and optax.nadamw with decoupled_weight_decay); TensorFlow's ApplyAdam with
    use_nesterov (tf1).
Departs:
    - The paper bounds m by the product of mu and by that of t + 1 as torch does; its m averages with
      mu(t), every implementation's with b1.
    - momentum_decay is psi of the schedule, 4e-3 in Dozat's report and torch, 1 in Keras (written
      0.96**t). Only torch's dialect reads it.
    - M belongs to the group, as in Keras: a parameter that joined late or missed a step has the M
      of the others. torch keeps one for each parameter, in float32 unless float64 is the default.
    - timm's NAdamW and MLCommons have tf1's formula with eps outside of the correction.
    - weight_decay is not in the paper. TensorFlow's and optax's have none; coupled there.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Flag, Real
from isostep.rule import Rule

DIALECTS = ("torch", "keras", "optax", "tf1")
SCHEDULED = ("torch", "keras")


def momentum(t: Any, b1: Any, momentum_decay: Any, dialect: str) -> Any:
    """Dozat's schedule mu(t), which rises from about half of b1 to b1."""
    exponent = t * momentum_decay if dialect == "torch" else t
    return b1 * (1 - 0.5 * nm.pow(0.96, exponent))


def advance(
    sums: Mapping[str, Any],
    group: Mapping[str, Any],
    t: int,
    /,
    *,
    betas: Any,
    momentum_decay: Any,
    dialect: str,
) -> dict[str, Any]:
    """The product of all mu so far."""
    return {"mu_product": group["mu_product"] * momentum(t, betas[0], momentum_decay, dialect)}


def ahead(g: Any, m: Any, t: Any, b1: Any) -> Any:
    """The mix with a constant momentum: the corrected m of the next step, as far as this one knows it."""
    return (b1 / nm.one_minus_pow(b1, t + 1)) * m + ((1 - b1) / nm.one_minus_pow(b1, t)) * g


def direction(
    g: Any, m: Any, t: Any, *, b1: Any, momentum_decay: Any, mu_product: Any, dialect: str
) -> Any:
    """The mix of gradient and momentum that is divided by the root."""
    if dialect == "tf1":
        return (b1 * m + (1 - b1) * g) / nm.one_minus_pow(b1, t)
    if dialect == "optax":
        return ahead(g, m, t, b1)
    now, after = (momentum(n, b1, momentum_decay, dialect) for n in (t, t + 1))
    return (after / (1 - mu_product * after)) * m + ((1 - now) / (1 - mu_product)) * g


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
    momentum_decay: Any,
    decoupled_weight_decay: bool,
    dialect: str,
    mu_product: Any = None,
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    decoupled = decoupled_weight_decay or dialect == "keras"
    g = parts.coupled(p, g, weight_decay, when=not decoupled)
    m, v = parts.moments(g, m, v, betas)
    d = direction(
        g,
        m,
        t,
        b1=betas[0],
        momentum_decay=momentum_decay,
        mu_product=mu_product,
        dialect=dialect,
    )
    root = nm.sqrt(nm.one_minus_pow(betas[1], t))
    if dialect == "tf1":
        u = (-lr * root) * d / denominator(nm.sqrt(v) + eps)
    else:
        u = -lr * d / denominator(nm.sqrt(v) / root + eps)
    return parts.decoupled(p, u, lr, weight_decay, when=decoupled), m, v


RULE = Rule(
    name="nadam",
    update=update,
    advance=advance,
    group=lambda h: {"mu_product": lambda h: 1.0} if h.dialect in SCHEDULED else {},
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(2e-3),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(doc="weight decay, coupled but in keras"),
        "momentum_decay": Real(
            4e-3, low=0, cases=(0.3,), doc="how fast the momentum rises to betas[0] (torch only)"
        ),
        "decoupled_weight_decay": Flag(False, doc="weight decay past the averages, as in AdamW"),
        "dialect": Choice("torch", options=DIALECTS, doc="whose formula"),
    },
    known_as={"nadamw": {"dialect": "optax", "decoupled_weight_decay": True}},
    family="adam",
    year=2016,
    paper="Dozat, Incorporating Nesterov Momentum into Adam",
)
