"""MoMo: SGD with momentum whose rate is at most lr, and what a model of the loss says that is left to gain.

    b  = beta, and 0 at t = 1 (beta with bias_correction)
    d <- b * d + (1 - b) * g
    f <- b * f + (1 - b) * loss                     group state, as all but d
    y <- b * y + (1 - b) * <g, p>                   over all parameters of the group
    a  = 1 + lr * weight_decay                      c = 1, or 1 - beta**t with bias_correction
    h  = (f - y + <d, p> / a) / c                   what the averaged model says of the loss at p
    if use_fstar and h < fstar:                     fstar starts at lb
        fstar <- max(h / 2, lb)
    tau = min(lr / c, a * c * max(h - fstar, 0) / <d, d>)
    if use_fstar:
        fstar <- max((f + <d, p> - y - tau / 2 * <d, d>) / c, lb)
    u  = (p - tau * d) / a - p

Follows: Schaipp, Ohana, Eickenberg, Defazio, Gower, "MoMo: Momentum Models for Adaptive Learning
    Rates", arXiv 2305.07583, and the authors' code fabian-sp/MoMo, momo.py, which has its two
    kinds of averages (bias_correction) and the estimate of the lower bound. optax.contrib.momo
    agrees without weight decay.
Departs:
    - loss is an input of the step, one number for the group: this step's (batch) loss, before the
      step and without weight decay.
    - The sums are over the parameter group; the authors' over all groups together.
    - A parameter that joins later starts its own d with its first gradient; in the sums its earlier
      gradients count as zeros.
    - Where <d, d> is 0 there is no step but the decay's; in the authors' code it is 0/0.
    - optax leaves tau * d undivided by a, has no bias_correction, and takes no step where
      <d, d> is below 2e-16.
lr unit: parameter units per gradient unit, an upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Real
from isostep.rule import Rule

#: What keeps 0/0 from the rate: the smallest normal number of float32.
TINY = 2.0**-126


def decay(beta: Any, t: Any, bias_correction: bool) -> Any:
    """The decay rate of the averages: without correction they start with the first value itself."""
    return beta if bias_correction else nm.where(t > 1, beta, 0.0)


def measure(
    p: Any, g: Any, d: Any, t: int, /, *, beta: Any, bias_correction: bool
) -> Mapping[str, Any]:
    """The products of the gradient and of its new average."""
    d = parts.average(d, g, decay(beta, t, bias_correction))
    return {"gp": g * p, "dp": d * p, "dd": d * d}


def modelled(
    sums: Mapping[str, Any],
    group: Mapping[str, Any],
    b: Any,
    c: Any,
    *,
    lr: Any,
    weight_decay: Any,
    lb: Any,
    use_fstar: bool,
) -> dict[str, Any]:
    """The group's next state, by the averages' decay rate and correction (or None). MoMo-Adam shares it."""
    loss = parts.average(group["loss_avg"], group["loss"], b)
    dot = parts.average(group["grad_dot_w"], sums["gp"], b)
    gap, scale = loss - dot + sums["dp"], c
    if weight_decay:
        a = 1 + lr * weight_decay
        gap, scale = a * (loss - dot) + sums["dp"], a if c is None else c * a
    h = gap if scale is None else gap / scale
    low = group["fstar"]
    if use_fstar:
        low = nm.where(h < low, nm.maximum(0.5 * h, lb), low)
    left = nm.maximum(h - low, 0.0)
    rate = (left if scale is None else scale * left) / nm.maximum(sums["dd"], TINY)
    tau = nm.minimum(lr if c is None else lr / c, rate)
    if use_fstar:
        reached = loss + sums["dp"] - dot - 0.5 * tau * sums["dd"]
        low = nm.maximum(reached if c is None else reached / c, lb)
    return {"loss_avg": loss, "grad_dot_w": dot, "fstar": low, "tau": tau}


def advance(
    sums: Mapping[str, Any],
    group: Mapping[str, Any],
    t: int,
    /,
    *,
    lr: Any,
    beta: Any,
    weight_decay: Any,
    lb: Any,
    bias_correction: bool,
    use_fstar: bool,
) -> dict[str, Any]:
    """The averages of the loss, the bound of it, and the rate."""
    b = decay(beta, t, bias_correction)
    c = nm.one_minus_pow(beta, t) if bias_correction else None
    return modelled(sums, group, b, c, lr=lr, weight_decay=weight_decay, lb=lb, use_fstar=use_fstar)


def proximal(p: Any, step: Any, lr: Any, weight_decay: Any) -> Any:
    """The update -step with the parameter then divided by 1 + lr * weight_decay."""
    if not weight_decay:
        return -step
    return -(step + (lr * weight_decay) * p) / (1 + lr * weight_decay)


def update(
    p: Any,
    g: Any,
    d: Any,
    t: int,
    /,
    *,
    lr: Any,
    beta: Any,
    weight_decay: Any,
    bias_correction: bool,
    tau: Any,
) -> tuple[Any, Any]:
    """See the module's equations."""
    d = parts.average(d, g, decay(beta, t, bias_correction))
    return proximal(p, tau * d, lr, weight_decay), d


def bound(*cases: float) -> dict[str, Any]:
    """The hyperparameters of the loss's bound, with conformance's values of it. MoMo-Adam shares it."""
    return {
        "lb": Real(0.0, cases=cases, doc="lower bound of the loss"),
        "use_fstar": Flag(False, doc="estimate the lower bound, from lb up"),
    }


#: tau is what this step goes by.
GROUP = {
    "loss_avg": lambda h: 0.0,
    "grad_dot_w": lambda h: 0.0,
    "fstar": lambda h: h.lb,
    "tau": lambda h: 0.0,
}

RULE = Rule(
    name="momo",
    update=update,
    measure=measure,
    advance=advance,
    group_inputs=("loss",),
    group=GROUP,
    state=("grad_avg",),
    hyper={
        "lr": parts.lr(1.0, "largest learning rate"),
        "beta": parts.decay_rate(0.9, "decay rate of the averages"),
        "weight_decay": parts.weight_decay(doc="weight decay, proximal"),
        **bound(1.5, 1.5, 12.0, 1.5, 0.5),
        "bias_correction": Flag(
            False, doc="averages from zero, corrected, instead of from the first value"
        ),
    },
    family="adaptive",
    year=2023,
    paper="Schaipp et al., MoMo: Momentum Models for Adaptive Learning Rates",
    arxiv="2305.07583",
)
