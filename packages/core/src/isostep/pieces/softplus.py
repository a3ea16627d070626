"""Softplus: what an adaptive rule divides by, bent away from zero.

    d <- log(1 + exp(beta * d)) / beta              d = root + eps, as the rule has it

The larger beta, the closer it is to d itself; where d is 0 it is log(2) / beta, which no rate exceeds.

Follows: Tong, Liang, Bi, "Calibrating the Adaptive Learning Rate to Improve Convergence of ADAM", arXiv 1908.00700,
    Sadam and SAMSGrad, which are this in front of adam without and with amsgrad; the authors' code
    neilliang90/Sadam, Sadam.py, is adam(dialect="keras", amsgrad=True, eps=0). Wright, Demeure, "Ranger21", arXiv
    2106.13731, and pytorch_optimizer's Ranger21 have it around root + eps, in front of adapnm.
Departs:
    - eps stays, inside, where the rule has one; Sadam has none: give the rule eps=0.
    - torch's softplus, which they all call, is d itself where beta * d is above 20; the two differ by less than
      2.1e-9 / beta there.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Real
from isostep.rule import Piece


def denominator(d: Any, /, *, beta: Any) -> Any:
    """See the module's equations; d is not negative, so that this form neither overflows nor cancels."""
    return d + nm.log1p(nm.exp(-(beta * d))) / beta


PIECE = Piece(
    name="softplus",
    denominator=denominator,
    hyper={
        "beta": Real(50.0, low=0, low_open=True, cases=(1.7,), doc="how close to the denominator"),
    },
    family="denominator",
    year=2019,
    paper="Tong et al., Calibrating the Adaptive Learning Rate to Improve Convergence of ADAM",
    arxiv="1908.00700",
)
