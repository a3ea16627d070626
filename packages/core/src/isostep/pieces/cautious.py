"""Cautious: no element moves against its gradient; the others move further.

    mask = 1 where u and g differ in sign, else 0   u is added to p: it should oppose the gradient
    n    = number of ones in the whole array        N = number of elements
    u   <- u * mask * N / (n + 1)                   paper
    u   <- u * mask / max(n / N, eps)               authors

Follows: Liang, Chen, Liu, Liu, "Cautious Optimizers: Improving Training with One Line of Code", arXiv
    2411.16085, Algorithm 1 with the factor of its section 2 (xi = 1), which pytorch_optimizer has
    (paper); the authors' code kyleliang919/C-Optim, which timm's caution=True follows (authors).
Departs:
    - Put it in front of decoupled weight decay (pieces.weight_decay): what it sees of a rule that
      decays by itself includes the decay. The authors decay first and mask Adam's step alone.
    - Version 4 of the paper writes the factor 1 / (mean of the mask + eps).
    - The sign of u stands for u in the comparison: the product of two small numbers underflows.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Choice
from isostep.rule import Piece


def after(p: Any, g: Any, u: Any, t: int, /, *, eps: Any, dialect: str) -> Any:
    """See the module's equations."""
    mask = nm.where(nm.sign(u) * g < 0, 1.0, 0.0)
    count, size = nm.sum(mask), nm.size(u)
    scale = size / (count + 1) if dialect == "paper" else 1 / nm.maximum(count / size, eps)
    return u * mask * scale


PIECE = Piece(
    name="cautious",
    after=after,
    hyper={
        "eps": parts.eps(1e-3, "smallest mean of the mask (authors only)", cases=(0.4,)),
        "dialect": Choice("paper", options=("paper", "authors"), doc="the factor's form"),
    },
    family="update",
    year=2024,
    paper="Liang et al., Cautious Optimizers: Improving Training with One Line of Code",
    arxiv="2411.16085",
)
