"""QHAdam: Adam with both averages mixed with what they average.

    g <- g + weight_decay * p                       or u <- u - lr * weight_decay * p
    m <- m + (1 - b1) / (1 - b1**t) * (g - m)       the bias-corrected averages themselves
    v <- v + (1 - b2) / (1 - b2**t) * (g**2 - v)
    u  = -lr * (n1 * m + (1 - n1) * g) / (sqrt(n2 * v + (1 - n2) * g**2) + eps)

Follows: Ma, Yarats, "Quasi-hyperbolic momentum and Adam for deep learning", arXiv 1810.06801,
    equations 10 to 14, and the authors' package qhoptim. torch-optimizer and pytorch_optimizer
    agree.
Departs:
    - The state holds corrected averages, as in qhoptim, whose weights are sums 1 + b + b**2 ...;
      here they are taken from t: the same while betas are constant.
    - pytorch_optimizer keeps those weights in float32.
    - weight_decay is qhoptim's: coupled, or decoupled.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Pair, Real
from isostep.rule import Rule


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
    nus: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    decouple_weight_decay: bool,
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    n1, n2 = nus
    g = parts.coupled(p, g, weight_decay, when=not decouple_weight_decay)
    square = g * g
    m, v = parts.corrected(m, g, betas[0], t), parts.corrected(v, square, betas[1], t)
    u = -lr * parts.average(m, g, n1) / denominator(nm.sqrt(parts.average(v, square, n2)) + eps)
    return parts.decoupled(p, u, lr, weight_decay, when=decouple_weight_decay), m, v


RULE = Rule(
    name="qhadam",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.9, 0.999),
        "nus": Pair(
            Real(1.0, low=0, high=1, cases=(0.7,)),
            Real(1.0, low=0, high=1, cases=(0.8,)),
            doc="weights of the averages beside the gradient and its square",
        ),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(doc="weight decay, coupled by default"),
        "decouple_weight_decay": Flag(False, doc="weight decay past the averages, as in AdamW"),
    },
    family="adam",
    year=2018,
    paper="Ma and Yarats, Quasi-hyperbolic momentum and Adam for deep learning",
    arxiv="1810.06801",
)
