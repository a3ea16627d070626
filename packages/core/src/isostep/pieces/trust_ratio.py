"""Trust ratio: each array's update scaled to the size of its parameters.

    d = u / lr
    u <- u * trust_coefficient * |p| / (|d| + eps)      where neither norm is 0, else u

Follows: You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", arXiv 1708.03888; You
    et al., "Large Batch Optimization for Deep Learning", arXiv 1904.00962, Algorithm 2, with the identity for phi.
    optax.scale_by_trust_ratio agrees (min_norm = 0).
Departs:
    - The rule's update already has its lr: it is divided by lr here, and so are all decays behind the rule.
      Put weight_decay in front of this piece for LAMB's r + lambda p, behind it for plain decay.
    - A rule whose lr is group state (SGD-HD) gives the lr that it has just stepped with.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Real
from isostep.rule import Piece


def after(p: Any, g: Any, u: Any, t: int, /, *, trust_coefficient: Any, eps: Any, lr: Any) -> Any:
    """See the module's equations; multiplied out by lr, which may be 0."""
    size_p, size_u = nm.sqrt(nm.sum(p * p)), nm.sqrt(nm.sum(u * u))
    step = nm.abs(lr)
    none = nm.logical_or(size_p == 0, size_u == 0)
    below = nm.where(none, 1.0, size_u + step * eps)
    return u * nm.where(none, 1.0, trust_coefficient * step * size_p / below)


PIECE = Piece(
    name="trust_ratio",
    after=after,
    hyper={
        "trust_coefficient": Real(
            1.0, low=0, cases=(0.3,), doc="ratio of update to parameter norm"
        ),
        "eps": Real(0.0, low=0, cases=(0.05,), doc="added to the norm of the update"),
    },
    family="update",
    year=2017,
    paper="You et al., Large Batch Training of Convolutional Networks",
    arxiv="1708.03888",
)
