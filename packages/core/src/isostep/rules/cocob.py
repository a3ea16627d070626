"""COCOB: each element bets on the sign of its gradient what it has won so far.

    g <- lr * (g + weight_decay * p)
    L <- max(L, |g|)                                starts at eps
    G <- G + |g|
    R <- max(R - g * (p - p0), 0)                   the reward
    s <- s - g
    u  = p0 + s / L * (L + R) / max(G + L, alpha * L) - p

p0 is the parameter before the first step. Where L is 0 the point is p0.

Follows: Orabona, Tommasi, "Training Deep Networks without Learning Rates Through Coin Betting", arXiv
    1705.07795, Algorithm 2 (COCOB-Backprop), and the first author's package parameterfree, cocob.py.
    optax.contrib.cocob agrees.
Departs:
    - In the paper L starts at 0, and an element stays where it is until it has a gradient; eps is the
      code's (1e-8 in bremen79/cocob, the TensorFlow code of the paper). Where it is 0, or too small
      for the dtype of a half-precision state, that code and optax divide 0 by 0.
    - lr, a factor of the gradient, and weight_decay are the package's, which takes the largest lr of
      all groups.
    - s / L comes first, because L**2 leaves the range of float32.
lr unit: a factor of the gradient, of which the steps depend on eps only; to be left at 1.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.rule import Rule


def init(p: Any, /, *, eps: Any) -> tuple[Any, Any, Any, Any, Any]:
    """The first scale, and the starting point."""
    zeros = parts.zeros(p)
    return zeros, 1.0 * zeros, parts.filled(p, eps), 1.0 * zeros, parts.copied(p)


def update(
    p: Any,
    g: Any,
    s: Any,
    total: Any,
    scale: Any,
    reward: Any,
    p0: Any,
    t: int,
    /,
    *,
    lr: Any,
    alpha: Any,
    weight_decay: Any,
) -> tuple[Any, ...]:
    """See the module's equations."""
    g = lr * parts.coupled(p, g, weight_decay)
    size = nm.abs(g)
    scale = nm.maximum(scale, size)
    total = total + size
    reward = nm.maximum(reward - g * (p - p0), 0.0)
    s = s - g
    # Where the scale is zero so is s.
    unit = nm.where(scale == 0, 1.0, scale)
    bet = s / unit * ((unit + reward) / nm.maximum(total + unit, alpha * unit))
    return p0 - p + bet, s, total, scale, reward, p0


RULE = Rule(
    name="cocob",
    update=update,
    init=init,
    state=("sum_negative_gradients", "grad_norm_sum", "L", "reward", "x0"),
    hyper={
        "lr": parts.lr(1.0, "factor of the gradient", cases=(0.7,)),
        "alpha": Real(
            100.0, low=0, cases=(3.0,), doc="how many of the largest bets G stands for at least"
        ),
        "eps": parts.eps(1e-8, "first scale of the gradient", cases=(0.5, 0.0)),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
    },
    family="parameter-free",
    year=2017,
    paper="Orabona and Tommasi, Training Deep Networks without Learning Rates Through Coin Betting",
    arxiv="1705.07795",
)
