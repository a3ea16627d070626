"""SWATS: Adam until the learning rate that SGD would need has settled, then SGD with that rate.

    g <- g + weight_decay * p
    while Adam steps                                c1 = 1 - b1**t, c2 = 1 - b2**t
        m <- b1 * m + (1 - b1) * g
        v <- b2 * v + (1 - b2) * g**2
        u  = -lr * sqrt(c2) / c1 * m / (sqrt(v) + eps)
        r  = <u, u> / -<u, g>                       over all parameters of the group
        a <- b2 * a + (1 - b2) * r                  group state; a stays where <u, g> is 0
        if t > 1 and |a / c2 - r| < threshold:      SGD steps from t + 1 on, with R = a / c2
            m <- 0
    when SGD steps
        m <- b1 * m + g
        u  = -(1 - b1) * R * m

    phase (group state): 0 Adam, 1 the step that decides on the switch, 2 SGD.

Follows: Keskar, Socher, "Improving Generalization Performance by Switching from Adam to SGD", arXiv
    1712.07628, Algorithm 1; ensmallen's SWATSUpdate reads it the same way, but for where eps is.
Departs:
    - threshold is a number of its own; in the paper it is Adam's eps, 1e-9.
    - One array serves as m in both phases, and nothing of Adam is kept up to date after the switch.
    - weight_decay, coupled, is not in the algorithm; torch-optimizer and pytorch_optimizer have it.
    - Both packages take r for each array by itself and switch the whole group with the rate of the
      last array that has settled, at |a / c2 - r| <= 1e-8 + rtol * |r| (rtol is 1e-6, and eps) and
      only where a > 0. torch-optimizer then multiplies its momentum by 1 - b1 at every step.
      Their nesterov and amsgrad are left out.
    - <u, g> may be positive (u follows m, not g), so r and R may be negative, as in the paper.
    - lr has no say after the switch, schedules included.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.rule import Rule
from isostep.rules import adam


def measure(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
) -> Mapping[str, Any]:
    """The products of Adam's step with itself and with the gradient."""
    g = parts.coupled(p, g, weight_decay)
    u, _, _ = adam.step(g, m, v, t, lr=lr, betas=betas, eps=eps, dialect="keras")
    return {"uu": u * u, "ug": u * g}


def advance(
    sums: Mapping[str, Any],
    group: Mapping[str, Any],
    t: int,
    /,
    *,
    betas: tuple[Any, Any],
    threshold: Any,
) -> dict[str, Any]:
    """The average of SGD's rate, and whether it has settled; all of it stays after the switch."""
    phase, average = group["phase"], group["exp_avg_lr"]
    flat = sums["ug"] == 0
    rate = -sums["uu"] / nm.where(flat, 1.0, sums["ug"])
    moved = nm.where(flat, average, parts.average(average, rate, betas[1]))
    corrected = moved / nm.one_minus_pow(betas[1], t)
    near = nm.logical_and(nm.abs(corrected - rate) < threshold, nm.logical_not(flat))
    settled = nm.where(nm.logical_and(near, t > 1), 1.0, 0.0)
    return {
        "phase": nm.where(phase > 0, 2.0, settled),
        "exp_avg_lr": nm.where(phase > 0, average, moved),
        "sgd_lr": nm.where(phase > 0, group["sgd_lr"], settled * corrected),
    }


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
    eps: Any,
    weight_decay: Any,
    phase: Any,
    sgd_lr: Any,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    g = parts.coupled(p, g, weight_decay)
    u, mean, square = adam.step(g, m, v, t, lr=lr, betas=betas, eps=eps, dialect="keras")
    momentum = betas[0] * m + g
    sgd = phase > 1
    u = nm.where(sgd, (betas[0] - 1) * sgd_lr * momentum, u)
    m = nm.where(sgd, momentum, nm.where(phase > 0, 0.0, mean))
    return u, m, nm.where(sgd, v, square)


RULE = Rule(
    name="swats",
    update=update,
    measure=measure,
    advance=advance,
    group={"phase": lambda h: 0.0, "exp_avg_lr": lambda h: 0.0, "sgd_lr": lambda h: 0.0},
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-3, "learning rate until the switch"),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-9),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
        "threshold": Real(
            1e-9,
            low=0,
            cases=(2.68e-4, 2e-3),
            doc="SGD takes over where its rate has settled to within this",
        ),
    },
    family="adam",
    year=2017,
    paper="Keskar and Socher, Improving Generalization Performance by Switching from Adam to SGD",
    arxiv="1712.07628",
)
