"""DoG: SGD whose rate is the distance from the start over the root of the sum of all squared gradients.

    g <- g + weight_decay * p
    G <- G + sum of g**2                            group state, as r; sums over all its parameters
    r <- max(r, |p - p0|)                           reps_rel * (1 + |p0|) at t = 1
    eta = lr * r / sqrt(G + eps)
    u  = -eta * g

p0 is the parameter before the first step, |.| the norm over the group. With init_eta r is 0 and eta is
init_eta at t = 1.

Follows: Ivgi, Hinder, Carmon, "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule",
    arXiv 2302.12022, its formula DoG, and the authors' code formll/dog, dog.py, which has the first r
    as a part of the start's size. optax.contrib.dog agrees. The form for each layer is ldog.py.
Departs:
    - The paper has no eps and no weight decay; both are the authors' code's. Without eps it is 0 / 0
      until there is a gradient, which that code refuses; here eps is above zero.
    - That code starts G at eps, here it is added under the root, as in optax.
    - optax has reps_rel as init_step=("heuristic", x) and init_eta as ("learning_rate", x), which it
      multiplies by lr; its ("distance", x) is reps_rel = x / (1 + |p0|).
    - r and p0 of a group that gets a parameter later stay as they are; the newcomer starts its own
      p0 with its first gradient. The authors' code fails on parameters without a gradient.
    - The average of points that the authors recommend is beside a rule: isostep's averages have
      their polynomial_decay.
lr unit: a factor, to be left at 1 or given a schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.rule import Rule


def init(p: Any, /) -> Any:
    """A copy of the starting point."""
    return parts.copied(p)


def measure(
    p: Any, g: Any, p0: Any, t: int, /, *, weight_decay: Any, init_eta: Any
) -> Mapping[str, Any]:
    """The squares of the gradient, of the way from the start and, where it counts, of the start."""
    g, way = parts.coupled(p, g, weight_decay), p - p0
    start = {"start": p0 * p0} if init_eta is None else {}
    return {"gradient": g * g, "way": way * way, **start}


def estimates(
    sums: Mapping[str, Any],
    r: Any,
    total: Any,
    t: Any,
    *,
    lr: Any,
    reps_rel: Any,
    init_eta: Any,
    eps: Any,
) -> tuple[Any, Any, Any]:
    """The new r and G, and the rate. L-DoG shares it."""
    total = total + sums["gradient"]
    r = nm.maximum(r, nm.sqrt(sums["way"]))
    if init_eta is None:
        r = nm.where(t > 1, r, reps_rel * (1 + nm.sqrt(sums["start"])))
    eta = lr * r / nm.sqrt(total + eps)
    return r, total, eta if init_eta is None else nm.where(t > 1, eta, init_eta)


def advance(
    sums: Mapping[str, Any],
    group: Mapping[str, Any],
    t: int,
    /,
    *,
    lr: Any,
    reps_rel: Any,
    init_eta: Any,
    eps: Any,
) -> dict[str, Any]:
    """The estimates, and the rate that this step goes by."""
    r, total, eta = estimates(
        sums, group["rbar"], group["G"], t, lr=lr, reps_rel=reps_rel, init_eta=init_eta, eps=eps
    )
    return {"rbar": r, "G": total, "eta": eta}


def update(p: Any, g: Any, p0: Any, t: int, /, *, weight_decay: Any, eta: Any) -> tuple[Any, Any]:
    """See the module's equations."""
    return -eta * parts.coupled(p, g, weight_decay), p0


HYPER = {
    "lr": parts.lr(1.0, "factor of the rate", cases=(0.7,)),
    "reps_rel": Real(
        1e-6, low=0, low_open=True, cases=(0.01,), doc="first r, by the size of the start"
    ),
    "init_eta": Real(
        None,
        low=0,
        low_open=True,
        optional=True,
        cases=(0.02,),
        doc="rate of the first step, in the place of a first r",
    ),
    "eps": parts.eps(1e-8, "added to the sum of squares", low_open=True),
    "weight_decay": parts.weight_decay(doc=parts.COUPLED),
}

RULE = Rule(
    name="dog",
    update=update,
    init=init,
    measure=measure,
    advance=advance,
    group=dict.fromkeys(("rbar", "G", "eta"), lambda h: 0.0),
    state=("init_buffer",),
    hyper=HYPER,
    family="parameter-free",
    year=2023,
    paper="Ivgi et al., DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule",
    arxiv="2302.12022",
)
