"""PID: SGD with momentum as the integral of a controller, beside the gradient and its smoothed change.

    g <- g + weight_decay * p
    i <- momentum * i + (1 - dampening) * g                         g alone at t = 1
    d <- momentum * d + (1 - momentum) * (g_t - g_{t-1})            0 at t = 1
    u  = -lr * (g + integral * i + derivative * d)

Without momentum u = -lr * g.

Follows: An, Wang, Sun, Xu, Dai, Zhang, "A PID Controller Approach for Stochastic Optimization of Deep Networks",
    CVPR 2018, and the authors' code tensorboy/PIDOptimizer, pid.py, for the proportional term, weight_decay, dampening
    and defaults (I and D there). The change of g times 1 - momentum is the paper's; torch_optimizer's and
    pytorch_optimizer's PID have it too.
Departs:
    - The authors' code never stores the gradient that it means to take the change from: its d is an average of g
      itself from the second step on, and times lr instead of 1 - momentum.
    - torch_optimizer has no g_{t-1} at t = 2, where its change is all of g.
    - pytorch_optimizer dampens the first gradient too.
    - nesterov, which the code accepts and does not use, is not here.
    - lr, a required argument there, defaults to SGD's.
lr unit: as SGD; with integral = 5 and momentum = 0.9 a step is about 51 times lr * g.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.rule import Rule
from isostep.rules import sgd


def update(
    p: Any,
    g: Any,
    /,
    *state_t: Any,
    lr: Any,
    momentum: Any,
    dampening: Any,
    weight_decay: Any,
    integral: Any,
    derivative: Any,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *state, t = state_t
    g = parts.coupled(p, g, weight_decay)
    if not momentum:
        return (-lr * g,)
    i, d, previous = state
    i, _ = sgd.descent(g, (i,), t, momentum=momentum, dampening=dampening, nesterov=False)
    d = momentum * d + (1 - momentum) * nm.where(t > 1, g - previous, 0.0)
    return -lr * (g + (integral * i + derivative * d)), i, d, g


RULE = Rule(
    name="pid",
    update=update,
    state=lambda h: ("i_buffer", "d_buffer", "grad_buffer") if h.momentum else (),
    hyper={
        **{n: d for n, d in sgd.RULE.hyper.items() if n != "nesterov"},
        "integral": Real(5.0, low=0, doc="weight of the running sum"),
        "derivative": Real(10.0, low=0, doc="weight of the smoothed change"),
    },
    family="sgd",
    year=2018,
    paper="An et al., A PID Controller Approach for Stochastic Optimization of Deep Networks",
)
