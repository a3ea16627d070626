"""LARS: SGD whose gradient is rescaled array by array to a fraction of the parameter's norm.

    h = g + weight_decay * p
    r = trust_coefficient * |p| / (|g| + weight_decay * |p| + eps)      paper, timm
        trust_coefficient * |p| / (|h| + eps)                           optax
        1 where |p| or |g| is 0 (optax: |p| or |h|)

    paper, optax    d = SGD's direction (sgd.py) for lr * r * h         u = -d
    timm            d = SGD's direction for r * h                       u = -lr * d

Follows: You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", arXiv 1708.03888,
    Algorithm 1 (paper); timm's Lars and torch-optimizer's LARS (timm); optax.lars (optax).
Departs:
    - With a constant lr, paper and timm are the same rule; the paper sums lr into the momentum, so
      that a change of lr acts slowly.
    - The paper has no eps, and no case for a norm of zero; there the step would never start, or be
      0 / 0.
    - nesterov and dampening are not in the paper; dampening is skipped at t = 1, as in timm.
    - timm leaves arrays alone if weight_decay is 0, unless always_adapt is set, as here; it can
      also clip the ratio (LARC).
    - pytorch_optimizer's LARS takes arrays of fewer than two axes without ratio and decay.
Other defaults: optax eps 0, momentum 0.9.
lr unit: trust_coefficient * lr is the fraction of the parameter's norm per step.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Real
from isostep.rule import Rule
from isostep.rules import sgd


def update(
    p: Any,
    g: Any,
    /,
    *buffer_t: Any,
    lr: Any,
    momentum: Any,
    dampening: Any,
    weight_decay: Any,
    nesterov: bool,
    trust_coefficient: Any,
    eps: Any,
    dialect: str,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *buffer, t = buffer_t
    h = parts.coupled(p, g, weight_decay)
    size_p, size_g = parts.norm(p), parts.norm(h if dialect == "optax" else g)
    size = size_g + eps
    if weight_decay and dialect != "optax":
        size = size_g + weight_decay * size_p + eps
    # As parts.quotient_or_one, with the whole divisor made safe.
    neither = nm.logical_or(size_p == 0, size_g == 0)
    ratio = nm.where(neither, 1.0, trust_coefficient * size_p / nm.where(neither, 1.0, size))
    inside = dialect != "timm"
    d, state = sgd.descent(
        ((lr * ratio) if inside else ratio) * h,
        tuple(buffer),
        t,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
    )
    return (-d if inside else -lr * d), *state


RULE = Rule(
    name="lars",
    update=update,
    state=sgd.RULE.state,
    hyper={
        "lr": parts.lr(1.0, cases=(0.3,)),
        **{n: d for n, d in sgd.RULE.hyper.items() if n != "lr"},
        "trust_coefficient": Real(
            1e-3, low=0, cases=(0.1,), doc="ratio of step and parameter norm at lr 1"
        ),
        "eps": parts.eps(1e-8, "added to the gradient's norm"),
        "dialect": Choice(
            "paper", options=("paper", "timm", "optax"), doc="place of lr and norm of the decay"
        ),
    },
    check_bound=sgd.check,
    family="sgd",
    year=2017,
    paper="You et al., Large Batch Training of Convolutional Networks",
    arxiv="1708.03888",
)
