"""ASGD: gradient descent with a falling learning rate, and the average of the points it visits.

    g  <- g + weight_decay * p
    eta = lr / (1 + lambd * lr * (t - 1))**alpha
    mu  = 1 / max(1, t - 1 - t0)
    u   = -eta * (g + lambd * p)
    ax <- ax + mu * (p + u - ax)

Follows: torch.optim.ASGD; the rate and the decay lambd are those of Bottou's SGD (leon.bottou.org
    /projects/sgd), the averaging is Polyak, Juditsky, "Acceleration of Stochastic Approximation by
    Averaging", SIAM J. Control and Optimization 30 (1992). ax is the average, for evaluation; the
    step does not use it.
Departs:
    - torch computes eta at the end of a step for the next one, so that a change of lr acts one step
      late there. Here eta has the lr of its own step: the same while lr is constant.
    - torch keeps eta and mu as float32 unless float64 is its default dtype; here they are scalars
      in float64.
    - Until t > t0 + 2 the average is just the newest point, as in torch, which with the default t0
      of a million is nearly always.
lr unit: parameter units per gradient unit. lambd unit: fraction of p per unit of eta.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.rule import Rule


def eta(t: int, /, *, lr: Any, lambd: Any, alpha: Any) -> Any:
    """The learning rate of step t."""
    return lr / nm.pow(1 + lambd * lr * (t - 1), alpha)


def mu(t: int, /, *, t0: Any) -> Any:
    """How much of the average step t makes new."""
    return 1 / nm.maximum(1.0, t - 1 - t0)


def update(
    p: Any,
    g: Any,
    ax: Any,
    t: int,
    /,
    *,
    lr: Any,
    lambd: Any,
    alpha: Any,
    t0: Any,
    weight_decay: Any,
) -> tuple[Any, Any]:
    """See the module's equations."""
    g = parts.coupled(p, g, weight_decay)
    rate = eta(t, lr=lr, lambd=lambd, alpha=alpha)
    u = -rate * g - (lambd * rate) * p
    new = p + u
    return u, ax + mu(t, t0=t0) * (new - ax)


def evaluate(p: Any, ax: Any, t: int, /) -> Any:
    """The average of the points."""
    return ax


RULE = Rule(
    name="asgd",
    update=update,
    evaluate=evaluate,
    derived={"eta": eta, "mu": mu},
    state=("ax",),
    hyper={
        "lr": parts.lr(1e-2),
        "lambd": Real(1e-4, low=0, cases=(0.2,), doc="decay of the parameter, and of eta"),
        "alpha": Real(0.75, low=0, cases=(0.6,), doc="power of eta's decay"),
        "t0": Real(1e6, low=0, cases=(3.0,), doc="steps before the average begins"),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
    },
    family="sgd",
    year=1992,
    paper="Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging",
)
