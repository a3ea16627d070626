"""Clipping by norm: each array's gradient scaled down when its own norm is too large.

    n  = sqrt(sum of g**2 over the array)

    torch   g <- g * min(max_norm / (n + 1e-6), 1)
    optax   g <- g where n < max_norm, else g / n * max_norm

Follows: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", arXiv
    1211.5063, Algorithm 1, applied to one array at a time, as tf.clip_by_norm and Keras's clipnorm do; the
    two dialects are those of clip_by_global_norm.
Departs:
    - A NaN in an array makes all of that array NaN.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Choice, Real
from isostep.pieces.clip_by_global_norm import clipped
from isostep.rule import Piece


def before(p: Any, g: Any, t: int, /, *, max_norm: Any, dialect: str) -> Any:
    """See the module's equations."""
    return clipped(g, nm.sqrt(nm.sum(g * g)), max_norm, dialect)


PIECE = Piece(
    name="clip_by_norm",
    before=before,
    hyper={
        "max_norm": Real(
            low=0, low_open=True, cases=(0.4,), doc="largest norm of an array's gradient"
        ),
        "dialect": Choice("torch", options=("torch", "optax"), doc="how the edge is treated"),
    },
    family="gradient",
    year=2012,
    paper="Pascanu et al., On the difficulty of training recurrent neural networks",
    arxiv="1211.5063",
)
