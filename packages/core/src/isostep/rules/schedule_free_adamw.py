"""Schedule-Free AdamW: Adam's denominator in Schedule-Free SGD's averaging.

    v <- b2 * v + (1 - b2) * g**2
    d  = g / (sqrt(v / (1 - b2**t)) + eps) + weight_decay * p
    c  as in schedule_free_sgd.py
    u  = c * (z - p) + lr * (b1 * (1 - c) - 1) * d
    z <- z - lr * d                                 z starts as a copy of p

The parameter is y; x = p + (1 / b1 - 1) * (p - z) is where to evaluate: see schedule_free_sgd.py.

Follows: Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky, "The Road Less Scheduled", arXiv
    2405.15682, Algorithm 1, and the authors' package schedulefree (AdamWScheduleFree).
    optax.contrib.schedule_free_adamw and pytorch_optimizer agree.
Departs:
    - As Schedule-Free SGD; a warm-up, which Algorithm 1 has built in, is a schedule of lr.
    - Algorithm 1 puts the warm-up's bias correction into lr; the package divides v by it, as here.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Pair, Real
from isostep.rule import Rule
from isostep.rules import schedule_free_sgd


def init(p: Any, /) -> tuple[Any, Any]:
    """z is a copy of the parameter, the average of squares is zero."""
    return parts.copied(p), parts.zeros(p)


def update(
    p: Any,
    g: Any,
    z: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    share: Any,
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    b1, b2 = betas
    v = parts.average(v, g * g, b2)
    d = g / denominator(parts.root(v, nm.one_minus_pow(b2, t)) + eps)
    d = parts.coupled(p, d, weight_decay)
    u, z = schedule_free_sgd.step(p, d, z, lr=lr, momentum=b1, share=share)
    return u, z, v


def evaluate(p: Any, z: Any, v: Any, t: int, /, *, betas: tuple[Any, Any]) -> Any:
    """The average x, from y and z."""
    return schedule_free_sgd.averaged(p, z, betas[0])


RULE = Rule(
    name="schedule_free_adamw",
    update=update,
    evaluate=evaluate,
    init=init,
    advance=schedule_free_sgd.advance,
    group=schedule_free_sgd.GROUP,
    state=("z", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(2.5e-3),
        "betas": Pair(
            Real(0.9, low=0, high=1, low_open=True, high_open=True),
            Real(0.999, low=0, high=1, high_open=True),
            doc="place of y between z and x, and decay rate of the average of squares",
        ),
        "eps": parts.eps(1e-8),
        "weight_decay": schedule_free_sgd.RULE.hyper["weight_decay"],
        **schedule_free_sgd.WEIGHTS,
    },
    family="schedule-free",
    year=2024,
    paper="Defazio et al., The Road Less Scheduled",
    arxiv="2405.15682",
)
