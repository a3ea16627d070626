"""Clipping by value: every element of the gradient kept within a bound.

    g <- min(max(g, -max_value), max_value)

Follows: torch.nn.utils.clip_grad_value_ and optax.clip, which agree; Mikolov, "Statistical Language Models Based
    on Neural Networks", PhD thesis, 2012.
Departs:
    - A NaN stays NaN, as in both.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Real
from isostep.rule import Piece


def before(p: Any, g: Any, t: int, /, *, max_value: Any) -> Any:
    """See the module's equation."""
    return nm.clip(g, -max_value, max_value)


PIECE = Piece(
    name="clip_by_value",
    before=before,
    hyper={
        "max_value": Real(
            low=0, low_open=True, cases=(0.25,), doc="largest magnitude of an element"
        )
    },
    family="gradient",
    year=2012,
    paper="Mikolov, Statistical Language Models Based on Neural Networks",
)
