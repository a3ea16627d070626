"""Yogi: Adam whose average of squares moves by a bounded amount, up or down.

    g <- g + weight_decay * p
    m <- b1 * m + (1 - b1) * g
    v <- v - (1 - b2) * sign(v - g**2) * g**2       both start at initial_accumulator
    u  = -lr / (1 - b1**t) * m / (sqrt(v / (1 - b2**t)) + eps)

Follows: Zaheer, Reddi, Sachan, Kale, Kumar, "Adaptive Methods for Nonconvex Optimization", NeurIPS
    2018, Algorithm 2. optax.yogi, pytorch_optimizer and torch-optimizer agree.
Departs:
    - The bias corrections are not in Algorithm 2; all three implementations have them. As v does
      not start at zero they do not take out a bias.
    - m starts at initial_accumulator as v does, in all three; in the paper at 0.
    - weight_decay is coupled, as in torch-optimizer; not in the paper.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.rule import Rule
from isostep.rules import adam


def init(p: Any, /, *, initial_accumulator: Any) -> tuple[Any, ...]:
    """Both averages start at the same value, in arrays of their own."""
    return tuple(parts.filled(p, initial_accumulator) for _ in range(2))


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
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    b1, b2 = betas
    g = parts.coupled(p, g, weight_decay)
    m = parts.average(m, g, b1)
    square = g * g
    v = v - (1 - b2) * (nm.sign(v - square) * square)
    u, _ = adam.directed(m, v, None, t, lr=lr, betas=betas, eps=eps, denominator=denominator)
    return u, m, v


RULE = Rule(
    name="yogi",
    update=update,
    init=init,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-2),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-3, cases=()),
        "initial_accumulator": Real(1e-6, low=0, cases=(0.1,), doc="first value of both averages"),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
    },
    family="adam",
    year=2018,
    paper="Zaheer et al., Adaptive Methods for Nonconvex Optimization",
)
