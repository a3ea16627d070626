"""Adadelta: steps as large as the steps before them, relative to the gradients before them.

    g <- g + weight_decay * p
    v <- rho * v + (1 - rho) * g**2
    d  = sqrt(a + eps) / sqrt(v + eps) * g
    a <- rho * a + (1 - rho) * d**2
    u  = -lr * d

Follows: Zeiler, "ADADELTA: An Adaptive Learning Rate Method", arXiv 1212.5701, Algorithm 1.
    torch.optim.Adadelta, optax.adadelta, Keras's Adadelta and TensorFlow's ApplyAdadelta agree.
Departs:
    - lr is not in the paper, whose rule has lr = 1. As in all four, a is averaged from the step
      before lr is applied.
    - weight_decay is not in the paper; coupled, as in torch and optax. Keras's argument of that
      name is decoupled.
Other defaults: Keras lr 1e-3, rho 0.95, eps 1e-7.
lr unit: a factor; the step itself already has the parameter's unit.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.rule import Rule


def update(
    p: Any, g: Any, v: Any, a: Any, t: int, /, *, lr: Any, rho: Any, eps: Any, weight_decay: Any
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    g = parts.coupled(p, g, weight_decay)
    v = parts.average(v, g * g, rho)
    d = nm.sqrt(a + eps) / nm.sqrt(v + eps) * g
    return -lr * d, v, parts.average(a, d * d, rho)


RULE = Rule(
    name="adadelta",
    update=update,
    state=("square_avg", "acc_delta"),
    hyper={
        "lr": parts.lr(1.0, "factor of the step"),
        "rho": Real(0.9, low=0, high=1, doc="decay rate of both running averages"),
        "eps": parts.eps(1e-6, "added inside both roots"),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
    },
    family="adaptive",
    year=2012,
    paper="Zeiler, ADADELTA: An Adaptive Learning Rate Method",
    arxiv="1212.5701",
)
