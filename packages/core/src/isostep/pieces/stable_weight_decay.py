"""Stable weight decay: decoupled decay divided by the root of the mean second moment of all gradients.

    v     <- beta2 * v + (1 - beta2) * g**2                       per element, its own average
    v_bar  = mean of v over the group / (1 - beta2**t)
    u     <- u - lr * weight_decay / (sqrt(v_bar) + eps) * p      after the rule

Follows: Xie, Sato, Sugiyama, "On the Overlooked Pitfalls of Weight Decay and How to Mitigate Them", arXiv
    2011.11152, the decay of AdamS. Behind adam with the same beta2 it is
    pytorch_optimizer's AdamS.
Departs:
    - The average is the piece's own, so that it stands behind any rule; behind Adam it repeats
      Adam's, at the cost of that memory.
    - eps, which the paper's formula lacks, is added as pytorch_optimizer adds it; 0 gives the paper.
    - The mean is over the parameter group.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Real
from isostep.rule import Piece


def measure(p: Any, g: Any, exp_avg_sq: Any, t: int, /, *, beta2: Any) -> dict[str, Any]:
    """What the mean is taken of, and how many there are of it."""
    return {"second_moment": _moved(exp_avg_sq, g, beta2), "count": 0.0 * g + 1.0}


def after(
    p: Any,
    g: Any,
    u: Any,
    exp_avg_sq: Any,
    t: int,
    /,
    *,
    weight_decay: Any,
    beta2: Any,
    eps: Any,
    lr: Any,
    second_moment: Any,
    count: Any,
) -> Any:
    """See the module's equations."""
    mean = second_moment / count / nm.one_minus_pow(beta2, t)
    return u - (lr * weight_decay / (nm.sqrt(mean) + eps)) * p, _moved(exp_avg_sq, g, beta2)


def _moved(v: Any, g: Any, beta2: Any) -> Any:
    return beta2 * v + (1 - beta2) * (g * g)


PIECE = Piece(
    name="stable_weight_decay",
    measure=measure,
    after=after,
    state=("exp_avg_sq",),
    hyper={
        "weight_decay": Real(low=0, cases=(0.1,), doc="fraction of p, per lr and root of v_bar"),
        "beta2": Real(0.999, low=0, high=1, high_open=True, cases=(0.9,), doc="decay of v"),
        "eps": Real(1e-8, low=0, cases=(0.01,), doc="added to the root"),
    },
    family="decay",
    year=2020,
    paper="Xie et al., On the Overlooked Pitfalls of Weight Decay and How to Mitigate Them",
    arxiv="2011.11152",
)
