"""Tiger: the sign of the gradient's running average; the step may be relative to the weights.

    m <- beta * m + (1 - beta) * g
    u  = -r * (sign(m) + weight_decay * p)

    r  = lr                                         relative_lr False
    r  = lr * RMS(p)                                relative_lr True: the RMS of the whole array

Follows: Su, "Tiger: A Tight-fisted Optimizer" (2023, kexue.fm/archives/9512 and the repository
    bojone/tiger, tiger.py); there is no paper. pytorch_optimizer's Tiger is relative_lr=False.
Departs:
    - The author chooses by the variable's name: RMS of each row for embeddings, of the array for
      other weights, and half of lr without decay for biases, gains and offsets. Here a parameter
      group says what it wants: relative_lr, lr and weight_decay.
    - A NaN in the gradient stays one; the author's code skips that gradient and shrinks the
      parameter by one percent instead.
    - Accumulation of gradients in m (grad_accum_steps) is left to the caller.
    - relative_lr is False by default, as in pytorch_optimizer.
With relative_lr False this is Signum with other defaults.
lr unit: parameter units per step; with relative_lr a fraction of the parameter's RMS.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Flag
from isostep.rule import Rule


def update(
    p: Any, g: Any, m: Any, t: int, /, *, lr: Any, beta: Any, weight_decay: Any, relative_lr: bool
) -> tuple[Any, Any]:
    """See the module's equations."""
    m = parts.average(m, g, beta)
    step = lr * parts.rms(p) if relative_lr else lr
    u = -step * nm.sign(m)
    return parts.decoupled(p, u, step, weight_decay), m


RULE = Rule(
    name="tiger",
    update=update,
    state=("exp_avg",),
    hyper={
        "lr": parts.lr(1e-3),
        "beta": parts.decay_rate(0.965),
        "weight_decay": parts.weight_decay(0.01),
        "relative_lr": Flag(False, doc="take lr as a fraction of the parameter's RMS"),
    },
    family="sign",
    year=2023,
    paper="Su, Tiger: A Tight-fisted Optimizer",
)
