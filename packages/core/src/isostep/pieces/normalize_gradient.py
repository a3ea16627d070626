"""Gradient normalization: each array's gradient divided by its standard deviation.

    s  = sqrt(sum of (g - mean of g)**2 / (n - 1))      over the array, or over each unit of it
    g <- g / (s + eps)                                  where n > 1, else g

Follows: Yu, Huang, Lin, Salakhutdinov, Carbonell, "Block-Normalized Gradient Method", arXiv 1707.04822, as Wright,
    Demeure, "Ranger21", arXiv 2106.13731, take it up: the sample's standard deviation in place of the norm.
    pytorch_optimizer's normalize_gradient agrees.
Departs:
    - The axis of the units is an argument. pytorch_optimizer leaves arrays of two elements alone too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Integer, Real
from isostep.rule import Piece


def before(p: Any, g: Any, t: int, /, *, units: bool, eps: Any, unit_axis: int) -> Any:
    """See the module's equations."""
    total, size = nm.sum, nm.size
    if units:
        total = partial(nm.sum_units, unit_axis=unit_axis)
        size = partial(nm.unit_size, unit_axis=unit_axis)
    return g / nm.where(size(g) > 1, parts.deviation(g, total, size) + eps, 1.0)


PIECE = Piece(
    name="normalize_gradient",
    before=before,
    hyper={
        "units": Flag(False, doc="each unit by its own deviation"),
        "eps": Real(1e-8, low=0, cases=(0.05,), doc="added to the deviation"),
        "unit_axis": Integer(0, static=True, doc="the axis that numbers the units"),
    },
    family="gradient",
    year=2017,
    paper="Yu et al., Block-Normalized Gradient Method",
    arxiv="1707.04822",
)
