"""Weight decay of both kinds.

    coupled     g <- g + weight_decay * p           before the rule: L2 regularization
    decoupled   u <- u - lr * weight_decay * p      after the rule, with the lr of its step

Arrays with fewer than min_ndim axes (biases, the scales of normalizations) are left alone.

Follows: Loshchilov, Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101, Algorithms
    1 and 2, the two shaded kinds.
Departs:
    - The decoupled decay is multiplied by lr, as in torch, optax and Keras; in the paper by the
      schedule alone.
    - A rule whose lr is group state (SGD-HD) gives the lr that it has just stepped with.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Flag, Integer, Real
from isostep.rule import Piece


def masked(p: Any, min_ndim: int) -> Any:
    """The parameter where it decays, else zero: a choice per array, so that one program serves all shapes."""
    return nm.where(nm.ndim(p) >= min_ndim, p, 0.0) if min_ndim else p


def before(p: Any, g: Any, t: int, /, *, weight_decay: Any, decoupled: bool, min_ndim: int) -> Any:
    """The coupled kind."""
    return g if decoupled else g + weight_decay * masked(p, min_ndim)


def after(
    p: Any, g: Any, u: Any, t: int, /, *, weight_decay: Any, decoupled: bool, min_ndim: int, lr: Any
) -> Any:
    """The decoupled kind."""
    return u - (lr * weight_decay) * masked(p, min_ndim) if decoupled else u


PIECE = Piece(
    name="weight_decay",
    before=before,
    after=after,
    hyper={
        "weight_decay": Real(low=0, cases=(0.1,), doc="fraction of p (decoupled: per unit of lr)"),
        "decoupled": Flag(True, doc="past the rule instead of through the gradient"),
        "min_ndim": Integer(
            0, low=0, static=True, cases=(0, 2), doc="fewest axes of an array that decays"
        ),
    },
    family="decay",
    year=2017,
    paper="Loshchilov and Hutter, Decoupled Weight Decay Regularization",
    arxiv="1711.05101",
)
