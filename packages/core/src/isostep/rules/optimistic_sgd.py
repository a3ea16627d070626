"""Optimistic SGD: gradient descent that takes the change of the gradient once more, as if it were to go on.

    u  = -lr * ((alpha + beta) * g - beta * (g of the step before))

    authors   the gradient before the first is 0
    optax     the gradient before the first is the first: u = -lr * alpha * g

Follows: Daskalakis, Ilyas, Syrgkanis, Zeng, "Training GANs with Optimism", arXiv 1711.00141, optimistic mirror descent
    with the last gradient as what is expected of the next, and the authors' code
    vsyrgkanis/optimistic_GAN_training, OMDA in optimizer.py (authors, with alpha = beta = 1). alpha and beta: Mokhtari,
    Ozdaglar, Pattathil, "A Unified Analysis of Extra-gradient and Optimistic Gradient Methods for Saddle Point
    Problems", arXiv 1901.08511, generalized OGDA, and optax.optimistic_gradient_descent (optax).
Departs:
    - Mokhtari et al. have alpha and beta for rates; here they are multiples of lr, as in optax.
    - The authors' AdaGrad schedule and their other expectations of the next gradient are left out.
lr unit: parameter units per gradient unit; a steady gradient moves p by alpha * lr times it.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Real
from isostep.rule import Rule


def optimistic(d: Any, before: Any, t: int, *, alpha: Any, beta: Any, dialect: str) -> Any:
    """The direction with its change since the step before. Optimistic Adam shares it."""
    if dialect == "optax":
        before = nm.where(t == 1, d, before)
    return (alpha + beta) * d - beta * before


def update(
    p: Any, g: Any, before: Any, t: int, /, *, lr: Any, alpha: Any, beta: Any, dialect: str
) -> tuple[Any, Any]:
    """See the module's equations."""
    return -lr * optimistic(g, before, t, alpha=alpha, beta=beta, dialect=dialect), g


OPTIMISM = {
    "alpha": Real(1.0, low=0, cases=(0.7,), doc="weight of the direction"),
    "beta": Real(1.0, low=0, cases=(0.6,), doc="weight of its change since the step before"),
    "dialect": Choice("authors", options=("authors", "optax"), doc="what is before the first step"),
}

RULE = Rule(
    name="optimistic_sgd",
    update=update,
    state=("previous_gradient",),
    hyper={"lr": parts.lr(1e-2), **OPTIMISM},
    family="sgd",
    year=2017,
    paper="Daskalakis et al., Training GANs with Optimism",
    arxiv="1711.00141",
)
