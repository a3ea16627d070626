"""Ano: the sign of the momentum with the size of the gradient, over a root whose squares may be taken away again.

    m <- b1 * m + (1 - b1) * g
    v <- b2 * v + (1 - b2) * sign(g**2 - v) * g**2
    u  = -lr * sign(m) * |g| / (sqrt(v / (1 - b2**t)) + eps) - lr * weight_decay * p

Follows: Kegreisz, "Ano: Faster is Better in Noisy Landscape", arXiv 2508.18258, as pytorch_optimizer has it; the
    paper's PDF and the author's code could not be read.
Departs:
    - Anolog (pytorch_optimizer's logarithmic_schedule) is a schedule: betas[0] as a callable, 1 - 1 / log(max(2, t)).
    - betas[1] has to be 0.5 at least, or v could become negative.
    - weight_decay is decoupled and times lr, and both act on the parameter as it was before this step.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from isostep import nm, parts
from isostep.rule import Rule


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    b1, b2 = betas
    m = parts.average(m, g, b1)
    square = g * g
    v = b2 * v + (1 - b2) * nm.sign(square - v) * square
    d = denominator(parts.root(v, nm.one_minus_pow(b2, t)) + eps)
    return parts.decoupled(p, -lr * nm.sign(m) * nm.abs(g) / d, lr, weight_decay), m, v


def check(h: SimpleNamespace) -> str | None:
    """v loses no more than there is of it."""
    b2 = h.betas[1]
    return (
        f"betas[1] must be at least 0.5, got {b2!r}" if isinstance(b2, float) and b2 < 0.5 else None
    )


RULE = Rule(
    name="ano",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-4),
        "betas": parts.betas(0.92, 0.99),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(),
    },
    check=check,
    family="adam",
    year=2025,
    paper="Kegreisz, Ano: Faster is Better in Noisy Landscape",
    arxiv="2508.18258",
)
