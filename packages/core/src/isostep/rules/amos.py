"""Amos: Adam-like steps of a model-oriented scale, with a decay of weights and of the rate that adapt.

    s  = g**2, or its mean over a unit or the array (slots)
    v <- beta * v + (1 - beta) * s
    r  = (1 - beta**t) / max(v, eps)
    y  = lr**2 * r * s / sqrt(1 + c_coef * sqrt(lr) * b)        the old b
    d  = -(lr * eta * sqrt(r) * g + (y / 2 + extra_l2) * p) / (1 + d_coef * sqrt(lr * eta) * b)
    b <- b + y * (1 + b)
    u  = d, or with momentum m:  m <- momentum * m + (1 - momentum) * d,  u = m

    slots "element"  v and b for every element
    slots "unit"     one for each row (or what unit_axis numbers); vectors are one unit
    slots "array"    one for each array

Follows: Tian, Parikh, "Amos: An Adam-style Optimizer with Adaptive Weight Decay towards
    Model-Oriented Scale", arXiv 2210.11693, and the authors' google-research/jestimator, amos.py,
    which is where the constants and the place of extra_l2 are from.
Departs:
    - eta and the shape of v and b follow from a variable's name and shape there (eta_fn, shape_fn);
      here a parameter group says so. eta has no default there; pytorch_optimizer has 0.5 for
      vectors, sqrt(2 / fan_in) for matrices, and slots "array".
    - extra_l2 shrinks parameters, as in the authors' code; in pytorch_optimizer's it has the other
      sign and half the size, and eps is added to v.
    - clip_value is left out: clip_by_value in front of the rule.
    - A schedule of lr is called with the steps already done; there with the number of this step.
lr unit: the learning rate relative to eta; the authors recommend 1 / sqrt(batches of the data).
eta unit: parameter units.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Real
from isostep.rule import Rule
from isostep.rules import adammini


def slot(p: Any, slots: str, unit_axis: int) -> Any:
    """A zero for everything that has a v and a b of its own."""
    return parts.zeros(p) if slots == "element" else adammini.block_zero(p, slots, unit_axis)


def init(p: Any, /, *, momentum: Any, slots: str, unit_axis: int) -> tuple[Any, ...]:
    """v, b and, with momentum, m."""
    kept = (slot(p, slots, unit_axis), slot(p, slots, unit_axis))
    return (*kept, parts.zeros(p)) if momentum else kept


def update(
    p: Any,
    g: Any,
    v: Any,
    b: Any,
    /,
    *m_t: Any,
    lr: Any,
    eta: Any,
    beta: Any,
    momentum: Any,
    extra_l2: Any,
    c_coef: Any,
    d_coef: Any,
    eps: Any,
    slots: str,
    unit_axis: int,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *m, t = m_t
    s = g * g if slots == "element" else adammini.block_mean(g * g, slots, unit_axis)
    v = parts.average(v, s, beta)
    # s / v and g / sqrt(v) before anything else: 1 / v of a large v would be a denormal number.
    correction, least = nm.one_minus_pow(beta, t), nm.maximum(v, eps)
    y = lr * lr * correction * (s / least) / nm.sqrt(1 + c_coef * nm.sqrt(lr) * b)
    shrink = (0.5 * y + extra_l2) * p
    d = -(lr * eta * (g / parts.root(least, correction)) + shrink) / (
        1 + d_coef * nm.sqrt(lr * eta) * b
    )
    b = b + y * (1 + b)
    if not momentum:
        return d, v, b
    u = parts.average(m[0], d, momentum)
    return u, v, b, u


def state(h: SimpleNamespace) -> tuple[str, ...]:
    """The momentum is one array more."""
    return ("exp_avg_sq", "decay", *(("exp_avg",) if h.momentum else ()))


RULE = Rule(
    name="amos",
    update=update,
    init=init,
    state=state,
    hyper={
        "lr": parts.lr(1e-3, "learning rate, relative to eta"),
        "eta": Real(0.5, low=0, low_open=True, cases=(0.3,), doc="size of the trained parameters"),
        "beta": parts.decay_rate(0.999, "decay rate of the average of squares"),
        "momentum": Real(
            0.0,
            low=0,
            high=1,
            high_open=True,
            zero_is_static=True,
            cases=(0.85,),
            doc="decay rate of the running average of updates",
        ),
        "extra_l2": Real(0.0, low=0, cases=(0.05,), doc="more weight decay, not adaptive"),
        "c_coef": Real(0.25, low=0, doc="how fast the adaptive decay falls"),
        "d_coef": Real(0.25, low=0, doc="how fast the steps fall"),
        "eps": parts.eps(2.0**-125, "least average of squares"),
        "slots": Choice("element", options=("element", "unit", "array"), doc="what has a v and b"),
        "unit_axis": parts.unit_axis(),
    },
    family="adaptive",
    year=2022,
    paper="Tian and Parikh, Amos: An Adam-style Optimizer with Adaptive Weight Decay",
    arxiv="2210.11693",
)
