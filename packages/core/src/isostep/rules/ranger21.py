"""Ranger21: AdamW with positive-negative momentum, on clipped and centralized gradients, inside of Lookahead.

    g <- g of each unit clipped at clipping * max(|p of the unit|, agc_eps)     pieces/adaptive_clip.py
    g <- g - mean of g over its unit                arrays of two axes or more
    v <- b2 * v + (1 - b2) * g**2                   c1 = 1 - b1**t, c2 = 1 - b2**t
    n = b1**2 * m_last + (1 - b1**2) * g,  m_last <- m,  m <- n

authors     g has been divided by its standard deviation in the array, plus eps
    d = (2 * n - m) / sqrt((1 + b2)**2 + b2**2)     with the m of the last step
    u = -lr / c1 * d / softplus(sqrt(v / c2) + eps)
    p decays by lr * weight_decay / s, s the root of the mean of v / c2 over the group, and then by
    lr * 2 * norm_loss * (1 - 1 / (|p of the unit| + eps))
flax
    d = (1 + b0) * n - b0 * m,  top <- max(top, v)
    u = -lr / c1 * d / (sqrt((1 + b0)**2 + b0**2) * sqrt(top / c2) + eps)
    u <- u - lr * weight_decay * (|p of the unit| - 1) / (|p of the unit| * s + eps) * p
    s the root of the mean of top / c2 over the array

when t is a multiple of k:
    slow <- slow + alpha * (p + u - slow)           slow starts as a copy of p
    p    <- slow

Follows: Wright, Demeure, "Ranger21: a synergistic deep learning optimizer", arXiv 2106.13731, by the code of its two
    authors: lessw2020/Ranger21 with its defaults (authors), and nestordemeure/flaxOptimizers, ranger21.py, without
    normalization and softplus, which it says came after the paper (flax). Of the paper itself only the abstract and the
    beginning could be read.
Departs:
    - lr is the user's: a schedule stands for the linear warm-up and the explore-exploit cool-down of both codes.
    - The first code has a boolean where b0 should stand, which makes it 1, and b2 in its norm; it never
      updates its largest v; and it decays only the last array. The first two are taken over, the last is not.
      pytorch_optimizer's Ranger21 has b0 and the largest v with the rest of the first code, and adds 1 to the sum of v.
    - The first code's momenta take gradients that were normalized twice, which is nearly the same; it leaves
      arrays of two elements as they are, and has 1e-8 for eps there.
    - It also offers MADGRAD's and AdaBelief's cores and Chebyshev steps; left out.
    - The axis of the units is an argument; theirs is 0. The first code sums over axis 1 alone where there are three
      axes, the second for two axes or three. The second adds eps to the clipped norm instead of a floor of 1e-6.
    - Where no gradient has come yet s is 0, and there is no stable decay; the first code fails there.
    - The two last momenta are kept in their order; the first code has them in turn.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Integer, Real
from isostep.pieces.adaptive_clip import before as clipped
from isostep.pieces.centralize import before as centralized
from isostep.pieces.lookahead import synchronized
from isostep.pieces.normalize_gradient import before as normalized
from isostep.pieces.softplus import denominator as softplus
from isostep.rule import Rule
from isostep.rules.ranger import phase


def prepared(
    p: Any, g: Any, t: Any, *, clipping: Any, agc_eps: Any, eps: Any, unit_axis: int, dialect: str
) -> Any:
    """The gradient that the averages take."""
    g = clipped(p, g, t, clipping=clipping, eps=agc_eps, unit_axis=unit_axis)
    g = centralized(p, g, t, unit_axis=unit_axis)
    if dialect == "authors":
        g = normalized(p, g, t, units=False, eps=eps, unit_axis=unit_axis)
    return g


def measure(
    p: Any,
    g: Any,
    m: Any,
    last: Any,
    v: Any,
    /,
    *top_slow_t: Any,
    betas: tuple[Any, Any],
    eps: Any,
    clipping: Any,
    agc_eps: Any,
    unit_axis: int,
    dialect: str,
) -> Mapping[str, Any]:
    """What the mean of v over the group is made of."""
    if dialect == "flax":
        return {}
    g = prepared(
        p, g, top_slow_t[-1], clipping=clipping, agc_eps=agc_eps, eps=eps, unit_axis=unit_axis,
        dialect=dialect,
    )  # fmt: skip
    return {"squares": parts.average(v, g * g, betas[1]), "count": 0.0 * g + 1.0}


def init(p: Any, /, *, dialect: str) -> tuple[Any, ...]:
    """Zero averages, and the slow weights where the fast ones are."""
    averages = 3 if dialect == "authors" else 4
    return (*(parts.zeros(p) for _ in range(averages)), parts.copied(p))


def update(
    p: Any,
    g: Any,
    m: Any,
    last: Any,
    v: Any,
    /,
    *top_slow_t: Any,
    lr: Any,
    betas: tuple[Any, Any],
    beta0: Any,
    eps: Any,
    weight_decay: Any,
    norm_loss: Any,
    clipping: Any,
    agc_eps: Any,
    beta_softplus: Any,
    k: int,
    alpha: Any,
    unit_axis: int,
    dialect: str,
    phase: bool,
    squares: Any = None,
    count: Any = None,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *tops, slow, t = top_slow_t
    b1, b2 = betas
    g = prepared(
        p, g, t, clipping=clipping, agc_eps=agc_eps, eps=eps, unit_axis=unit_axis, dialect=dialect
    )
    c1, c2 = parts.corrections(betas, t)
    v = parts.average(v, g * g, b2)
    new = parts.average(last, g, b1 * b1)
    size = nm.sqrt(nm.sum_units(p * p, unit_axis))
    if dialect == "authors":
        d = (2 * new - m) / parts.amplitude(b2)
        u = (-lr / c1) * d / softplus(parts.root(v, c2) + eps, beta=beta_softplus)
        mean = nm.sqrt(squares / count) / nm.sqrt(c2)
        none = mean == 0
        stable = nm.where(none, 0.0, lr * weight_decay / nm.where(none, 1.0, mean))
        pull = (2 * lr * norm_loss) * (1 - 1 / (nm.abs(1 - stable) * size + eps))
        u = u - (stable + pull - stable * pull) * p
    else:
        top, tops = parts.largest(v, tops)
        d = (1 + beta0) * new - beta0 * m
        u = (-lr / c1) * d / (parts.amplitude(beta0) * parts.root(top, c2) + eps)
        mean = nm.sqrt(nm.sum(top) / nm.size(top)) / nm.sqrt(c2)
        u = u - (lr * weight_decay) * ((size - 1) / (size * mean + eps)) * p
    if phase:
        u, slow = synchronized(p, u, slow, t, k=k, alpha=alpha)
    return u, new, m, v, *tops, slow


def state(h: SimpleNamespace) -> tuple[str, ...]:
    """The largest v only where it counts."""
    tops = ("max_exp_avg_sq",) if h.dialect == "flax" else ()
    return ("exp_avg", "last_exp_avg", "exp_avg_sq", *tops, "slow_buffer")


RULE = Rule(
    name="ranger21",
    update=update,
    init=init,
    phase=phase,
    measure=measure,
    state=state,
    hyper={
        "lr": parts.lr(1e-3, cases=(0.1,)),
        "betas": parts.betas(0.9, 0.999),
        "beta0": Real(0.9, low=0, doc="how much of the older momentum is subtracted (flax)"),
        # Where the root of v is below eps it is eps that keeps the decays of the flax dialect from growing.
        "eps": parts.eps(1e-8, cases=(0.5,)),
        "weight_decay": Real(1e-4, low=0, cases=(0.1,), doc="stable weight decay"),
        "norm_loss": Real(1e-4, low=0, cases=(0.3,), doc="pull of the units' norms to 1 (authors)"),
        "clipping": Real(0.01, low=0, cases=(0.1,), doc="largest ratio of gradient and parameter"),
        "agc_eps": Real(1e-3, low=0, cases=(0.5,), doc="smallest parameter norm for the clipping"),
        "beta_softplus": Real(
            50.0, low=0, low_open=True, cases=(1.7,), doc="how close softplus is to its argument"
        ),
        "k": Integer(5, low=1, cases=(3,), doc="steps between Lookahead's synchronisations"),
        "alpha": Real(0.5, low=0, high=1, cases=(0.7,), doc="how far the slow weights go"),
        "unit_axis": parts.unit_axis(),
        "dialect": Choice("authors", options=("authors", "flax"), doc="whose code it follows"),
    },
    family="adam",
    year=2021,
    paper="Wright and Demeure, Ranger21: a synergistic deep learning optimizer",
    arxiv="2106.13731",
)
