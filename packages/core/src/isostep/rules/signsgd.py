"""signSGD: the sign of the gradient.

    u = -lr * sign(g) - lr * weight_decay * p

Follows: Bernstein, Wang, Azizzadenesheli, Anandkumar, "signSGD: Compressed Optimisation for
    Non-Convex Problems", arXiv 1802.04434, Algorithm 1. optax.sign_sgd agrees.
Departs:
    - weight_decay is not in Algorithm 1; decoupled, as in the authors' code of Signum (signum.py,
      which is this rule with momentum).
    - sign(NaN) is NaN; torch.sign(NaN) is 0.
lr unit: parameter units per step.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.rule import Rule


def step(p: Any, direction: Any, lr: Any, weight_decay: Any) -> Any:
    """A step against the sign of a direction, beside a decoupled decay. Signum shares it."""
    return parts.decoupled(p, -lr * nm.sign(direction), lr, weight_decay)


def update(p: Any, g: Any, t: int, /, *, lr: Any, weight_decay: Any) -> Any:
    """See the module's equation."""
    return step(p, g, lr, weight_decay)


RULE = Rule(
    name="signsgd",
    update=update,
    hyper={
        "lr": parts.lr(1e-2),
        "weight_decay": parts.weight_decay(),
    },
    family="sign",
    year=2018,
    paper="Bernstein et al., signSGD: Compressed Optimisation for Non-Convex Problems",
    arxiv="1802.04434",
)
