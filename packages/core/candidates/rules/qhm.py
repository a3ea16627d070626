"""QHM: a weighted mean of plain SGD and SGD with momentum.

    g <- g + weight_decay * p                       grad;  direct: u <- u - lr * weight_decay * p
    b <- momentum * b + (1 - momentum) * g
    u  = -lr * (nu * b + (1 - nu) * g)

Follows: Ma, Yarats, "Quasi-hyperbolic momentum and Adam for deep learning", arXiv 1810.06801,
    equations 3 and 4, and the authors' package qhoptim. pytorch_optimizer and torch-optimizer
    agree.
Departs:
    - lr, momentum and nu are required arguments in qhoptim; here they have torch's and the paper's
      recommended values.
    - weight_decay is qhoptim's, of both types.
Special cases: nu = 0 is SGD, nu = momentum is Nesterov's momentum, nu = 1 is an average (SGD with
dampening = momentum).
lr unit: parameter units per gradient unit.
"""

from __future__ import annotations

from typing import Any

from isostep.domains import Choice, Real
from isostep.rule import Rule


def update(
    p: Any,
    g: Any,
    b: Any,
    t: int,
    /,
    *,
    lr: Any,
    momentum: Any,
    nu: Any,
    weight_decay: Any,
    weight_decay_type: str,
) -> tuple[Any, Any]:
    """See the module's equations."""
    coupled = weight_decay_type == "grad"
    if weight_decay and coupled:
        g = g + weight_decay * p
    b = momentum * b + (1 - momentum) * g
    u = -lr * (nu * b + (1 - nu) * g)
    return (u - (lr * weight_decay) * p if weight_decay and not coupled else u), b


RULE = Rule(
    name="qhm",
    update=update,
    state=("momentum_buffer",),
    hyper={
        "lr": Real(1e-3, low=0, doc="learning rate"),
        "momentum": Real(
            0.999, low=0, high=1, high_open=True, doc="decay rate of the running average"
        ),
        "nu": Real(0.7, low=0, high=1, doc="weight of the average beside the gradient"),
        "weight_decay": Real(0.0, low=0, zero_is_static=True, cases=(0.1,), doc="weight decay"),
        "weight_decay_type": Choice(
            "grad", options=("grad", "direct"), doc="coupled (L2 penalty) or decoupled"
        ),
    },
    family="sgd",
    year=2018,
    paper="Ma and Yarats, Quasi-hyperbolic momentum and Adam for deep learning",
    arxiv="1810.06801",
)
