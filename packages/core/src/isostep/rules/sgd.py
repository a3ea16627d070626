"""SGD: gradient descent, with momentum and Nesterov momentum as choices.

    g <- g + weight_decay * p
    b <- momentum * b + (1 - dampening) * g         b = g at t = 1, whatever the dampening
    d  = g without momentum;  b;  or g + momentum * b with nesterov
    u  = -lr * d

Follows: torch.optim.SGD, whose momentum is that of Sutskever, Martens, Dahl, Hinton, "On the
    importance of initialization and momentum in deep learning" (ICML 2013), section 2, with lr
    moved out of the buffer. TensorFlow's ApplyMomentum, optax.sgd, timm's SGDW and optimi agree at
    dampening 0.
Departs:
    - From the paper: lr multiplies the buffer instead of being summed into it, so a change of lr
      acts at once. Keras and TensorFlow's KerasMomentum keep it inside: equal only while lr is
      constant.
    - From the paper: Nesterov's gradient is taken at p and not at the looked-ahead point; the
      usual change of variables, which torch, TensorFlow, Keras and optax share.
    - Dampening is skipped at t = 1, as in torch; MLX applies it there too.
    - weight_decay is coupled (added to the gradient), as in torch; Keras's argument of that name
      is decoupled.
lr unit: parameter units per gradient unit.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Real
from isostep.rule import Rule


def descent(
    g: Any, buffer: tuple[Any, ...], t: int, *, momentum: Any, dampening: Any, nesterov: bool
) -> tuple[Any, tuple[Any, ...]]:
    """The direction to go down, and the new buffer if there is one. SGD-HD shares it."""
    if not momentum:
        return g, ()
    (b,) = buffer
    # b is zero before the first step, so all that t = 1 needs is the undamped gradient.
    kept = nm.where(t > 1, 1 - dampening, 1.0) * g if dampening else g
    b = momentum * b + kept
    return (g + momentum * b if nesterov else b), (b,)


def update(
    p: Any,
    g: Any,
    /,
    *buffer_t: Any,
    lr: Any,
    momentum: Any,
    dampening: Any,
    weight_decay: Any,
    nesterov: bool,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *buffer, t = buffer_t
    g = parts.coupled(p, g, weight_decay)
    d, state = descent(
        g, tuple(buffer), t, momentum=momentum, dampening=dampening, nesterov=nesterov
    )
    return -lr * d, *state


def check(h: SimpleNamespace) -> str | None:
    """Nesterov's formula has no meaning without momentum or with dampening.

    Where a run takes the momentum to 0, or a group dampens, the step is what ``descent`` says, as in torch.
    """
    if h.nesterov and (not h.momentum or h.dampening):
        return (
            f"nesterov=True needs momentum > 0 and dampening 0, got momentum={h.momentum!r} and "
            f"dampening={h.dampening!r}; set those or leave nesterov out"
        )
    return None


RULE = Rule(
    name="sgd",
    update=update,
    state=lambda h: ("momentum_buffer",) if h.momentum else (),
    hyper={
        "lr": parts.lr(1e-3),
        "momentum": Real(0.0, low=0, zero_is_static=True, cases=(0.85,), doc="momentum factor"),
        "dampening": Real(
            0.0,
            low=0,
            high=1,
            zero_is_static=True,
            doc="part of the gradient kept out of the momentum",
        ),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
        "nesterov": Flag(False, doc="Nesterov momentum"),
    },
    check_bound=check,
    known_as={"momentum": {"momentum": 0.9}, "nesterov": {"momentum": 0.9, "nesterov": True}},
    family="sgd",
    year=2013,
    paper="Sutskever et al., On the importance of initialization and momentum in deep learning",
)
