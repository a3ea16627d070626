"""Schedule-Free SGD: momentum and averaging of the points take the place of a schedule of lr.

    L <- max(L, lr)                                 group state
    w  = t**r * L**weight_lr_power
    W <- W + w                                      group state; c = w / W
    g <- g + weight_decay * p
    u  = c * (z - p) + lr * (momentum * (1 - c) - 1) * g
    z <- z - lr * g                                 z starts as a copy of p

The parameter is y, the point at which gradients are taken; z is state. The averaged point x, at which
the model is to be evaluated, is not stored: y = momentum * x + (1 - momentum) * z, so that
x = p + (1 / momentum - 1) * (p - z): a backend's ``evaluation_point`` gives it. As equations for x and z the step is

    z <- z - lr * g         x <- (1 - c) * x + c * z         y = momentum * x + (1 - momentum) * z

Follows: Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky, "The Road Less Scheduled", arXiv
    2405.15682, equations 3 to 5, and the authors' package schedulefree (SGDScheduleFree).
    optax.contrib.schedule_free_sgd and pytorch_optimizer agree.
Departs:
    - The step is an update added to p; the package overwrites p in two roundings.
    - warmup_steps of the package is a schedule: lr=lambda done: lr * min(1, (done + 1) / steps).
    - In c, t is the number of the group's step, as in the package.
    - c = 0 while all w are 0 (lr = 0), as in the package.
lr unit: parameter units per gradient unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.rule import Rule

#: Group state: the largest lr so far, the sum of all weights, this step's share of it.
GROUP = {"lr_max": lambda h: 0.0, "weight_sum": lambda h: 0.0, "share": lambda h: 0.0}

WEIGHTS = {
    "r": Real(0.0, low=0, cases=(0.5,), doc="power of t in a step's weight in the average"),
    "weight_lr_power": Real(2.0, low=0, cases=(1.5,), doc="power of lr in that weight"),
}


def advance(
    sums: Mapping[str, Any],
    group: Mapping[str, Any],
    t: int,
    /,
    *,
    lr: Any,
    r: Any,
    weight_lr_power: Any,
) -> dict[str, Any]:
    """The weight of this step's z in the average, and what that is as a share of all weights."""
    largest = nm.maximum(group["lr_max"], lr)
    weight = nm.pow(t, r) * nm.pow(largest, weight_lr_power)
    total = group["weight_sum"] + weight
    share = weight / nm.where(total == 0, 1.0, total)  # 0 while lr has been 0
    return {"lr_max": largest, "weight_sum": total, "share": share}


def init(p: Any, /) -> Any:
    """The array z before the first step: a copy of the parameter."""
    return parts.copied(p)


def step(p: Any, d: Any, z: Any, *, lr: Any, momentum: Any, share: Any) -> tuple[Any, Any]:
    """The update of y = p and the new z, for a direction d. Schedule-Free AdamW shares it."""
    return share * (z - p) + (lr * (momentum * (1 - share) - 1)) * d, z - lr * d


def averaged(p: Any, z: Any, momentum: Any) -> Any:
    """The point x at which to evaluate. Schedule-Free AdamW shares it."""
    return p + (1 / momentum - 1) * (p - z)


def evaluate(p: Any, z: Any, t: int, /, *, momentum: Any) -> Any:
    """See ``averaged``."""
    return averaged(p, z, momentum)


def update(
    p: Any,
    g: Any,
    z: Any,
    t: int,
    /,
    *,
    lr: Any,
    momentum: Any,
    weight_decay: Any,
    share: Any,
) -> tuple[Any, Any]:
    """See the module's equations."""
    g = parts.coupled(p, g, weight_decay)
    return step(p, g, z, lr=lr, momentum=momentum, share=share)


RULE = Rule(
    name="schedule_free_sgd",
    update=update,
    evaluate=evaluate,
    init=init,
    advance=advance,
    group=GROUP,
    state=("z",),
    hyper={
        "lr": parts.lr(1.0, cases=(0.1,)),
        "momentum": Real(
            0.9, low=0, high=1, low_open=True, high_open=True, doc="place of y between z and x"
        ),
        "weight_decay": parts.weight_decay(doc="weight decay, taken at y"),
        **WEIGHTS,
    },
    family="schedule-free",
    year=2024,
    paper="Defazio et al., The Road Less Scheduled",
    arxiv="2405.15682",
)
