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

from isostep import nm, parts
from isostep.domains import Flag, Real
from isostep.rule import Rule


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
    g = parts.coupled(p, g, weight_decay)
    m, v = parts.moments(g, m, v, betas)
    c1, c2 = parts.corrections(betas, t)
    size, tops = parts.largest(v, tops)
    rate = (lr * nm.sqrt(c2) / c1) / (nm.sqrt(size) + eps)
    low = final_lr * (1 - 1 / (gamma * t + 1))
    high = final_lr * (1 + 1 / (gamma * t))
    return -nm.clip(rate, low, high) * m, m, v, *tops


RULE = Rule(
    name="adabound",
    update=update,
    state=lambda h: ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if h.amsbound else ())),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.9, 0.999),
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
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
        "amsbound": Flag(False, doc="divide by the largest average of squares so far"),
    },
    known_as={"amsbound": {"amsbound": True}},
    family="adam",
    year=2019,
    paper="Luo et al., Adaptive Gradient Methods with Dynamic Bound of Learning Rate",
    arxiv="1902.09843",
)
