"""AdamW: Adam beside a weight decay that does not pass through the averages.

    a  = Adam's update (adam.py), by dialect, without weight decay
    u  = a - lr * weight_decay * p                  torch, keras, optax
    u  = a - weight_decay * p                       paper

Follows: Loshchilov, Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101, Algorithm
    2, lines 7 to 12, with alpha = lr and lambda = weight_decay.
Departs:
    - torch, optax, keras and nearly everybody else multiply the decay by lr. The paper does not:
      it multiplies step and decay by eta_t, a schedule of its own. In the paper dialect give that
      schedule to both: lr=lambda done: alpha * eta(done), weight_decay=lambda done: lam *
      eta(done).
    - The decay and the step both act on the parameter as it was before this step, as in the paper;
      torch decays first and steps from there: the same number but for rounding. bitsandbytes' CUDA
      kernel decays last, (p + a) * (1 - lr * weight_decay), which is not.
    - amsgrad and the places of eps: as in adam.py.
Other defaults of weight_decay: torch 1e-2 (here), optax 1e-4, Keras 4e-3.
lr unit: parameter units per step, as Adam. weight_decay: fraction per step and unit of lr (paper:
    per step).
"""

from __future__ import annotations

from typing import Any

from isostep import parts
from isostep.rule import Rule
from isostep.rules import adam


def update(
    p: Any,
    g: Any,
    /,
    *state_t: Any,
    lr: Any,
    betas: Any,
    eps: Any,
    weight_decay: Any,
    dialect: str,
    denominator: Any = parts.same,
) -> tuple[Any, ...]:
    """See the module's equations."""
    u, *state = adam.step(
        g, *state_t, lr=lr, betas=betas, eps=eps, dialect=dialect, denominator=denominator
    )
    if weight_decay:
        decay = weight_decay if dialect == "paper" else lr * weight_decay
        u = u - decay * p
    return u, *state


RULE = Rule(
    name="adamw",
    update=update,
    state=adam.state,
    hyper={
        **{n: d for n, d in adam.RULE.hyper.items() if n != "decoupled_weight_decay"},
        "weight_decay": parts.weight_decay(1e-2),
    },
    family="adam",
    year=2017,
    paper="Loshchilov and Hutter, Decoupled Weight Decay Regularization",
    arxiv="1711.05101",
)
