"""AdaShift: Adam whose squares come from a gradient n steps old, which this step's is independent of.

    m  = sum of beta1**i * g(t - i) / sum of beta1**i           i = 0 .. keep_num - 1
    q  = largest of g(t - keep_num)**2 of the array, or g(t - keep_num)**2 itself
    v <- b2 * v + (1 - b2) * q                      c2 = 1 - b2**(t - keep_num)
    u  = -lr * m / (sqrt(v / c2) + eps)             v and u stay 0 while t <= keep_num

Follows: Zhou, Zhang, Song, Wang, Zhang, Yu, "AdaShift: Decorrelation and Convergence of Adaptive
    Learning Rate Methods", arXiv 1810.00143, Algorithm 3 (max over the array as its spatial
    operation, one block for each array) and Algorithm 2 (reduce "none"). pytorch_optimizer's
    AdaShift agrees; there is no code of the authors'.
Departs:
    - eps is not in the paper's equations.
    - m is summed anew from the kept gradients; pytorch_optimizer subtracts the oldest from a
      running sum, where rounding adds up.
    - The paper's spatial operation may be any function; here it is the maximum or none.
    - The kept gradients are one state array for each step of delay, keep_num arrays.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Integer
from isostep.rule import Rule


def reduced(q: Any, reduce: str) -> Any:
    """One number for the array, or every element's own."""
    axes = tuple(range(-q.ndim, 0)) if reduce == "max" else ()
    return nm.max_axis(q, axis=axes) if axes else q


def update(
    p: Any,
    g: Any,
    v: Any,
    /,
    *kept_t: Any,
    lr: Any,
    betas: tuple[Any, Any],
    keep_num: int,
    reduce: str,
    eps: Any,
) -> tuple[Any, ...]:
    """See the module's equations. ``kept``: the gradients of the last steps, the newest first."""
    *kept, t = kept_t
    b1, b2 = betas
    m, step, weight = g, -lr, b1
    if keep_num > 1:
        total = 1 + b1
        m = g + b1 * kept[0]
        for old in kept[1:-1]:
            weight = weight * b1
            total = total + weight
            m = m + weight * old
        step = -lr / total
    ready = t > keep_num
    # The kept gradients are zero before the first step, and so is v until the oldest is one.
    v = parts.average(v, reduced(kept[-1] * kept[-1], reduce), b2)
    c2 = nm.one_minus_pow(b2, nm.maximum(t - keep_num, 1))
    u = step * m / (parts.root(v, c2) + eps)
    return nm.where(ready, u, 0.0), v, g, *kept[:-1]


RULE = Rule(
    name="adashift",
    update=update,
    state=lambda h: ("exp_avg_sq", *(f"grad_{i}" for i in range(1, h.keep_num + 1))),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(
            0.9, 0.999, doc="weight of an older gradient in m, and decay rate of the squares"
        ),
        "keep_num": Integer(
            10, low=1, high=99, static=True, cases=(3, 1), doc="steps of delay, gradients in m"
        ),
        "reduce": Choice("max", options=("max", "none"), doc="what stands for an array's squares"),
        "eps": parts.eps(1e-10),
    },
    family="adam",
    year=2018,
    paper="Zhou et al., AdaShift: Decorrelation and Convergence of Adaptive Learning Rate Methods",
    arxiv="1810.00143",
)
