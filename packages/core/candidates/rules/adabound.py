"""AdaBound: Adam whose rate per element is clipped between bounds that close in on SGD's.

    g <- g + weight_decay * p
    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * g**2                   c1 = 1 - b1**t, c2 = 1 - b2**t
    rate = clip(lr * sqrt(c2) / c1 / (sqrt(v) + eps), low, high)
    low  = final_lr * (1 - 1 / (gamma * t + 1))     high = final_lr * (1 + 1 / (gamma * t))
    u    = -rate * m

With amsbound the largest v so far is used for v.

Follows: Luo, Xiong, Liu, Sun, "Adaptive Gradient Methods with Dynamic Bound of Learning Rate", arXiv
    1902.09843, Algorithm 2, and the authors' package adabound. torch-optimizer agrees.
Departs:
    - The paper divides the clipped rate by sqrt(t) for its proof; no implementation does.
    - eps and bias corrections (with Adam's eps hat) are the package's, not the paper's, as is
      gamma, for the paper's 1 - b2.
    - The package multiplies final_lr by lr / (the first lr), so that a schedule of lr moves the
      bounds too. Here final_lr is what it is told; give it a schedule of its own for that.
    - weight_decay is coupled, as in the package (its AdamW form is called adaboundw).
    - pytorch_optimizer adds 1e-15 under the root.
lr unit: parameter units per step at first; final_lr unit: parameter units per gradient unit.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Flag, Real
from isostep.rule import Rule
from isostep.rules import adam


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    /,
    *top_t: Any,
    lr: Any,
    betas: tuple[Any, Any],
    final_lr: Any,
    gamma: Any,
    eps: Any,
    weight_decay: Any,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *tops, t = top_t
    if weight_decay:
        g = g + weight_decay * p
    m, v = adam.moments(g, m, v, betas)
    # A momentum of one leaves Adam's rate alone, with the sign of a step.
    step, top = adam.keras_step(1.0, v, tops[0] if tops else None, t, lr=lr, betas=betas, eps=eps)
    low = final_lr * (1 - 1 / (gamma * t + 1))
    high = final_lr * (1 + 1 / (gamma * t))
    u = -nm.clip(-step, low, high) * m
    return (u, m, v, top) if tops else (u, m, v)


RULE = Rule(
    name="adabound",
    update=update,
    state=lambda h: ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if h.amsbound else ())),
    hyper={
        **{n: adam.RULE.hyper[n] for n in ("lr", "betas")},
        "final_lr": Real(0.1, low=0, cases=(0.05,), doc="the rate that both bounds close in on"),
        "gamma": Real(
            1e-3,
            low=0,
            high=1,
            low_open=True,
            high_open=True,
            cases=(0.2,),
            doc="how fast the bounds close in",
        ),
        "eps": adam.RULE.hyper["eps"],
        "weight_decay": Real(
            0.0, low=0, zero_is_static=True, cases=(0.1,), doc="coupled weight decay (L2 penalty)"
        ),
        "amsbound": Flag(False, doc="divide by the largest average of squares so far"),
    },
    family="adam",
    year=2019,
    paper="Luo et al., Adaptive Gradient Methods with Dynamic Bound of Learning Rate",
    arxiv="1902.09843",
)
