"""Sophia: momentum over an average of the Hessian's diagonal, each element's step clipped.

    m <- b1 * m + (1 - b1) * g
    h <- b2 * h + (1 - b2) * hessian_diag           where t - 1 is a multiple of update_period
    d  = m / max(gamma * h, eps)
    u  = -lr * min(max(d, -1), 1) - lr * weight_decay * p

Follows: Liu, Li, Hall, Liang, Ma, "Sophia: A Scalable Stochastic Second-order Optimizer for Language
    Model Pre-training", arXiv 2305.14342, Algorithm 3. pytorch_optimizer's SophiaH has the factor
    gamma in the bounds instead of the denominator: its p is gamma, its lr is lr / gamma, its eps is
    eps / gamma.
Departs:
    - hessian_diag comes in, one array like p for each parameter; it is read only at the steps that
      use it. Algorithm 1 (Hutchinson) or 2 (Gauss-Newton-Bartlett) makes it, not the rule.
    - The authors' code (Liuhong99/Sophia) adds 1e-12 or 1e-15 to the denominator instead of
      taking the larger, and its SophiaH corrects the bias of m, which the paper does not.
    - optax.contrib.sophia corrects the bias of m by default.
    - Where gamma * h is below eps, also where it is negative, the step is almost always lr: the
      sign of m, as the paper intends.
lr unit: parameter units per step; no step is larger than lr.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Integer, Real
from isostep.rule import Rule


def phase(t: int, /, *, update_period: int) -> bool:
    """Whether this step takes the Hessian's diagonal into its average."""
    return (t - 1) % update_period == 0


def update(
    p: Any,
    g: Any,
    hessian_diag: Any,
    m: Any,
    h: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    gamma: Any,
    eps: Any,
    weight_decay: Any,
    phase: bool,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    b1, b2 = betas
    m = parts.average(m, g, b1)
    if phase:
        h = parts.average(h, hessian_diag, b2)
    u = -lr * nm.clip(m / nm.maximum(gamma * h, eps), -1.0, 1.0)
    return parts.decoupled(p, u, lr, weight_decay), m, h


RULE = Rule(
    name="sophia",
    update=update,
    phase=phase,
    inputs=("hessian_diag",),
    state=("exp_avg", "hessian"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(
            0.96,
            0.99,
            doc="decay rates of the running averages of the gradient and of the Hessian's diagonal",
        ),
        "gamma": Real(0.01, low=0, doc="factor of the Hessian: the smaller, the more is clipped"),
        "eps": parts.eps(1e-12, "smallest denominator"),
        "weight_decay": parts.weight_decay(),
        "update_period": Integer(
            10, low=1, cases=(3, 1), doc="steps between two readings of the Hessian's diagonal"
        ),
    },
    family="second order",
    year=2023,
    paper="Liu et al., Sophia: A Scalable Stochastic Second-order Optimizer",
    arxiv="2305.14342",
)
