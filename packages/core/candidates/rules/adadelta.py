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

from isostep import nm
from isostep.domains import Real
from isostep.rule import Rule


def update(
    p: Any, g: Any, v: Any, a: Any, t: int, /, *, lr: Any, rho: Any, eps: Any, weight_decay: Any
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    if weight_decay:
        g = g + weight_decay * p
    v = rho * v + (1 - rho) * (g * g)
    d = nm.sqrt(a + eps) / nm.sqrt(v + eps) * g
    return -lr * d, v, rho * a + (1 - rho) * (d * d)


RULE = Rule(
    name="adadelta",
    update=update,
    state=("square_avg", "acc_delta"),
    hyper={
        "lr": Real(1.0, low=0, doc="factor of the step"),
        "rho": Real(0.9, low=0, high=1, doc="decay rate of both running averages"),
        "eps": Real(1e-6, low=0, cases=(1e-3,), doc="added inside both roots"),
        "weight_decay": Real(
            0.0, low=0, zero_is_static=True, cases=(0.1,), doc="coupled weight decay (L2 penalty)"
        ),
    },
    family="adaptive",
    year=2012,
    paper="Zeiler, ADADELTA: An Adaptive Learning Rate Method",
    arxiv="1212.5701",
)
