"""DoWG: SGD whose rate is the squared distance from the start over the root of a sum of gradients that it weighs.

    g <- g + weight_decay * p
    r <- max(r, |p - p0|**2)                        group state, as v; sums over all its parameters
    v <- v + r * (sum of g**2)
    u  = -lr * r / (sqrt(v) + eps) * g

p0 is the parameter before the first step. r starts at init_estim_sq_dist, or at eps without one.

Follows: Khaled, Mishchenko, Jin, "DoWG Unleashed: An Efficient Universal Parameter-Free Gradient
    Descent Method", arXiv 2305.16284, Algorithm 1 on the whole space, and the authors' code
    rka97/dowg, dowg.py. optax.contrib.dowg agrees.
Departs:
    - The paper has no eps; the authors' code adds it to the root and starts r with it.
    - lr, weight_decay and init_estim_sq_dist are optax's; the authors' code has neither.
    - A parameter that joins later starts its own p0 with its first gradient.
    - The sums are over the parameter group; the authors' over all groups together.
    - The authors' form for each coordinate, CDoWG, is left out.
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


def measure(p: Any, g: Any, p0: Any, t: int, /, *, weight_decay: Any) -> Mapping[str, Any]:
    """The squares of the gradient and of the way from the start."""
    g, way = parts.coupled(p, g, weight_decay), p - p0
    return {"gradient": g * g, "way": way * way}


def advance(sums: Mapping[str, Any], group: Mapping[str, Any], t: int, /) -> dict[str, Any]:
    """The new squared distance, and the sum that it weighs."""
    r = nm.maximum(group["rt2"], sums["way"])
    return {"rt2": r, "vt": group["vt"] + r * sums["gradient"]}


def update(
    p: Any,
    g: Any,
    p0: Any,
    t: int,
    /,
    *,
    lr: Any,
    eps: Any,
    weight_decay: Any,
    rt2: Any,
    vt: Any,
) -> tuple[Any, Any]:
    """See the module's equations."""
    rate = lr * rt2 / (nm.sqrt(vt) + eps)
    return -rate * parts.coupled(p, g, weight_decay), p0


RULE = Rule(
    name="dowg",
    update=update,
    init=init,
    measure=measure,
    advance=advance,
    group={
        "rt2": lambda h: h.eps if h.init_estim_sq_dist is None else h.init_estim_sq_dist,
        "vt": lambda h: 0.0,
    },
    state=("x0",),
    hyper={
        "lr": parts.lr(1.0, "factor of the rate", cases=(0.7,)),
        "eps": parts.eps(1e-4, "added to the denominator; the first r", low_open=True),
        "init_estim_sq_dist": Real(
            None,
            low=0,
            low_open=True,
            optional=True,
            cases=(0.02,),
            doc="the first r; None: eps",
        ),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
    },
    family="parameter-free",
    year=2023,
    paper="Khaled et al., DoWG Unleashed: An Efficient Universal Parameter-Free Gradient Descent Method",
    arxiv="2305.16284",
)
