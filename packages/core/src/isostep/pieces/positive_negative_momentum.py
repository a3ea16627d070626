"""Positive-negative momentum: in place of the gradient, the difference of two momenta that take it in turn.

    odd t                                           even t
    b <- beta**2 * b + (1 - beta**2) * g            n <- beta**2 * n + (1 - beta**2) * g
    g <- ((1 + weight) * b - weight * n) / norm     g <- ((1 + weight) * n - weight * b) / norm
    norm = sqrt((1 + weight)**2 + weight**2)

Follows: Xie, Yuan, Zhu, Sugiyama, "Positive-Negative Momentum: Manipulating Stochastic Gradient Noise to Improve
    Generalization", arXiv 2103.17182, Algorithm 1, whose beta_0 is weight here. In front of sgd it is the rule pnm
    without its decay.
Departs:
    - In front of a rule that averages squares it is not AdaPNM, nor Ranger21's core: those average the squares of the
      gradient itself. That is the rule adapnm.
"""

from __future__ import annotations

from typing import Any

from isostep import parts
from isostep.domains import Real
from isostep.rule import Piece
from isostep.rules.pnm import phase


def before(
    p: Any, g: Any, odd: Any, even: Any, t: int, /, *, beta: Any, weight: Any, phase: int
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    new, old, odd, even = parts.in_turn(g, odd, even, beta * beta, phase)
    return parts.positive_negative(new, old, weight), odd, even


PIECE = Piece(
    name="positive_negative_momentum",
    before=before,
    phase=phase,
    state=("pos_momentum", "neg_momentum"),
    hyper={
        "beta": parts.decay_rate(0.9, "decay rate of the momenta, over two steps"),
        "weight": Real(1.0, low=0, doc="how much of the older momentum is subtracted"),
    },
    family="gradient",
    year=2021,
    paper="Xie et al., Positive-Negative Momentum",
    arxiv="2103.17182",
)
