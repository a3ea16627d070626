"""SGD-HD: SGD that also learns its learning rate, by the loss's gradient with respect to it.

    h  = <g_t, d_{t-1}> over all parameters of the group    0 at t = 1
    lr <- lr + hypergrad_lr * h                             group state, starts at the argument lr
    d  = SGD's direction (sgd.py)
    u  = -lr * d                                            with the new lr

Follows: Baydin, Cornish, Martinez Rubio, Schmidt, Wood, "Online Learning Rate Adaptation with
    Hypergradient Descent", arXiv 1703.04782, Algorithm 4 (SGD-HD) and, with nesterov, Algorithm 5
    (SGDN-HD); names, defaults and plain momentum from the authors' code
    gbaydin/hypergradient-descent, sgd_hd.py. d_{t-1} is the whole direction of the previous step,
    momentum included.
Departs:
    - lr, a required argument there, defaults to 1e-3.
    - weight_decay is not in the paper; as in the authors' code it is coupled, and h sees the
      decayed gradient. (That code also writes the decay into the caller's gradient.)
    - One learning rate for each parameter group; the authors' SGDHD refuses more than one group.
    - A parameter without a gradient is skipped; there it counts as one with a zero gradient.
    - Nothing keeps lr from turning negative, as in both.
lr unit: as SGD. hypergrad_lr unit: lr per squared gradient norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from isostep import parts
from isostep.domains import Real
from isostep.rule import Rule
from isostep.rules import sgd


def measure(p: Any, g: Any, /, *state_t: Any, weight_decay: Any) -> dict[str, Any]:
    """The products whose sum over the group is <g_t, d_{t-1}>; d is zero before the first step."""
    *_, previous, _t = state_t
    return {"h": parts.coupled(p, g, weight_decay) * previous}


def advance(
    sums: Mapping[str, Any], group: Mapping[str, Any], t: int, /, *, hypergrad_lr: Any
) -> dict[str, Any]:
    """One step of gradient descent for the learning rate."""
    return {"lr": group["lr"] + hypergrad_lr * sums["h"]}


def update(
    p: Any,
    g: Any,
    /,
    *state_t: Any,
    lr: Any,
    momentum: Any,
    dampening: Any,
    weight_decay: Any,
    nesterov: bool,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *state, t = state_t
    g = parts.coupled(p, g, weight_decay)
    d, buffer = sgd.descent(
        g, tuple(state[:1]), t, momentum=momentum, dampening=dampening, nesterov=nesterov
    )
    # Without Nesterov the buffer is the direction itself, so it need not be kept twice.
    return (-lr * d, *buffer, d) if nesterov or not momentum else (-lr * d, *buffer)


def state(h: SimpleNamespace) -> tuple[str, ...]:
    """What is needed to know the previous direction; it comes last."""
    if not h.momentum:
        return ("grad_prev",)
    return ("momentum_buffer", "grad_prev") if h.nesterov else ("momentum_buffer",)


RULE = Rule(
    name="sgd_hd",
    update=update,
    measure=measure,
    advance=advance,
    group={"lr": lambda h: h.lr},
    state=state,
    hyper={
        "lr": parts.lr(1e-3, "learning rate of the first step"),
        "hypergrad_lr": Real(1e-6, low=0, cases=(1e-3,), doc="learning rate of the learning rate"),
        **{n: d for n, d in sgd.RULE.hyper.items() if n != "lr"},
    },
    check=sgd.check,
    family="hypergradient",
    year=2017,
    paper="Baydin et al., Online Learning Rate Adaptation with Hypergradient Descent",
    arxiv="1703.04782",
)
