"""Adam-mini: Adam with one average of squares for each block of elements instead of each element.

    m <- b1 * m + (1 - b1) * g                      c1 = 1 - b1**t, c2 = 1 - b2**t
    v <- b2 * v + (1 - b2) * mean of g**2 over the block
    u  = -lr / c1 * m / (sqrt(v / c2) + eps) - lr * weight_decay * p

    blocks "unit"    every row (or what unit_axis numbers) is a block; vectors are one block
    blocks "array"   the whole array is one block

Follows: Zhang, Chen, Li, Ding, Wu, Kingma, Ye, Luo, Sun, "Adam-mini: Use Fewer Learning Rates To
    Gain More", arXiv 2406.16793, Algorithms 1 and 2, and the authors' package adam-mini, which
    agrees in each of its kinds of blocks but queries and keys.
Departs:
    - Which blocks an array has follows from its name in the package: rows for embeddings, values,
      projections and MLPs, the array for what it does not know, elements (plain Adam) for biases.
      Here a parameter group says so; elements are adamw.
    - Blocks of several rows, the heads of queries and keys, are left out: give each head's matrix
      as a parameter of its own.
    - The package decays no parameter whose name has norm, ln or bias in it.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Choice
from isostep.rule import Rule


def block_mean(x: Any, blocks: str, unit_axis: int) -> Any:
    """The mean of each block, with axes of length 1 for what is averaged (none for one block); 0 of nothing."""
    if blocks == "unit" and len(x.shape) > 1:
        return nm.sum_units(x, unit_axis) / nm.maximum(nm.unit_size(x, unit_axis), 1)
    return nm.sum(x) / nm.maximum(nm.size(x), 1)


def block_zero(p: Any, blocks: str, unit_axis: int) -> Any:
    """A zero for every block, of the shape that ``block_mean`` has."""
    zeros = parts.zeros(p)
    if blocks == "unit" and len(p.shape) > 1:
        return nm.sum_units(zeros, unit_axis)
    return nm.sum(zeros)


def init(p: Any, /, *, blocks: str, unit_axis: int) -> tuple[Any, Any]:
    """A zero for every element, and one for every block."""
    return parts.zeros(p), block_zero(p, blocks, unit_axis)


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    blocks: str,
    unit_axis: int,
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    m = parts.average(m, g, betas[0])
    v = parts.average(v, block_mean(g * g, blocks, unit_axis), betas[1])
    c1, c2 = parts.corrections(betas, t)
    u = (-lr / c1) * m / denominator(parts.root(v, c2) + eps)
    return parts.decoupled(p, u, lr, weight_decay), m, v


RULE = Rule(
    name="adammini",
    update=update,
    init=init,
    state=("exp_avg", "exp_avg_sq_mean"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(
            0.9, 0.999, doc="decay rates of the running averages of the gradient and of the blocks"
        ),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(),
        "blocks": Choice("unit", options=("unit", "array"), doc="what shares one average"),
        "unit_axis": parts.unit_axis(),
    },
    family="adam",
    year=2024,
    paper="Zhang et al., Adam-mini: Use Fewer Learning Rates To Gain More",
    arxiv="2406.16793",
)
