"""Norm loss: a pull of every unit's weights towards norm 1.

    correction = 2 * factor * (1 - 1 / (|p of the unit| + eps))
    coupled     g <- g + correction * p           before the rule: the gradient of factor * sum of (1 - |p|)**2
    decoupled   u <- u - lr * correction * p      after the rule

Follows: Georgiou, Schmitt, Bäck, Chen, Lew, "Norm Loss: An efficient yet effective regularization method for deep
    neural networks", arXiv 2103.06583 (the coupled kind); Wright, Demeure, "Ranger21", arXiv
    2106.13731, whose code adds eps and decouples it, as pytorch_optimizer's Ranger21 does.
Departs:
    - The axis of the units is an argument; an array with fewer than two axes is one unit, as in Ranger21's code.
      That code sums over axis 1 alone where there are three axes; here over all axes but the units'.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Flag, Integer, Real
from isostep.rule import Piece


def before(
    p: Any, g: Any, t: int, /, *, factor: Any, decoupled: bool, eps: Any, unit_axis: int
) -> Any:
    """The coupled kind."""
    return g if decoupled else g + _correction(p, factor, eps, unit_axis) * p


def after(
    p: Any,
    g: Any,
    u: Any,
    t: int,
    /,
    *,
    factor: Any,
    decoupled: bool,
    eps: Any,
    unit_axis: int,
    lr: Any,
) -> Any:
    """The decoupled kind."""
    return u - (lr * _correction(p, factor, eps, unit_axis)) * p if decoupled else u


def _correction(p: Any, factor: Any, eps: Any, unit_axis: int) -> Any:
    norm = nm.sqrt(nm.sum_units(p * p, unit_axis))
    return (2 * factor) * (1 - 1 / (norm + eps))


PIECE = Piece(
    name="norm_loss",
    before=before,
    after=after,
    hyper={
        "factor": Real(1e-4, low=0, cases=(0.05,), doc="strength of the pull"),
        "decoupled": Flag(True, doc="past the rule instead of through the gradient"),
        "eps": Real(1e-8, low=0, cases=(0.01,), doc="added to the norm"),
        "unit_axis": Integer(0, static=True, doc="the axis that numbers the units"),
    },
    family="decay",
    year=2021,
    paper="Georgiou et al., Norm Loss",
    arxiv="2103.06583",
)
