"""AdaSmooth: RMSprop whose decay rate, for each element, depends on how straight its way has been.

    e  = |s| / n                                    0 where n is 0
    c  = (b2 - b1) * e + 1 - b2
    v <- (1 - c**2) * v + c**2 * g**2               with g <- g + weight_decay * p
    u  = -lr * g / sqrt(v + eps)
    s <- s + u,  n <- n + |u|                       both start at 0 again after every window steps

Follows: Lu, "AdaSmooth: An Adaptive Learning Rate Method based on Effective Ratio", arXiv
    2204.00825, the equations of its effective ratio, scaled smoothing constant and step, with the
    period of the ratio as the paper has it in practice: the number of the batch within its epoch,
    so that the sums can be accumulated and start anew with each epoch.
Departs:
    - window is the length of an epoch in steps, which a rule cannot know; 0, the default, never
      starts anew, as pytorch_optimizer's AdaSmooth.
    - pytorch_optimizer adds eps to n as well, and takes the differences of the parameters that it
      finds, other changes and their rounding included, where here it is the rule's own updates.
    - weight_decay is not in the paper; pytorch_optimizer has it, coupled by default.
lr unit: parameter units per step, as RMSprop.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Integer
from isostep.rule import Rule


def phase(t: int, /, *, window: int) -> int:
    """1 at the first step of a window: what s and n were is not looked at."""
    length = max(window, 1)
    return (window > 0) * (t % length == 1 % length)


def update(
    p: Any,
    g: Any,
    v: Any,
    s: Any,
    n: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    phase: int,
) -> tuple[Any, Any, Any, Any]:
    """See the module's equations."""
    fast, slow = betas
    g = parts.coupled(p, g, weight_decay)
    if phase:
        c = 1 - slow
    else:
        c = (slow - fast) * (nm.abs(s) / nm.where(n == 0, 1.0, n)) + (1 - slow)
    weight = c * c
    v = (1 - weight) * v + weight * (g * g)
    u = -lr * g / nm.sqrt(v + eps)
    return (u, v, u, nm.abs(u)) if phase else (u, v, s + u, n + nm.abs(u))


RULE = Rule(
    name="adasmooth",
    update=update,
    phase=phase,
    state=("exp_avg_sq", "s", "n"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(
            0.5, 0.99, doc="decay rates of v where the way is straight, and where it is a zigzag"
        ),
        "eps": parts.eps(1e-6, "added under the root"),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
        "window": Integer(
            0, low=0, static=True, cases=(5, 0), doc="steps of an epoch; 0: one epoch without end"
        ),
    },
    family="adaptive",
    year=2022,
    paper="Lu, AdaSmooth: An Adaptive Learning Rate Method based on Effective Ratio",
    arxiv="2204.00825",
)
