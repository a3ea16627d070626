"""Adam-Atan2: Adam with an arc tangent in the place of the division, which needs no epsilon.

    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * g**2
    u  = -lr * a * atan2(m / (1 - b1**t), b * sqrt(v / (1 - b2**t))) - lr * weight_decay * p

Follows: Everett et al., "Scaling Exponents Across Parameterizations and Optimizers", arXiv 2407.05872, which has it,
    and lucidrains/adam-atan2-pytorch (AdamAtan2), whose names and defaults these are: a = 1.27 is about 4 / pi, with
    which |m| = sqrt(v) steps by lr.
Departs:
    - weight_decay is times lr, as the package's with decoupled_wd=False; with True it is divided by the first lr, which
      is the piece independent_weight_decay. cautious_factor and regen_reg_rate of the package are not here.
    - The paper's PDF was not read: the formula is the package's.
lr unit: parameter units per step, as Adam. The step does not depend on the gradients' scale at all.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Real
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
    weight_decay: Any,
    a: Any,
    b: Any,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    m, v = parts.moments(g, m, v, betas)
    c1, c2 = parts.corrections(betas, t)
    # Of nothing the angle is 0 beside any number, and beside one that is not zero it has a derivative.
    beside = nm.where(nm.logical_and(m == 0, v == 0), 1.0, b * parts.root(v, c2))
    u = (-lr * a) * nm.atan2(m / c1, beside)
    return parts.decoupled(p, u, lr, weight_decay), m, v


RULE = Rule(
    name="adam_atan2",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-4),
        "betas": parts.betas(0.9, 0.99),
        "weight_decay": parts.weight_decay(),
        "a": Real(1.27, low=0, doc="factor of the angle"),
        "b": Real(1.0, low=0, low_open=True, cases=(1.6,), doc="factor of the root"),
    },
    family="adam",
    year=2024,
    paper="Everett et al., Scaling Exponents Across Parameterizations and Optimizers",
    arxiv="2407.05872",
)
