"""CAME: Adafactor with momentum, damped where its updates disagree with that momentum.

    q   = g**2 + eps1
    arrays of two axes or more (the last two are factored):
    r  <- b2 * r + (1 - b2) * mean of q along rows              shape (..., rows, 1)
    c  <- b2 * c + (1 - b2) * mean of q along columns           shape (..., 1, columns)
    d   = g / sqrt(r / mean of r * c)
    vectors and scalars:
    v  <- b2 * v + (1 - b2) * q
    d   = g / sqrt(v)
    all arrays:
    d  <- d / max(1, RMS(d) / clip_threshold)
    m  <- b1 * m + (1 - b1) * d
    arrays of two axes or more, with i = (d - m)**2 + eps2:
    R  <- b3 * R + (1 - b3) * mean of i along rows
    C  <- b3 * C + (1 - b3) * mean of i along columns
    u   = -lr * m / sqrt(R / mean of R * C) - lr * weight_decay * p
    vectors and scalars:
    u   = -lr * m - lr * weight_decay * p

Follows: Luo, Ren, Zheng, Jiang, Jiang, You, "CAME: Confidence-guided Adaptive Memory Efficient
    Optimization", arXiv 2307.02047, Algorithm 2, and the authors' package came-pytorch.
    pytorch_optimizer's CAME agrees with ams_bound off.
Departs:
    - Means instead of the paper's sums for the factors, as in the package: the same product.
    - Vectors and scalars, decoupled weight decay and more than two axes are the package's; the
      paper has matrices only.
    - Roots are taken of r / mean of r and of c apart: no underflow at eps1 = 1e-30.
lr unit: RMS of the update per step, before the damping.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Pair, Real
from isostep.rule import Rule


def init(p: Any, /) -> tuple[Any, ...]:
    """Factors for matrices, the average for vectors; what an array has no use for is a 0-d zero."""
    zeros = parts.zeros(p)
    none = nm.sum(zeros)
    if p.ndim < 2:
        return zeros, zeros, none, none, 1.0 * none, 1.0 * none
    row, column = nm.sum_axis(zeros, axis=-1), nm.sum_axis(zeros, axis=-2)
    return zeros, none, row, column, 1.0 * row, 1.0 * column


def factors(x: Any, row: Any, column: Any, beta: Any) -> tuple[Any, Any, Any]:
    """The new factors of the average of x, and the root of what they stand for."""
    row = parts.average(row, nm.mean(x, axis=-1), beta)
    column = parts.average(column, nm.mean(x, axis=-2), beta)
    return row, column, nm.sqrt(row / nm.mean(row, axis=-2)) * nm.sqrt(column)


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    r: Any,
    c: Any,
    R: Any,
    C: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any, Any],
    eps: tuple[Any, Any],
    clip_threshold: Any,
    weight_decay: Any,
) -> tuple[Any, ...]:
    """See the module's equations."""
    b1, b2, b3 = betas
    q = g * g + eps[0]
    if p.ndim < 2:
        v = parts.average(v, q, b2)
        d = g / nm.sqrt(v)
    else:
        r, c, root = factors(q, r, c, b2)
        d = g / root
    d = d / nm.maximum(parts.rms(d) / clip_threshold, 1.0)
    m = parts.average(m, d, b1)
    if p.ndim < 2:
        u = -lr * m
    else:
        R, C, root = factors((d - m) * (d - m) + eps[1], R, C, b3)
        u = -lr * m / root
    return parts.decoupled(p, u, lr, weight_decay), m, v, r, c, R, C


RULE = Rule(
    name="came",
    update=update,
    init=init,
    state=(
        "exp_avg",
        "exp_avg_sq",
        "exp_avg_sq_row",
        "exp_avg_sq_col",
        "exp_avg_res_row",
        "exp_avg_res_col",
    ),
    hyper={
        "lr": parts.lr(2e-4),
        "betas": parts.betas(
            0.9, 0.999, 0.9999, doc="decay rates of the momentum, the squares, the instability"
        ),
        "eps": Pair(
            Real(1e-30, low=0, cases=(1e-3,)),
            Real(1e-16, low=0, cases=(1e-3,)),
            doc="added to the squares, and to the instability",
        ),
        "clip_threshold": Real(
            1.0, low=0, low_open=True, cases=(0.8,), doc="largest RMS of the update"
        ),
        "weight_decay": parts.weight_decay(),
    },
    family="adafactor",
    year=2023,
    paper="Luo et al., CAME: Confidence-guided Adaptive Memory Efficient Optimization",
    arxiv="2307.02047",
)
