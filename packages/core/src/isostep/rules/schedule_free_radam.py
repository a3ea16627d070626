"""Schedule-Free RAdam: Schedule-Free AdamW whose lr has RAdam's rectification as its warm-up.

    q, r  the length of the average and the factor, as in radam.py      b2 = betas[1]
    k  = lr * r where q > 4, else 0 with silent_sgd_phase, lr without
    c  as in schedule_free_sgd.py, with k for lr
    v <- b2 * v + (1 - b2) * g**2
    d  = g / (sqrt(v / (1 - b2**t)) + eps) where q > 4, else g
    d <- d + weight_decay * p
    u  = c * (z - p) + k * (b1 * (1 - c) - 1) * d
    z <- z - k * d                                  z starts as a copy of p

The parameter is y; x = p + (1 / b1 - 1) * (p - z) is where to evaluate: see schedule_free_sgd.py.

Follows: the package schedulefree (RAdamScheduleFree) of the authors of Defazio et al., "The Road Less
    Scheduled", arXiv 2405.15682, with Liu et al., arXiv 1908.03265, Algorithm 2, for the
    rectification, whose bound of 4 it keeps; no paper describes the two together.
Departs:
    - As Schedule-Free SGD. The weights count the group's steps, as in the package; k and d those of
      the parameter, where the package has the group's too.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Pair, Real
from isostep.rule import Rule
from isostep.rules import radam, schedule_free_adamw, schedule_free_sgd


def rectified(lr: Any, t: Any, b2: Any, silent_sgd_phase: bool) -> tuple[Any, Any]:
    """Whether RAdam rectifies at step t, and the learning rate k."""
    tractable, factor = radam.rectification(t, b2, "paper")
    rate = lr * factor
    return tractable, nm.where(tractable, rate, 0.0) if silent_sgd_phase else rate


def advance(
    sums: Mapping[str, Any],
    group: Mapping[str, Any],
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    r: Any,
    weight_lr_power: Any,
    silent_sgd_phase: bool,
) -> dict[str, Any]:
    """The weights that follow from the rectified learning rate."""
    _, rate = rectified(lr, t, betas[1], silent_sgd_phase)
    return schedule_free_sgd.advance(sums, group, t, lr=rate, r=r, weight_lr_power=weight_lr_power)


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
    silent_sgd_phase: bool,
    share: Any,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    b1, b2 = betas
    v = parts.average(v, g * g, b2)
    tractable, rate = rectified(lr, t, b2, silent_sgd_phase)
    d = nm.where(tractable, g / (parts.root(v, nm.one_minus_pow(b2, t)) + eps), g)
    d = parts.coupled(p, d, weight_decay)
    u, z = schedule_free_sgd.step(p, d, z, lr=rate, momentum=b1, share=share)
    return u, z, v


RULE = Rule(
    name="schedule_free_radam",
    update=update,
    evaluate=schedule_free_adamw.evaluate,
    init=schedule_free_adamw.init,
    advance=advance,
    group=schedule_free_sgd.GROUP,
    state=("z", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(2.5e-3),
        "betas": Pair(
            Real(0.9, low=0, high=1, low_open=True, high_open=True),
            parts.decay_rate(0.999, cases=(0.844,)),
            doc="place of y between z and x, and decay rate of the average of squares",
        ),
        "eps": parts.eps(1e-8),
        "weight_decay": schedule_free_sgd.RULE.hyper["weight_decay"],
        **schedule_free_sgd.WEIGHTS,
        "silent_sgd_phase": Flag(True, doc="stand still until RAdam rectifies"),
    },
    family="schedule-free",
    year=2024,
    paper="Defazio et al., The Road Less Scheduled",
    arxiv="2405.15682",
)
