"""SGD-HD: SGD that also learns its learning rate, by the loss's gradient with respect to it.

    h  = <g_t, d_{t-1}> over all parameters of the group    0 at t = 1
    lr <- lr + hypergrad_lr * h                             group state, starts at the argument lr
    lr <- lr * (1 + hypergrad_lr * h / (|g_t| * |d_{t-1}|)) multiplicative; h = 0 where a norm is 0
    lr <- min(max(lr, min_lr), max_lr)                      those that are not None
    d  = SGD's direction (sgd.py)
    u  = -lr * d                                            with the new lr

Follows: Baydin, Cornish, Martinez Rubio, Schmidt, Wood, "Online Learning Rate Adaptation with
    Hypergradient Descent", arXiv 1703.04782, Algorithm 4 (SGD-HD) and, with nesterov, Algorithm 5
    (SGDN-HD); names, defaults and plain momentum from the authors' code
    gbaydin/hypergradient-descent, sgd_hd.py. d_{t-1} is the whole direction of the previous step,
    momentum included. The multiplicative form is the alternative line of Algorithm 4 on the
    authors' ICLR 2018 poster, and equation 3.4 of Martinez Rubio's dissertation "Convergence
    Analysis of an Adaptive Method of Gradient Descent" (2017), which has 0.05 for hypergrad_lr.
Departs:
    - lr, a required argument there, defaults to 1e-3.
    - weight_decay is not in the paper; as in the authors' code it is coupled, and h sees the
      decayed gradient. (That code also writes the decay into the caller's gradient.)
    - One learning rate for each parameter group; the authors' SGDHD refuses more than one group.
    - A parameter without a gradient is skipped; there it counts as one with a zero gradient.
    - min_lr and max_lr are in neither, where nothing keeps lr from turning negative (issues 1 and 4
      there ask for a bound). The multiplicative form with hypergrad_lr below 1 needs none.
    - The authors' code has no multiplicative form, and the dissertation none with momentum; as on
      the poster it is put in the place of the additive line.
lr unit: as SGD. hypergrad_lr unit: lr per squared gradient norm; multiplicative, a fraction.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Real
from isostep.rule import Rule
from isostep.rules import sgd

#: What keeps 0/0 from the cosine: the smallest normal number of float32.
TINY = 2.0**-126


def products(g: Any, d: Any, multiplicative: bool) -> dict[str, Any]:
    """What is summed over the group: <g, d>, and the squared norms where h is divided by them."""
    return {"h": g * d, **({"gg": g * g, "dd": d * d} if multiplicative else {})}


def moved(lr: Any, sums: Mapping[str, Any], hypergrad_lr: Any, multiplicative: bool) -> Any:
    """The learning rate after one step of gradient descent of its own."""
    if not multiplicative:
        return lr + hypergrad_lr * sums["h"]
    norms = nm.sqrt(sums["gg"]) * nm.sqrt(sums["dd"])
    # Where a norm is zero so is h, and lr stays.
    return lr * (1 + hypergrad_lr * (sums["h"] / nm.maximum(norms, TINY)))


def bounded(lr: Any, min_lr: Any, max_lr: Any) -> Any:
    """The learning rate between the bounds that there are."""
    lr = lr if min_lr is None else nm.maximum(lr, min_lr)
    return lr if max_lr is None else nm.minimum(lr, max_lr)


def measure(
    p: Any, g: Any, /, *state_t: Any, weight_decay: Any, multiplicative: bool
) -> dict[str, Any]:
    """The products of g_t with d_{t-1}."""
    *_, previous, _t = state_t
    return products(parts.coupled(p, g, weight_decay), previous, multiplicative)


def advance(
    sums: Mapping[str, Any],
    group: Mapping[str, Any],
    t: int,
    /,
    *,
    hypergrad_lr: Any,
    multiplicative: bool,
    min_lr: Any,
    max_lr: Any,
) -> dict[str, Any]:
    """The next learning rate; d_{t-1} is zero at t = 1."""
    lr = moved(group["lr"], sums, hypergrad_lr, multiplicative)
    return {"lr": bounded(lr, min_lr, max_lr)}


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


def check(h: SimpleNamespace) -> str | None:
    """The bounds in order, as far as they are numbers."""
    low, high = h.min_lr, h.max_lr
    if isinstance(low, float) and isinstance(high, float) and low > high:
        return f"max_lr must be at least min_lr, {low!r}, got {high!r}"
    return None


#: Where the learning rate starts, and how it moves. Adam-HD shares both. In conformance's cases its bounds are
#: near enough to where it starts for small steps to reach both of them.
START = {"lr": parts.lr(1e-3, "learning rate of the first step", cases=(0.15,))}
HYPERGRADIENT = {
    "multiplicative": Flag(False, doc="change lr by a fraction, the cosine of g and d, times lr"),
    "min_lr": Real(None, low=0, optional=True, cases=(0.150001,), doc="lower bound of lr"),
    "max_lr": Real(None, low=0, optional=True, cases=(0.150006,), doc="upper bound of lr"),
}

RULE = Rule(
    name="sgd_hd",
    update=update,
    measure=measure,
    advance=advance,
    group={"lr": lambda h: h.lr},
    state=state,
    hyper={
        **START,
        "hypergrad_lr": Real(1e-6, low=0, cases=(1e-3,), doc="learning rate of the learning rate"),
        **{n: d for n, d in sgd.RULE.hyper.items() if n != "lr"},
        **HYPERGRADIENT,
    },
    check=check,
    check_bound=sgd.check,
    family="hypergradient",
    year=2017,
    paper="Baydin et al., Online Learning Rate Adaptation with Hypergradient Descent",
    arxiv="1703.04782",
)
