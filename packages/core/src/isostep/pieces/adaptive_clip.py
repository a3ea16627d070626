"""Adaptive gradient clipping: no unit's gradient larger than a fraction of that unit's weights.

    limit = clipping * max(|p of the unit|, eps)
    g    <- g                                       where |g of the unit| < limit
            g * limit / max(|g of the unit|, 1e-6)  elsewhere

Follows: Brock, De, Smith, Simonyan, "High-Performance Large-Scale Image Recognition Without
    Normalization", arXiv 2102.06171, equation 3; the floor of 1e-6 is from the authors' code,
    deepmind-research nfnets/agc_optax.py. optax.adaptive_grad_clip and pytorch_optimizer's agc
    agree.
Departs:
    - The axis of the units is an argument: torch's weights have it at 0, the authors' (and JAX's)
      at -1. Arrays with fewer than two axes are one unit, as in theirs.
    - The authors squeeze axes of length 1 away before they decide whether an array is a vector,
      and refuse arrays of five axes; here only the number of axes counts.
    - The paper does not clip the last linear layer; leave its parameters in a group without this
      piece.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Integer, Real
from isostep.rule import Piece


def before(p: Any, g: Any, t: int, /, *, clipping: Any, eps: Any, unit_axis: int) -> Any:
    """See the module's equations."""
    size_p = nm.sqrt(nm.sum_units(p * p, unit_axis))
    size_g = nm.sqrt(nm.sum_units(g * g, unit_axis))
    limit = clipping * nm.maximum(size_p, eps)
    return nm.where(size_g < limit, g, g * (limit / nm.maximum(size_g, 1e-6)))


PIECE = Piece(
    name="adaptive_clip",
    before=before,
    hyper={
        "clipping": Real(
            0.01, low=0, cases=(0.1,), doc="largest ratio of gradient to parameter norm"
        ),
        "eps": Real(1e-3, low=0, cases=(0.5,), doc="smallest parameter norm that counts"),
        "unit_axis": Integer(0, static=True, doc="the axis that numbers the units"),
    },
    family="gradient",
    year=2021,
    paper="Brock et al., High-Performance Large-Scale Image Recognition Without Normalization",
    arxiv="2102.06171",
)
