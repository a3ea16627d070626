"""AdaHessian: Adam that squares an estimate of the Hessian's diagonal instead of the gradient.

    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * hessian_diag**2
    d  = (sqrt(v / (1 - b2**t)))**hessian_power + eps
    u  = -lr * (m / (1 - b1**t) / d + weight_decay * p)

Follows: Yao, Gholami, Shen, Mustafa, Keutzer, Mahoney, "ADAHESSIAN: An Adaptive Second Order
    Optimizer for Machine Learning", arXiv 2006.00719, Algorithm 1 with its equation for m and v,
    and the authors' code amirgholami/adahessian, optim_adahessian.py.
Departs:
    - hessian_diag comes in, one array like p for each parameter. Its estimate (Hutchinson's: v *
      (H v) with random signs v) and the paper's spatial averaging of it belong to the estimator,
      not to the rule. The authors' optimizer does both inside, and averages absolute values.
    - eps (authors' code, after the power) and decoupled weight decay times lr (authors' code) are
      not in the paper's Algorithm 1.
lr unit: dimensionless at hessian_power 1 (a Newton step is lr 1).
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Real
from isostep.rule import Rule
from isostep.rules import adam


def update(
    p: Any,
    g: Any,
    hessian_diag: Any,
    m: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    hessian_power: Any,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    b1, b2 = betas
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * (hessian_diag * hessian_diag)
    c1, c2 = nm.one_minus_pow(b1, t), nm.one_minus_pow(b2, t)
    d = nm.pow(nm.sqrt(v) / nm.sqrt(c2), hessian_power) + eps
    u = -(lr / c1) * m / d
    return (u - (lr * weight_decay) * p if weight_decay else u), m, v


RULE = Rule(
    name="adahessian",
    update=update,
    inputs=("hessian_diag",),
    state=("exp_avg", "exp_hessian_diag_sq"),
    hyper={
        "lr": Real(0.15, low=0, doc="learning rate"),
        "betas": adam.RULE.hyper["betas"],
        "eps": Real(1e-4, low=0, cases=(1e-3,), doc="added to the denominator"),
        "weight_decay": Real(
            0.0, low=0, zero_is_static=True, cases=(0.1,), doc="decoupled weight decay"
        ),
        "hessian_power": Real(1.0, low=0, high=1, cases=(0.6,), doc="exponent of the denominator"),
    },
    family="second order",
    year=2020,
    paper="Yao et al., ADAHESSIAN: An Adaptive Second Order Optimizer for Machine Learning",
    arxiv="2006.00719",
)
