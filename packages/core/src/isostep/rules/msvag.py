"""M-SVAG: momentum whose elements shrink as the noise in them outgrows them.

    w  = (1 - beta) / (1 - beta**t)                 the weight of g in the bias-corrected averages
    n  = w * (1 + beta**t) / 2 * (s + w * (g - m)**2)        the variance of the new m; 0 at t = 1
    s <- (1 - w) * (s + w * (g - m)**2)             v - m**2 of the corrected averages, with the old m
    m <- m + w * (g - m)
    u  = -lr * m**2 / (m**2 + n) * m                0 where m = 0

Follows: Balles, Hennig, "Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients", arXiv
    1705.07774, M-SVAG, and the authors' code lballes/msvag, msvag/msvag.py: n is their rho * s, rho = (1 - beta) *
    (1 + beta**t) / ((1 + beta) * (1 - beta**t)), s = (v - m**2) / (1 - rho).
Departs:
    - The state is the corrected average and its variance, which are all that the update sees of the averages
      of g and g**2 there. Neither v - m**2 nor 1 - rho, which cancel, is computed, and no factor has to be clipped.
    - At t = 1, where 0 / 0 stands in the paper, the step is that of m, as in the code, whose rho is at most 0.999;
      with a beta above 0.998 that bound would act at later steps too (0.9999 in pytorch_optimizer).
    - With beta = 0 the code's rho is bounded at every step, and its factor 1; here it is the limit, in which n is half
      of the squared change of g.
    - lr, a required argument there, defaults to pytorch_optimizer's.
lr unit: as SGD with an averaged gradient.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.rule import Rule


def update(
    p: Any, g: Any, m: Any, s: Any, t: int, /, *, lr: Any, beta: Any
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    c = nm.one_minus_pow(beta, t)
    weight = (1 - beta) / c
    change = g - m
    spread = s + weight * (change * change)
    # 1 + beta**t is 2 - c. What is 0 at t = 1 is so outside of the root, which has no derivative at 0.
    noise = nm.where(t > 1, 1.0, 0.0) * nm.sqrt(weight * (1 - 0.5 * c) * spread)
    m = parts.corrected(m, g, beta, t)
    ratio = noise / nm.where(m == 0, 1.0, m)
    return -lr * m / (1 + ratio * ratio), m, nm.where(t > 1, 1 - weight, 0.0) * spread


RULE = Rule(
    name="msvag",
    update=update,
    state=("exp_avg", "exp_avg_var"),
    hyper={
        "lr": parts.lr(1e-2),
        "beta": parts.decay_rate(0.9, "decay rate of the averages of the gradient and its square"),
    },
    family="sgd",
    year=2018,
    paper="Balles and Hennig, Dissecting Adam",
    arxiv="1705.07774",
)
