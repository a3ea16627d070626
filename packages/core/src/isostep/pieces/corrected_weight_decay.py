"""Corrected weight decay, that of AdamC: with the square of the learning rate over its largest value.

    u <- u - lr**2 / max_lr * weight_decay * p      after the rule; arrays with fewer than min_ndim axes are left alone

Follows: Defazio, "Why Gradients Rapidly Increase Near the End of Training", arXiv 2506.02285: AdamC's decay of
    normalized layers. timm's corrected_weight_decay agrees.
Departs:
    - The paper corrects only layers that are followed by a normalization, and gives the others plain
      decoupled decay: put those into groups of their own, with the piece weight_decay.
"""

from __future__ import annotations

from typing import Any

from isostep.domains import Integer, Real
from isostep.pieces.weight_decay import masked
from isostep.rule import Piece


def after(
    p: Any, g: Any, u: Any, t: int, /, *, weight_decay: Any, max_lr: Any, min_ndim: int, lr: Any
) -> Any:
    """See the module's equation."""
    return u - (lr * lr / max_lr * weight_decay) * masked(p, min_ndim)


PIECE = Piece(
    name="corrected_weight_decay",
    after=after,
    hyper={
        "weight_decay": Real(low=0, cases=(0.4,), doc="fraction of p per unit of lr at max_lr"),
        "max_lr": Real(low=0, low_open=True, cases=(0.5,), doc="the largest lr of the schedule"),
        "min_ndim": Integer(
            0, low=0, static=True, cases=(0, 2), doc="fewest axes of an array that decays"
        ),
    },
    family="decay",
    year=2025,
    paper="Defazio, Why Gradients Rapidly Increase Near the End of Training",
    arxiv="2506.02285",
)
