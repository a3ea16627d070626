"""Fromage: a step of a fixed fraction of the parameter's norm, array by array, then shrunk back.

    h = lr * |p| / |g| * g
    p <- (p - h) / sqrt(1 + lr**2)                  the ratio is 1 where either norm is 0

Follows: Bernstein, Vahdat, Yue, Liu, "On the distance between two neural networks and the stability
    of learning", arXiv 2002.03432, Algorithm 1. optax.fromage agrees. Written from the paper alone:
    the authors' code is under a non-commercial licence.
Departs:
    - The paper leaves open what happens at a norm of zero; here the ratio is then 1, as in LAMB, so
      that an array of zeros can move. optax takes 1e-6 for any smaller norm.
lr unit: fraction of the parameter's norm per step.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.rule import Rule


def update(p: Any, g: Any, t: int, /, *, lr: Any) -> Any:
    """See the module's equations, as an update: 1 / root - 1 is written without cancellation."""
    root = nm.sqrt(1 + lr * lr)
    ratio = parts.quotient_or_one(parts.norm(p), parts.norm(g))
    return (-lr / root * ratio) * g - (lr * lr / (root * (1 + root))) * p


RULE = Rule(
    name="fromage",
    update=update,
    hyper={"lr": parts.lr(1e-2, cases=(0.2,))},
    family="sgd",
    year=2020,
    paper="Bernstein et al., On the distance between two neural networks and the stability of"
    " learning",
    arxiv="2002.03432",
)
