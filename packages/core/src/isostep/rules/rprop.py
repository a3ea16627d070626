"""Rprop: each element has a step size of its own, which only the signs of its gradients change.

    s    = g * sign(prev)
    size <- clip(size * f, step_sizes)              f = etas[1] where s > 0, etas[0] where s < 0,
    g    <- 0 where s < 0                           else 1; size starts at lr
    u    = -sign(g) * size
    prev <- g

Follows: Riedmiller, Braun, "A Direct Adaptive Method for Faster Backpropagation Learning: The RPROP
    Algorithm", ICNN 1993, in the form of torch.optim.Rprop: Igel, Huesken, "Improving the Rprop
    Learning Algorithm" (2000), Table 2, the variant iRprop-.
Departs:
    - The 1993 paper takes the last step back where s < 0; torch and this rule do not.
    - torch takes the sign of g * prev, which is 0 where that product underflows.
    - torch and this rule clip the size at every step, the papers only where it changes: other
      only while lr is outside of step_sizes.
    - optax.rprop (0.2.8) applies each update one step late, its first being zero; it is no oracle.
lr is the first step size; changing it later has no effect.
lr unit: parameter units per step.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Pair, Real
from isostep.rule import Rule


def init(p: Any, /, *, lr: Any) -> tuple[Any, Any]:
    """No previous gradient, and the first step size everywhere."""
    return parts.zeros(p), parts.filled(p, lr)


def update(
    p: Any,
    g: Any,
    prev: Any,
    size: Any,
    t: int,
    /,
    *,
    etas: tuple[Any, Any],
    step_sizes: tuple[Any, Any],
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    s = g * nm.sign(prev)  # of which only the sign counts; it cannot underflow
    factor = nm.where(s > 0, etas[1], nm.where(s < 0, etas[0], 1.0))
    size = nm.clip(size * factor, *step_sizes)
    g = nm.where(s < 0, 0.0, g)
    return -nm.sign(g) * size, g, size


RULE = Rule(
    name="rprop",
    update=update,
    init=init,
    state=("prev", "step_size"),
    hyper={
        "lr": parts.lr(1e-2, "the first step size"),
        "etas": Pair(
            Real(0.5, low=0, high=1, low_open=True, high_open=True),
            Real(1.2, low=1, low_open=True),
            doc="factors of the step size after a change of sign and without one",
        ),
        "step_sizes": Pair(
            Real(1e-6, low=0, cases=(0.04,)),
            Real(50.0, low=0, cases=(0.3,)),
            doc="smallest and largest step size",
        ),
    },
    family="sign",
    year=1993,
    paper="Riedmiller and Braun, A Direct Adaptive Method for Faster Backpropagation Learning",
)
