"""An exponential moving average of the updates, in place of the update.

    ema <- decay * ema + (1 - decay) * u
    u   <- ema / (1 - decay**t) with debias, else ema

Follows: optax.ema; Kingma, Ba, "Adam", arXiv 1412.6980, section 3, for the bias correction.
Departs:
    - The average is of the update with the lr of its step; optax's, in a chain, of what stands in front of it.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Flag, Real
from isostep.rule import Piece


def after(p: Any, g: Any, u: Any, ema: Any, t: int, /, *, decay: Any, debias: bool) -> Any:
    """See the module's equations."""
    ema = decay * ema + (1 - decay) * u
    return (ema / nm.one_minus_pow(decay, t) if debias else ema), ema


PIECE = Piece(
    name="ema_update",
    after=after,
    state=("ema",),
    hyper={
        "decay": Real(low=0, high=1, high_open=True, cases=(0.7,), doc="weight of the past"),
        "debias": Flag(True, doc="divided by what the weights of the past add up to"),
    },
    family="average",
    year=2014,
    paper="Kingma and Ba, Adam",
    arxiv="1412.6980",
)
