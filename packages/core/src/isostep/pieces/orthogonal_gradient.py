"""Orthogonal gradient: the part of each array's gradient that does not scale its weights, as long as the whole.

    o  = g - (p . g) / (p . p + eps) * p
    g <- o * |g| / (|o| + eps)

Follows: Prieto, Barsbey, Mediano, Birdal, "Grokking at the Edge of Numerical Stability", arXiv 2501.04697 (the
    projection), and the authors' code LucasPrietoAl/grokking-at-the-edge-of-numerical-stability, which stretches o to
    the length of g and has eps = 1e-30.
Departs:
    - A gradient along p leaves only rounding in o, which the stretch would blow up to the length of g: where |o| is
      at most ``least`` times |g|, g becomes 0. The authors' code has no such bound (least = 0).
      pytorch_optimizer's OrthoGrad has 4 times the machine epsilon.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Real
from isostep.rule import Piece


def before(p: Any, g: Any, t: int, /, *, eps: Any, least: Any) -> Any:
    """See the module's equations."""
    o = g - (nm.sum(p * g) / (nm.sum(p * p) + eps)) * p
    size_g, size_o = nm.sqrt(nm.sum(g * g)), nm.sqrt(nm.sum(o * o))
    return o * nm.where(size_o > least * size_g, size_g / (size_o + eps), 0.0)


PIECE = Piece(
    name="orthogonal_gradient",
    before=before,
    hyper={
        "eps": Real(1e-30, low=0, cases=(1e-6,), doc="added to both divisors"),
        "least": Real(
            1e-6, low=0, high=1, cases=(0.02,), doc="least fraction left to be stretched"
        ),
    },
    family="gradient",
    year=2025,
    paper="Prieto et al., Grokking at the Edge of Numerical Stability",
    arxiv="2501.04697",
)
