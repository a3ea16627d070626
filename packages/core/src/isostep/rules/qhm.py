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

from isostep import parts
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
    g = parts.coupled(p, g, weight_decay, when=coupled)
    b = parts.average(b, g, momentum)
    u = -lr * parts.average(b, g, nu)
    return parts.decoupled(p, u, lr, weight_decay, when=not coupled), b


RULE = Rule(
    name="qhm",
    update=update,
    state=("momentum_buffer",),
    hyper={
        "lr": parts.lr(1e-3),
        "momentum": parts.decay_rate(0.999),
        "nu": Real(0.7, low=0, high=1, doc="weight of the average beside the gradient"),
        "weight_decay": parts.weight_decay(doc="weight decay"),
        "weight_decay_type": Choice(
            "grad", options=("grad", "direct"), doc="coupled (L2 penalty) or decoupled"
        ),
    },
    family="sgd",
    year=2018,
    paper="Ma and Yarats, Quasi-hyperbolic momentum and Adam for deep learning",
    arxiv="1810.06801",
)
