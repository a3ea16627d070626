"""Ranger: RAdam on centralized gradients, inside of Lookahead.

    g <- g - mean of g over its unit                use_gc; arrays of two axes or more
    u  = RAdam's update, its torch dialect, with decoupled weight decay         radam.py
    when t is a multiple of k:
        slow <- slow + alpha * (p + u - slow)       slow starts as a copy of p
        p    <- slow

Follows: Wright, "New Deep Learning Optimizer, Ranger" (2019, a web page and the repository
    lessw2020/Ranger-Deep-Learning-Optimizer; there is no paper), as in its release pytorch-ranger.
    The sources of its three parts are in radam.py, pieces/centralize.py and pieces/lookahead.py.
    pytorch_optimizer's Ranger agrees.
Departs:
    - The author's later versions can centralize the update instead of the gradient, and multiply
      the decay by RAdam's own step size; left out.
    - pytorch-ranger computes in float32 whatever the parameter's dtype.
    - The axis of the units is an argument; theirs is always 0. A group without use_gc stands for
      their gc_conv_only.
lr unit: as RAdam.
"""

from __future__ import annotations

from typing import Any

from isostep import parts
from isostep.domains import Flag, Integer, Real
from isostep.pieces.centralize import before as centralized
from isostep.pieces.lookahead import synchronized
from isostep.rule import Rule
from isostep.rules import radam


def phase(t: int, /, *, k: int) -> bool:
    """Whether this step synchronises."""
    return t % k == 0


def init(p: Any, /) -> tuple[Any, Any, Any]:
    """Zero averages, and the slow weights where the fast ones are."""
    return parts.zeros(p), parts.zeros(p), parts.copied(p)


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    slow: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    k: int,
    alpha: Any,
    use_gc: bool,
    unit_axis: int,
    phase: bool,
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any, Any]:
    """See the module's equations."""
    if use_gc:
        g = centralized(p, g, t, unit_axis=unit_axis)
    u, m, v = radam.update(
        p,
        g,
        m,
        v,
        t,
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        degenerated_to_sgd=True,
        dialect="torch",
        denominator=denominator,
    )
    if phase:
        u, slow = synchronized(p, u, slow, t, k=k, alpha=alpha)
    return u, m, v, slow


RULE = Rule(
    name="ranger",
    update=update,
    init=init,
    phase=phase,
    state=("exp_avg", "exp_avg_sq", "slow_buffer"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": radam.betas(0.95),
        "eps": parts.eps(1e-5),
        "weight_decay": parts.weight_decay(),
        "k": Integer(6, low=1, cases=(3,), doc="steps between Lookahead's synchronisations"),
        "alpha": Real(0.5, low=0, high=1, cases=(0.7,), doc="how far the slow weights go"),
        "use_gc": Flag(True, doc="centralize the gradients"),
        "unit_axis": parts.unit_axis(),
    },
    family="adam",
    year=2019,
    paper="Wright, New Deep Learning Optimizer, Ranger",
)
