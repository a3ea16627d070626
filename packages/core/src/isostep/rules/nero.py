"""Nero: every neuron's weights turn by one angle and stay on the sphere of norm 1 and mean 0.

    v <- beta * v + (1 - beta) * |g of the neuron|**2           one number for each neuron
    h  = sqrt(v / (1 - beta**t))                                sqrt(v) without bias_correction
    w  = p - lr * |p of the neuron| / h * g
    w <- w - mean of w over the neuron
    p <- w / |w of the neuron|                                  p <- the first w without constraints

Biases and gains, which have no neighbours (arrays of fewer than two axes, or one element a neuron), have v each:

    p <- p - lr * bias_scale / h * g

A quotient with a divisor of 0 counts as 0.

Follows: Liu, Bernstein, Meister, Yue, "Learning by Turning: Neural Architecture Aware Optimisation", arXiv 2102.07227,
    Algorithm 1, whose sigma_b is bias_scale. Its first half was read in the paper, the update and the projection in
    a description of it by others. The published code is under a non-commercial licence and was not opened.
Departs:
    - Without constraints the turn is that of the neuron's norm in this step; pytorch_optimizer keeps the mean norm
      over all neurons of the array from before the first step.
    - The averages start at zero and are corrected as Adam's, which the paper was not seen to say;
      bias_correction=False leaves them as they are.
    - sigma_b is "the initialisation scale of the biases": it is given, and the same for the group.
    - The paper's networks are balanced from the start. Here the first step balances them: a step with lr = 0 does
      nothing else.
    - The axis of the neurons is an argument. Quotients by zero, and neurons of one weight, are left open there.
lr unit: radians per step, about.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Real
from isostep.rule import Rule


def has_neurons(p: Any, unit_axis: int) -> bool:
    """Whether an array is weights of neurons; a fact of its shape."""
    axis = nm.unit_axis_of(p.shape, unit_axis)
    return axis is not None and any(n > 1 for i, n in enumerate(p.shape) if i != axis)


def squared(x: Any, unit_axis: int) -> Any:
    """The squared norm of each neuron, kept as axes of length 1."""
    return nm.sum_units(x * x, unit_axis) if has_neurons(x, unit_axis) else x * x


def init(p: Any, /, *, unit_axis: int) -> Any:
    """A zero for each neuron, or for each bias."""
    return squared(parts.zeros(p), unit_axis)


def safe(x: Any) -> Any:
    """A divisor that is not zero."""
    return nm.where(x == 0, 1.0, x)


def update(
    p: Any,
    g: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    beta: Any,
    bias_scale: Any,
    bias_correction: bool,
    constraints: bool,
    unit_axis: int,
) -> tuple[Any, Any]:
    """See the module's equations."""
    v = parts.average(v, squared(g, unit_axis), beta)
    # Where h is zero every gradient was: any other divisor will do.
    h = parts.root(v, nm.one_minus_pow(beta, t)) if bias_correction else nm.sqrt(v)
    if not has_neurons(p, unit_axis):
        return (-lr * bias_scale) * (g / safe(h)), v
    u = -(lr * nm.sqrt(squared(p, unit_axis)) / safe(h)) * g
    if not constraints:
        return u, v
    w = p + u
    w = w - nm.sum_units(w, unit_axis) / nm.unit_size(w, unit_axis)
    return nm.overwrite(w / safe(nm.sqrt(squared(w, unit_axis)))), v


RULE = Rule(
    name="nero",
    update=update,
    init=init,
    state=("exp_avg_sq",),
    hyper={
        "lr": parts.lr(0.01, "learning rate, an angle", cases=(0.3,)),
        "beta": parts.decay_rate(0.999, "decay rate of the running average of squared norms"),
        "bias_scale": Real(0.01, low=0, cases=(0.4,), doc="initialisation scale of the biases"),
        "bias_correction": Flag(True, doc="Adam's correction of the running averages"),
        "constraints": Flag(True, doc="keep every neuron on the sphere of norm 1 and mean 0"),
        "unit_axis": parts.unit_axis(of="neurons"),
    },
    family="sgd",
    year=2021,
    paper="Liu et al., Learning by Turning: Neural Architecture Aware Optimisation",
    arxiv="2102.07227",
)
