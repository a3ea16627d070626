"""Clipping by global norm: the group's gradients scaled down together when their norm is too large.

    n  = sqrt(sum of g**2 over all parameters of the group)

    torch   g <- g * min(max_norm / (n + 1e-6), 1)
    optax   g <- g where n < max_norm, else g / n * max_norm

Follows: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", arXiv
    1211.5063, Algorithm 1; torch.nn.utils.clip_grad_norm_ and optax.clip_by_global_norm, which add
    the details.
Departs:
    - The paper has no 1e-6: only the torch dialect adds it, and so scales by slightly less than
      max_norm.
    - The norm is over the parameter group; torch's function takes the list that it is given.
    - A NaN in any gradient makes all of them NaN, as in torch (error_if_nonfinite=False) and
      optax.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Choice, Real
from isostep.rule import Piece


def measure(p: Any, g: Any, t: int, /) -> dict[str, Any]:
    """The squares whose sum over the group is the squared norm."""
    return {"squared_norm": g * g}


def before(p: Any, g: Any, t: int, /, *, max_norm: Any, dialect: str, squared_norm: Any) -> Any:
    """See the module's equations."""
    return clipped(g, nm.sqrt(squared_norm), max_norm, dialect)


def clipped(g: Any, norm: Any, max_norm: Any, dialect: str) -> Any:
    """The gradient scaled down as its norm asks for."""
    if dialect == "torch":
        return nm.minimum(max_norm / (norm + 1e-6), 1.0) * g
    inside = norm < max_norm
    return nm.where(inside, g, g / nm.where(inside, 1.0, norm) * max_norm)


PIECE = Piece(
    name="clip_by_global_norm",
    before=before,
    measure=measure,
    hyper={
        "max_norm": Real(
            low=0, low_open=True, cases=(0.4,), doc="largest norm of the group's gradient"
        ),
        "dialect": Choice("torch", options=("torch", "optax"), doc="how the edge is treated"),
    },
    family="gradient",
    year=2012,
    paper="Pascanu et al., On the difficulty of training recurrent neural networks",
    arxiv="1211.5063",
)
