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

from isostep import nm, parts
from isostep.domains import Real
from isostep.rule import Rule


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
    m = parts.average(m, g, betas[0])
    v = parts.average(v, hessian_diag * hessian_diag, betas[1])
    c1, c2 = parts.corrections(betas, t)
    u = -(lr / c1) * m / (nm.pow(parts.root(v, c2), hessian_power) + eps)
    return parts.decoupled(p, u, lr, weight_decay), m, v


RULE = Rule(
    name="adahessian",
    update=update,
    inputs=("hessian_diag",),
    state=("exp_avg", "exp_hessian_diag_sq"),
    hyper={
        "lr": parts.lr(0.15),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-4),
        "weight_decay": parts.weight_decay(),
        "hessian_power": Real(1.0, low=0, high=1, cases=(0.6,), doc="exponent of the denominator"),
    },
    family="second order",
    year=2020,
    paper="Yao et al., ADAHESSIAN: An Adaptive Second Order Optimizer for Machine Learning",
    arxiv="2006.00719",
)
