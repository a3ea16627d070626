"""Signum: the sign of the running average of the gradient.

    m <- momentum * m + (1 - momentum) * g
    u  = -lr * sign(m) - lr * weight_decay * p

Follows: Bernstein, Wang, Azizzadenesheli, Anandkumar, "signSGD: Compressed Optimisation for
    Non-Convex Problems", arXiv 1802.04434, Algorithm 2; defaults from MXNet's Signum, which the
    authors wrote. optax.signum and pytorch_optimizer's SignSGD agree.
Departs:
    - MXNet knows both decays (wd is coupled, wd_lh decoupled but not times lr); here it is
      decoupled and times lr, as in the authors' PyTorch code.
    - sign(NaN) is NaN; torch.sign(NaN) is 0.
lr unit: parameter units per step.
"""

from __future__ import annotations

from typing import Any

from isostep import parts
from isostep.rule import Rule
from isostep.rules import signsgd


def update(
    p: Any, g: Any, m: Any, t: int, /, *, lr: Any, momentum: Any, weight_decay: Any
) -> tuple[Any, Any]:
    """See the module's equations."""
    m = parts.average(m, g, momentum)
    return signsgd.step(p, m, lr, weight_decay), m


RULE = Rule(
    name="signum",
    update=update,
    state=("momentum_buffer",),
    hyper={
        "lr": parts.lr(1e-2),
        "momentum": parts.decay_rate(0.9),
        "weight_decay": parts.weight_decay(),
    },
    family="sign",
    year=2018,
    paper="Bernstein et al., signSGD: Compressed Optimisation for Non-Convex Problems",
    arxiv="1802.04434",
)
