"""Weight decay that does not depend on the learning rate.

    u <- u - weight_decay * p      after the rule; arrays with fewer than min_ndim axes are left alone

Follows: Loshchilov, Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101, Algorithm 2, line 12, without
    the schedule multiplier eta_t (give weight_decay a schedule for that); Schaipp, "Decay No More", ICLR blog 2023.
    optimi's decouple_lr and pytorch_optimizer's fixed_decay agree.
Departs:
    - Neither text leaves arrays alone; min_ndim is 0 by default.
"""

from __future__ import annotations

from typing import Any

from isostep.domains import Integer, Real
from isostep.pieces.weight_decay import masked
from isostep.rule import Piece


def after(p: Any, g: Any, u: Any, t: int, /, *, weight_decay: Any, min_ndim: int) -> Any:
    """See the module's equation."""
    return u - weight_decay * masked(p, min_ndim)


PIECE = Piece(
    name="independent_weight_decay",
    after=after,
    hyper={
        "weight_decay": Real(low=0, cases=(0.1,), doc="fraction of p that a step takes away"),
        "min_ndim": Integer(
            0, low=0, static=True, cases=(0, 2), doc="fewest axes of an array that decays"
        ),
    },
    family="decay",
    year=2017,
    paper="Loshchilov and Hutter, Decoupled Weight Decay Regularization",
    arxiv="1711.05101",
)
