"""RMSprop: the gradient over the root of the running average of its squares.

    g <- g + weight_decay * p                       (keras: u <- u - lr * weight_decay * p instead)
    v <- alpha * v + (1 - alpha) * g**2             starts at 0, in tf1 at 1
    a <- alpha * a + (1 - alpha) * g                centered only; s = v - a**2, else s = v

    torch               d = g / (sqrt(s) + eps)     b <- momentum * b + d           u = -lr * b
    optax, keras, tf1   d = g / sqrt(s + eps)       b <- momentum * b + lr * d      u = -b

Without momentum b is d, or lr * d.

Follows: Hinton, Srivastava, Swersky, "Neural Networks for Machine Learning", lecture 6e (2012), for
    v; the centered form of Graves, "Generating Sequences With Recurrent Neural Networks", arXiv
    1308.0850, equations 38 to 40; torch.optim.RMSprop, optax.rmsprop, Keras's RMSprop and
    TensorFlow's ApplyRMSProp and ApplyCenteredRMSProp.
Departs:
    - The lecture has no eps. torch adds it to the root, the others under it; optax with
      eps_in_sqrt=False and a constant lr is torch's.
    - v starts at 1 in TensorFlow 1's optimizer and timm's RMSpropTF. Keras and optax let it start at
      0.
    - s may come out below zero by rounding where the gradient has long been constant: with a small
      eps that is NaN, as in all of them.
    - weight_decay is in none of the sources: coupled but in keras.
Other defaults: optax alpha 0.9; Keras lr 1e-3, alpha (rho) 0.9, eps 1e-7; TensorFlow alpha 0.9, eps
1e-10. HeavyBall's RMSprop corrects the bias and is another rule.
lr unit: parameter units per step.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Flag, Real
from isostep.rule import Rule

DIALECTS = ("torch", "optax", "keras", "tf1")


def init(p: Any, /, *, momentum: Any, centered: bool, dialect: str) -> tuple[Any, ...]:
    """The average of squares starts at one in TensorFlow 1, and everything else at zero."""
    others = [parts.zeros(p) for present in (momentum, centered) if present]
    return parts.filled(p, 1.0 if dialect == "tf1" else 0.0), *others


def update(
    p: Any,
    g: Any,
    v: Any,
    /,
    *state_t: Any,
    lr: Any,
    alpha: Any,
    eps: Any,
    weight_decay: Any,
    momentum: Any,
    centered: bool,
    dialect: str,
    denominator: Any = parts.same,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *state, _t = state_t
    coupled = dialect != "keras"
    g = parts.coupled(p, g, weight_decay, when=coupled)
    v = parts.average(v, g * g, alpha)
    averages = [parts.average(state[-1], g, alpha)] if centered else []
    square = v - averages[0] * averages[0] if centered else v
    if dialect == "torch":
        d = g / denominator(nm.sqrt(square) + eps)
    else:
        d = lr * g / denominator(nm.sqrt(square + eps))
    buffers = [momentum * state[0] + d] if momentum else []
    d = buffers[0] if momentum else d
    u = -lr * d if dialect == "torch" else -d
    return parts.decoupled(p, u, lr, weight_decay, when=not coupled), v, *buffers, *averages


def state(h: SimpleNamespace) -> tuple[str, ...]:
    """What momentum and centering need beside the average of squares."""
    momentum = ("momentum_buffer",) if h.momentum else ()
    return ("square_avg", *momentum, *(("grad_avg",) if h.centered else ()))


RULE = Rule(
    name="rmsprop",
    update=update,
    init=init,
    state=state,
    hyper={
        "lr": parts.lr(1e-2),
        "alpha": parts.decay_rate(0.99, "decay rate of the running averages"),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(doc="weight decay, coupled but in keras"),
        "momentum": Real(0.0, low=0, zero_is_static=True, cases=(0.85,), doc="momentum factor"),
        "centered": Flag(False, doc="divide by the standard deviation"),
        "dialect": Choice(
            "torch", options=DIALECTS, doc="place of eps and lr, and where the average starts"
        ),
    },
    family="adaptive",
    year=2012,
    paper="Hinton et al., Neural Networks for Machine Learning, lecture 6e",
)
