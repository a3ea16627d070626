"""L-DoG: DoG with a distance and a sum of squares for each array.

    g <- g + weight_decay * p
    G <- G + sum of g**2                            one number for each array, as r
    r <- max(r, |p - p0|)                           reps_rel * (1 + |p0|) at t = 1
    eta = lr * r / sqrt(G + eps)
    u  = -eta * g

p0 is the parameter before its first step, |.| the norm of an array. With init_eta r is 0 and eta is
init_eta at t = 1.

Follows: Ivgi, Hinder, Carmon, "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule",
    arXiv 2302.12022, its per-layer variant L-DoG, and the authors' code formll/dog, LDoG in dog.py.
    optax.contrib.dog agrees where it is given one array.
Departs:
    - As dog.py, in eps, init_eta and the average of points.
    - t is counted per parameter: one that joins later has a first step of its own.
    - r and G are state, in the parameter's dtype: a G in half precision soon grows no more, and
      state_dtype="float32" helps.
lr unit: a factor, to be left at 1 or given a schedule.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.rule import Rule
from isostep.rules import dog


def init(p: Any, /) -> tuple[Any, Any, Any]:
    """A copy of the starting point, and two numbers for the array."""
    zero = nm.sum(parts.zeros(p))
    return parts.copied(p), zero, 1.0 * zero


def update(
    p: Any,
    g: Any,
    p0: Any,
    r: Any,
    total: Any,
    t: int,
    /,
    *,
    lr: Any,
    reps_rel: Any,
    init_eta: Any,
    eps: Any,
    weight_decay: Any,
) -> tuple[Any, Any, Any, Any]:
    """See the module's equations."""
    squares = dog.measure(p, g, p0, t, weight_decay=weight_decay, init_eta=init_eta)
    sums = {name: nm.sum(x) for name, x in squares.items()}
    r, total, eta = dog.estimates(
        sums, r, total, t, lr=lr, reps_rel=reps_rel, init_eta=init_eta, eps=eps
    )
    return -eta * parts.coupled(p, g, weight_decay), p0, r, total


RULE = Rule(
    name="ldog",
    update=update,
    init=init,
    state=("init_buffer", "rbar", "G"),
    hyper=dog.HYPER,
    family="parameter-free",
    year=2023,
    paper="Ivgi et al., DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule",
    arxiv="2302.12022",
)
