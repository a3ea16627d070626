"""Adamax: Adam with the largest decayed gradient in place of the root of the average square.

    g <- g + weight_decay * p                       (keras, and with decoupled_weight_decay:
                                                     u <- u - lr * weight_decay * p instead)
    m <- b1 * m + (1 - b1) * g

    torch   n <- max(b2 * n, |g| + eps)             u = -lr / (1 - b1**t) * m / n
    keras   n <- max(b2 * n, |g|)                   u = -lr / (1 - b1**t) * m / (n + eps)

Follows: Kingma, Ba, "Adam: A Method for Stochastic Optimization", arXiv 1412.6980, Algorithm 2.
    optax.adamax and pytorch_optimizer's AdaMax are the torch dialect, TensorFlow's ApplyAdaMax the
    keras one.
Departs:
    - The paper has no eps and divides 0 by 0 where no gradient has come yet. With eps = 0 so does
      this rule, as both do.
    - weight_decay is not in the paper: coupled in torch, decoupled in Keras. decoupled_weight_decay is
      optax.adamaxw and pytorch_optimizer's weight_decouple.
    - MLX's Adamax is the keras formula without the bias correction.
Other defaults: Keras lr 1e-3, eps 1e-7.
lr unit: parameter units per step; no step is much larger than lr.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Flag
from isostep.rule import Rule


def update(
    p: Any,
    g: Any,
    m: Any,
    n: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    decoupled_weight_decay: bool,
    dialect: str,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    b1, b2 = betas
    coupled = dialect == "torch" and not decoupled_weight_decay
    g = parts.coupled(p, g, weight_decay, when=coupled)
    m = parts.average(m, g, b1)
    size = nm.abs(g) + eps if dialect == "torch" else nm.abs(g)
    n = nm.maximum(b2 * n, size)
    u = (-lr / nm.one_minus_pow(b1, t)) * m / (n if dialect == "torch" else n + eps)
    return parts.decoupled(p, u, lr, weight_decay, when=not coupled), m, n


RULE = Rule(
    name="adamax",
    update=update,
    state=("exp_avg", "exp_inf"),
    hyper={
        "lr": parts.lr(2e-3),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(doc="weight decay, coupled but in keras"),
        "decoupled_weight_decay": Flag(False, doc="weight decay past the averages, as in AdamW"),
        "dialect": Choice("torch", options=("torch", "keras"), doc="where eps is added"),
    },
    known_as={"adamaxw": {"decoupled_weight_decay": True}},
    family="adam",
    year=2014,
    paper="Kingma and Ba, Adam: A Method for Stochastic Optimization",
    arxiv="1412.6980",
)
