"""KATE: AdaGrad without its root, times the root of a second sum, so that the scale of a feature cancels.

    b <- b + g**2
    d  = b + eps
    m <- m + eta * g**2 + g**2 / d
    u  = -lr * sqrt(m) * g / d - lr * weight_decay * p

Follows: Choudhury, Tupitsa, Loizou, Horvath, Takac, Gorbunov, "Remove that Square Root: A New Efficient
    Scale-Invariant Version of AdaGrad", arXiv 2403.02648, where b and m are called b_t**2 and m_t**2, and the
    authors' code nazya/KATE, codes/optimizers.py, whose names, state and eps these are.
Departs:
    - lr, eta and eps have to be given there; their defaults here are those of its comment.
    - weight_decay is in neither. It is decoupled, as by default in pytorch_optimizer.
    - Where g / d is zero so is u: after a sum that has overflowed, the authors' code has infinity times zero.
    - eps has to be positive; there it may be 0, and 0 / 0 follow.
    - pytorch_optimizer adds eps to b itself, once in every step, so that they agree without eps; eta is delta there.
lr unit: parameter units per step, as AdaGrad, of the part of eta; times a gradient unit, of the other.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.rule import Rule


def update(
    p: Any, g: Any, m: Any, b: Any, t: int, /, *, lr: Any, eta: Any, eps: Any, weight_decay: Any
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    square = g * g
    b = b + square
    q = g / (b + eps)
    m = m + (eta * square + g * q)
    # A sum that is infinite leaves nothing of q.
    u = nm.where(q == 0, 0.0, (-lr * nm.sqrt(m)) * q)
    return parts.decoupled(p, u, lr, weight_decay), m, b


RULE = Rule(
    name="kate",
    update=update,
    state=("m", "b"),
    hyper={
        "lr": parts.lr(1e-3),
        "eta": Real(0.9, low=0, doc="weight of the plain squares in the sum m"),
        "eps": parts.eps(1e-8, "added to the sum that g is divided by", low_open=True),
        "weight_decay": parts.weight_decay(),
    },
    family="adaptive",
    year=2024,
    paper="Choudhury et al., Remove that Square Root",
    arxiv="2403.02648",
)
