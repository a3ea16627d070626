"""BCOS: a direction over the root of an estimate of its square, which the momentum itself can give.

    d  = m <- beta * m + (1 - beta) * g             modes "m" and "c"; d = g in mode "g"
    v <- b2 * v + (1 - b2) * d**2                   modes "g" and "m", b2 = beta2, or without one beta
    v  = (3 beta**2 - 2 beta**3) * m**2 + 2 beta * (1 - beta)**2 * m * g + (1 - beta)**2 * g**2
                                                    mode "c", with the old m and nothing stored
    v  = b2 * m**2 + (1 - b2) * g**2                the same with simple_cond, b2 = 1 - (1 - beta)**2 without beta2
    u  = -lr * d / (sqrt(v) + eps) - lr * weight_decay * p

At t = 1 the old m is g and the old v is g**2.

Follows: Jiang, Xiao, "Stochastic Approximation with Block Coordinate Optimal Stepsizes", arXiv 2507.08963, and the
    authors' code facebookresearch/bcos, bcos.py: its defaults are BCOSW in mode "c".
Departs:
    - The estimate of mode "c" is computed as a sum of squares, which it is: ((1 - beta) * (g + beta * m))**2 +
      (2 - beta**2) * (beta * m)**2.
    - Without decouple_wd weight_decay * p is added to g; the old m and v of t = 1 are without it, as in the code.
    - wd is called weight_decay in the code's arguments, and here.
    - lr, a required argument there, defaults to 1e-3.
    - pytorch_optimizer has the new m in the estimate of mode "c", as its m is changed first.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Flag
from isostep.rule import Rule


def conditional(m: Any, g: Any, *, beta: Any, beta2: Any, simple: bool) -> Any:
    """What the square of the new momentum is expected to be, with m the old one."""
    if simple:
        return parts.average(m * m, g * g, 1 - (1 - beta) * (1 - beta) if beta2 is None else beta2)
    old = beta * m
    coming = (1 - beta) * (g + old)
    return coming * coming + (2 - beta * beta) * (old * old)


def update(
    p: Any,
    g: Any,
    /,
    *state_t: Any,
    lr: Any,
    beta: Any,
    beta2: Any,
    eps: Any,
    weight_decay: Any,
    mode: str,
    decouple_wd: bool,
    simple_cond: bool,
    denominator: Any = parts.same,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *state, t = state_t
    first, g = g, parts.coupled(p, g, weight_decay, when=not decouple_wd)
    d, kept, old = g, [], g
    if mode != "g":
        old = nm.where(t > 1, state[0], first)
        d = parts.average(old, g, beta)
        kept = [d]
    if mode == "c":
        v = conditional(old, g, beta=beta, beta2=beta2, simple=simple_cond)
    else:
        v = nm.where(t > 1, state[-1], first * first)
        v = parts.average(v, d * d, beta if beta2 is None else beta2)
        kept = [*kept, v]
    u = -lr * d / denominator(nm.sqrt(v) + eps)
    return parts.decoupled(p, u, lr, weight_decay, when=decouple_wd), *kept


RULE = Rule(
    name="bcos",
    update=update,
    state=lambda h: {"g": ("v",), "m": ("m", "v"), "c": ("m",)}[h.mode],
    hyper={
        "lr": parts.lr(1e-3),
        "beta": parts.decay_rate(0.9, "decay rate of the momentum, and of v without beta2"),
        "beta2": parts.decay_rate(
            None, "decay rate of the estimate of the square", optional=True, cases=(0.96,)
        ),
        "eps": parts.eps(1e-6),
        "weight_decay": parts.weight_decay(0.1, "weight decay, decoupled by default"),
        "mode": Choice("c", options=("c", "m", "g"), doc="direction and estimate"),
        "decouple_wd": Flag(True, doc="weight decay past the averages"),
        "simple_cond": Flag(False, doc="mode c: an average of the two squares"),
    },
    family="adam",
    year=2025,
    paper="Jiang and Xiao, Stochastic Approximation with Block Coordinate Optimal Stepsizes",
    arxiv="2507.08963",
)
