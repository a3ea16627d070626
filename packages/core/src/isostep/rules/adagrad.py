"""Adagrad: each element's gradient over the root of the sum of all its squares so far.

    g <- g + weight_decay * p                       (keras: u <- u - lr * weight_decay * p instead)
    s <- s + g**2                                   starts at initial_accumulator_value
    r  = lr / (1 + (t - 1) * lr_decay)

    torch   u = -r * g / (sqrt(s) + eps)
    keras   u = -r * g / sqrt(s + eps)
    optax   as keras, and u = 0 where s = 0

Follows: Duchi, Hazan, Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization", JMLR 12 (2011), the diagonal case of its Algorithm 1 with the whole space as its
    domain; names and defaults from torch.optim.Adagrad. TensorFlow's AdagradV2 is the torch
    dialect.
Departs:
    - The paper adds its small constant (delta) to the root, as torch does; Keras and optax add it
      under the root.
    - lr_decay and weight_decay are torch's; Keras and optax have neither (Keras's weight decay is
      decoupled).
    - The initial value is torch's 0 in every dialect; Keras, optax and TensorFlow's layer default
      to 0.1, MLX to 0 with an eps of 1e-8.
Other defaults of eps: Keras and optax 1e-7. TensorFlow's first Adagrad has none.
lr unit: parameter units for the first step.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Real
from isostep.rule import Rule


def init(p: Any, /, *, initial_accumulator_value: Any) -> Any:
    """The sum of squares before the first step."""
    return parts.filled(p, initial_accumulator_value)


def update(
    p: Any,
    g: Any,
    s: Any,
    t: int,
    /,
    *,
    lr: Any,
    lr_decay: Any,
    weight_decay: Any,
    eps: Any,
    dialect: str,
    denominator: Any = parts.same,
) -> tuple[Any, Any]:
    """See the module's equations."""
    coupled = dialect != "keras"
    g = parts.coupled(p, g, weight_decay, when=coupled)
    s = s + g * g
    rate = lr / (1 + (t - 1) * lr_decay)
    if dialect == "torch":
        u = -rate * g / denominator(nm.sqrt(s) + eps)
    else:
        u = -rate * g / denominator(nm.sqrt(s + eps))
    if dialect == "optax":
        u = nm.where(s == 0, 0.0, u)
    return parts.decoupled(p, u, lr, weight_decay, when=not coupled), s


RULE = Rule(
    name="adagrad",
    update=update,
    init=init,
    state=("sum",),
    hyper={
        "lr": parts.lr(1e-2),
        "lr_decay": Real(0.0, low=0, cases=(0.1,), doc="how fast the learning rate falls"),
        "weight_decay": parts.weight_decay(doc="weight decay, coupled but in keras"),
        "initial_accumulator_value": Real(
            0.0, low=0, cases=(0.1, 0.0), doc="the sum of squares before the first step"
        ),
        "eps": parts.eps(1e-10),
        "dialect": Choice(
            "torch", options=("torch", "keras", "optax"), doc="whose formula where they differ"
        ),
    },
    family="adaptive",
    year=2011,
    paper="Duchi et al., Adaptive Subgradient Methods for Online Learning and Stochastic"
    " Optimization",
)
