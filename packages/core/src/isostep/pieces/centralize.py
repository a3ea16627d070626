"""Gradient centralization: every unit's gradient minus its mean.

    g <- g - mean of g over the unit                arrays with fewer than two axes are left alone

Follows: Yong, Huang, Hua, Zhang, "Gradient Centralization: A New Optimization Technique for Deep
    Neural Networks", arXiv 2004.01461, equation 1, and the authors' code
    Yonghongwei/Gradient-Centralization (SGD_GC): arrays of more than one axis, the mean over all
    axes but the first. optax.centralize and pytorch_optimizer agree.
Departs:
    - The axis of the units is an argument. The paper's weights are (in, out) and centred by
      column; torch's are (out, in), so its unit axis is 0, and JAX's is -1. The others always take
      axis 0.
    - The authors centre after coupled weight decay; here the order is that of compose.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Integer
from isostep.rule import Piece


def before(p: Any, g: Any, t: int, /, *, unit_axis: int) -> Any:
    """See the module's equation."""
    mean = nm.sum_units(g, unit_axis) / nm.unit_size(g, unit_axis)
    # A choice per array, so that one program serves all shapes.
    return g - nm.where(nm.ndim(g) > 1, mean, 0.0)


PIECE = Piece(
    name="centralize",
    before=before,
    hyper={"unit_axis": Integer(0, static=True, doc="the axis that numbers the units")},
    family="gradient",
    year=2020,
    paper="Yong et al., Gradient Centralization",
    arxiv="2004.01461",
)
