"""AggMo: gradient descent along the mean of three momenta with different decay rates.

    g <- g + weight_decay * p
    b_i <- beta_i * b_i + g                         i = 0, 1, 2
    u  = -lr / 3 * (b_0 + b_1 + b_2)

Follows: Lucas, Sun, Zemel, Grosse, "Aggregated Momentum: Stability Through Passive Damping", arXiv
    1804.00325, equation 3, and the authors' code AtheMathmo/AggMo, src/aggmo.py.
    pytorch_optimizer's and torch-optimizer's AggMo agree.
Departs:
    - The number of momenta, any number there, is their default of three. Two equal rates are two
      buffers here; the authors' code keeps its buffers by the value of the rate and would then
      average the same buffer into itself twice in one step.
    - The paper's first velocity is zero, so that b = g at t = 1, as here.
lr unit: as SGD.
"""

from __future__ import annotations

from typing import Any

from isostep import parts
from isostep.rule import Rule


def update(
    p: Any,
    g: Any,
    first: Any,
    second: Any,
    third: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any, Any],
    weight_decay: Any,
) -> tuple[Any, Any, Any, Any]:
    """See the module's equations."""
    g = parts.coupled(p, g, weight_decay)
    first, second, third = (
        beta * b + g for beta, b in zip(betas, (first, second, third), strict=True)
    )
    return (-lr / 3) * (first + second + third), first, second, third


RULE = Rule(
    name="aggmo",
    update=update,
    state=("momentum_buffer_0", "momentum_buffer_1", "momentum_buffer_2"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.0, 0.9, 0.99, doc="decay rates of the three momenta"),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
    },
    family="sgd",
    year=2018,
    paper="Lucas et al., Aggregated Momentum: Stability Through Passive Damping",
    arxiv="1804.00325",
)
