"""Grokfast: the gradient plus a multiple of its own running average.

    a <- alpha * a + (1 - alpha) * g                a = g at t = 1
    g <- g + lamb * a

Follows: Lee, Kang, Kim, Lee, "Grokfast: Accelerated Grokking by Amplifying Slow Gradients", arXiv
    2405.20233, Algorithm 2 (Grokfast-EMA), and the authors' code ironjr/grokfast,
    gradfilter_ema, with its defaults. pytorch_optimizer's gradfilter_ema agrees.
Departs:
    - The windowed mean (Grokfast-MA, Algorithm 1), which keeps 100 gradients, is left out.
    - Algorithm 2 starts a at zero; the authors' code at the first gradient, as here.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.rule import Piece


def before(p: Any, g: Any, a: Any, t: int, /, *, alpha: Any, lamb: Any) -> tuple[Any, Any]:
    """See the module's equations."""
    # a is zero before the first step, so all that t = 1 needs is the whole gradient.
    a = alpha * a + nm.where(t > 1, 1 - alpha, 1.0) * g
    return g + lamb * a, a


PIECE = Piece(
    name="grokfast",
    before=before,
    state=("average",),
    hyper={
        "alpha": parts.decay_rate(0.98),
        "lamb": Real(2.0, low=0, doc="how much of the average is added"),
    },
    family="gradient",
    year=2024,
    paper="Lee et al., Grokfast: Accelerated Grokking by Amplifying Slow Gradients",
    arxiv="2405.20233",
)
