"""MARS: Adam or Lion on a gradient corrected by its change since the last step.

    c  = g + gamma * b1 / (1 - b1) * (g - g_prev)   g_prev starts at zero (authors), at g (timm)
    c <- c / max(1, |c|)                            the norm of the whole array
    m <- b1 * m + (1 - b1) * c

    adamw   v <- b2 * v + (1 - b2) * c**2           c1 = 1 - b1**t, c2 = 1 - b2**t
            u = -lr / c1 * m / (sqrt(v / c2) + eps) - lr * weight_decay * p
    lion    u = -lr * sign(m) - lr * weight_decay * p

Follows: Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training
    Large Models", arXiv 2411.10438, Algorithms 2 (MARS-AdamW) and 3 (MARS-Lion) in their
    approximate form, in which g_prev is the last step's own gradient; the authors' code
    AGI-Arena/MARS, mars.py, with is_approx=True. timm's Mars and pytorch_optimizer's MARS agree,
    timm in its own dialect.
Departs:
    - At t = 1 the paper's two points are the same, so that c = g; timm does that. The authors'
      code starts g_prev at zero, which makes the first c larger by 1 + gamma * b1 / (1 - b1).
    - The authors' code takes AdamW with its own lr and betas for all that is not a matrix: put
      that in a group of its own. The shampoo type and is_approx=False (a second gradient) are
      left out.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Real
from isostep.rule import Rule
from isostep.rules import adam


def update(
    p: Any,
    g: Any,
    previous: Any,
    m: Any,
    /,
    *v_t: Any,
    lr: Any,
    betas: tuple[Any, Any],
    gamma: Any,
    eps: Any,
    weight_decay: Any,
    mars_type: str,
    dialect: str,
    denominator: Any = parts.same,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *v, t = v_t
    b1, _ = betas
    factor = gamma * (b1 / (1 - b1))
    change = g - previous
    if dialect == "timm":
        change = nm.where(t > 1, 1.0, 0.0) * change
    c = g + factor * change
    c = c / nm.maximum(parts.norm(c), 1.0)
    state: tuple[Any, ...]
    if mars_type == "lion":
        m = parts.average(m, c, b1)
        u, state = -lr * nm.sign(m), (g, m)
    else:
        u, m, *v = adam.step(
            c, m, *v, t, lr=lr, betas=betas, eps=eps, dialect="torch", denominator=denominator
        )
        state = (g, m, *v)
    return parts.decoupled(p, u, lr, weight_decay), *state


RULE = Rule(
    name="mars",
    update=update,
    state=lambda h: ("last_grad", "exp_avg", *(() if h.mars_type == "lion" else ("exp_avg_sq",))),
    hyper={
        "lr": parts.lr(3e-3),
        "betas": parts.betas(
            0.95, 0.99, doc="decay rates of the running averages of c and of its square"
        ),
        "gamma": Real(0.025, low=0, doc="how much of the change is added"),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(),
        "mars_type": Choice("adamw", options=("adamw", "lion"), doc="what c goes into"),
        "dialect": Choice("authors", options=("authors", "timm"), doc="the first g_prev"),
    },
    family="adam",
    year=2024,
    paper="Yuan et al., MARS: Unleashing the Power of Variance Reduction",
    arxiv="2411.10438",
)
