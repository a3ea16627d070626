"""Adafactor: the average of squares of a matrix, kept as one row factor and one column factor.

    w   = t**beta2_decay                                    1 - beta2 of this step
    q   = g**2                                              paper: g**2 + eps1
    arrays of two axes or more (the last two are factored):
    r  <- (1 - w) * r + w * mean of q along rows            shape (..., rows, 1)
    c  <- (1 - w) * c + w * mean of q along columns         shape (..., 1, columns)
    v   = r * c / max(mean of r, eps1)                      paper: r * c / mean of r
    vectors and scalars:
    v  <- (1 - w) * v + w * q
    d'  = g / sqrt(max(v, eps1**2))                         paper: g / sqrt(v)
    u   = -lr * weight_decay * p
          - max(eps2, RMS(p)) * min(lr, 1 / sqrt(t)) * d' / max(1, RMS(d') / d)

Follows: Shazeer, Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", arXiv
    1804.04235, Algorithm 4 (matrices) and 5 (vectors) with the hyperparameters of Algorithm 6
    (dialect paper); torch.optim.Adafactor (dialect torch).
    eps = (eps1, eps2). eps1 None is 1e-30 in the paper dialect and the machine epsilon in the
    torch one.
Departs:
    - torch puts eps1 where v is used, not where it is averaged, and makes its default the machine
      epsilon.
    - torch.optim.Adafactor(foreach=False) turns eps1=None into the first parameter's machine
      epsilon and keeps that for all later ones, so its result depends on their order; here each
      parameter has its own. It is the compute dtype's, float32's for bfloat16 and float16
      parameters, where torch takes the storage dtype's.
    - Means instead of the paper's sums: the same v. torch, optax and Keras do so too.
    - lr is the paper's constant 1e-2 that bounds the relative step; torch and Keras name it so.
      optax multiplies by lr and has no 1 / sqrt(t). weight_decay (torch) is decoupled and times
      lr; the paper has none.
    - More than two axes: the last two are factored, the others are a batch, as in torch. optax
      factors the two largest, and leaves small matrices whole by default, as timm does.
    - r is divided by its mean before it meets c, as in optax, and in the paper dialect the roots are
      taken first: no underflow at eps1 = 1e-30. With one root of the whole product a float32 case
      gave NaN under XLA and nowhere else; why was not isolated. The norms are over whole arrays.
lr unit: fraction of the parameter's RMS per step.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Pair, Real
from isostep.rule import Rule


def init(p: Any, /) -> tuple[Any, Any, Any]:
    """Factors for matrices, the average for vectors; what an array has no use for is a 0-d zero."""
    zeros = parts.zeros(p)
    none = nm.sum(zeros)
    if p.ndim < 2:
        return none, none, zeros
    return nm.sum_axis(zeros, axis=-1), nm.sum_axis(zeros, axis=-2), none


def update(
    p: Any,
    g: Any,
    r: Any,
    c: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    beta2_decay: Any,
    eps: tuple[Any, Any],
    d: Any,
    weight_decay: Any,
    dialect: str,
) -> tuple[Any, ...]:
    """See the module's equations."""
    eps1, eps2 = eps
    paper = dialect == "paper"
    if eps1 is None:
        eps1 = 1e-30 if paper else nm.eps(p)
    w = nm.pow(t, beta2_decay)
    q = g * g + eps1 if paper else g * g
    if p.ndim < 2:
        v = (1 - w) * v + w * q
        root = nm.sqrt(v if paper else nm.maximum(v, eps1 * eps1))
    else:
        r = (1 - w) * r + w * nm.mean(q, axis=-1)
        c = (1 - w) * c + w * nm.mean(q, axis=-2)
        level = nm.mean(r, axis=-2)
        if paper:
            root = nm.sqrt(r / level) * nm.sqrt(c)
        else:
            root = nm.sqrt(nm.maximum(r / nm.maximum(level, eps1) * c, eps1 * eps1))
    direction = g / root
    step = nm.maximum(parts.rms(p), eps2) * nm.minimum(lr, 1 / nm.sqrt(t))
    u = -(step / nm.maximum(parts.rms(direction) / d, 1.0)) * direction
    return parts.decoupled(p, u, lr, weight_decay), r, c, v


RULE = Rule(
    name="adafactor",
    update=update,
    init=init,
    state=("row_var", "col_var", "variance"),
    hyper={
        "lr": Real(
            1e-2, low=0, doc="upper bound of the relative step, and factor of the weight decay"
        ),
        "beta2_decay": Real(
            -0.8, high=0, cases=(-0.6,), doc="exponent of the decay rate's schedule"
        ),
        "eps": Pair(
            Real(None, low=0, optional=True, cases=(1e-3,)),
            Real(1e-3, low=0, cases=(1e-2,)),
            doc="eps1, against division by zero, and eps2, the smallest parameter scale",
        ),
        "d": Real(1.0, low=1, cases=(1.25,), doc="clipping threshold of the update's RMS"),
        "weight_decay": parts.weight_decay(),
        "dialect": Choice("torch", options=("torch", "paper"), doc="where eps1 stands"),
    },
    family="adafactor",
    year=2018,
    paper="Shazeer and Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost",
    arxiv="1804.04235",
)
