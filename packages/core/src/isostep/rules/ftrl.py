"""FTRL-Proximal: the parameter is solved anew from all gradients so far, with L1 and L2 penalties.

    h  = g + 2 * l2_shrinkage_regularization_strength * p
    n' = n + g**2                                   n starts at initial_accumulator_value
    z <- z + h - (n'**-learning_rate_power - n**-learning_rate_power) / lr * p
    q  = n'**-learning_rate_power / lr + 2 * l2_regularization_strength + beta / lr
    p <- (clip(z, l1_regularization_strength) - z) / q              clipped both ways
    n <- n'

Follows: McMahan et al., "Ad Click Prediction: a View from the Trenches", KDD 2013, Algorithm 1, in
    the form of TensorFlow's ApplyFtrlV2 and Keras's Ftrl, with their names.
Departs:
    - The factor 2 of the L2 penalty and the power are TensorFlow's; beta is the paper's and Keras's.
    - The parameter is overwritten: what it was only counts through z, so that its first value is
      forgotten at once unless z knows of it.
    - pytorch_optimizer's FTRL adds beta and the L2 penalty otherwise.
lr unit: parameter units for the first step.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.rule import Rule


def init(p: Any, /, *, initial_accumulator_value: Any) -> tuple[Any, Any]:
    """The sum of squares starts at a value, the linear term at zero."""
    return parts.filled(p, initial_accumulator_value), parts.zeros(p)


def update(
    p: Any,
    g: Any,
    n: Any,
    z: Any,
    t: int,
    /,
    *,
    lr: Any,
    learning_rate_power: Any,
    l1_regularization_strength: Any,
    l2_regularization_strength: Any,
    l2_shrinkage_regularization_strength: Any,
    beta: Any,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    h = g + (2 * l2_shrinkage_regularization_strength) * p
    before = nm.pow(n, -learning_rate_power)
    n = n + g * g
    after = nm.pow(n, -learning_rate_power)
    z = z + h - (after - before) / lr * p
    quadratic = after / lr + (2 * l2_regularization_strength + beta / lr)
    bound = l1_regularization_strength
    return nm.overwrite((nm.clip(z, -bound, bound) - z) / quadratic), n, z


RULE = Rule(
    name="ftrl",
    update=update,
    init=init,
    state=("accumulator", "linear"),
    hyper={
        "lr": parts.lr(1e-3, low_open=True),
        "learning_rate_power": Real(
            -0.5, high=0, cases=(-0.4,), doc="minus the power of the sum of squares"
        ),
        "initial_accumulator_value": Real(
            0.1, low=0, doc="the sum of squares before the first step"
        ),
        "l1_regularization_strength": Real(0.0, low=0, cases=(0.05,), doc="L1 penalty"),
        "l2_regularization_strength": Real(0.0, low=0, cases=(0.1,), doc="L2 penalty"),
        "l2_shrinkage_regularization_strength": Real(
            0.0, low=0, cases=(0.1,), doc="L2 penalty of the loss, which only the gradient sees"
        ),
        "beta": Real(0.0, low=0, cases=(0.2,), doc="added to the root of the sum of squares"),
    },
    family="adaptive",
    year=2013,
    paper="McMahan et al., Ad Click Prediction: a View from the Trenches",
)
