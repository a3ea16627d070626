"""Gradient noise: normal noise whose variance falls with the steps done.

    g <- g + sqrt(eta / (1 + done)**gamma) * noise          done = t - 1

A piece is a pure function, so the noise comes in: one array of standard normal numbers for each parameter, of a
generator that whoever steps has seeded. ``isostep.noise.normal(params, rng)`` draws it, in torch
``isostep_torch.second.noise``, in JAX ``isostep_jax.noise``.

Follows: Neelakantan, Vilnis, Le, Sutskever, Kaiser, Kurach, Martens, "Adding Gradient Noise Improves Learning for
    Very Deep Networks", arXiv 1511.06807, its equation for the variance. optax.add_noise agrees, whose first step has
    done = 0.
Departs:
    - The paper chooses eta among 0.01, 0.3 and 1; it has to be given here. gamma is the paper's 0.55.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Real
from isostep.rule import Piece


def before(p: Any, g: Any, noise: Any, t: int, /, *, eta: Any, gamma: Any) -> Any:
    """See the module's equations."""
    return g + nm.sqrt(eta / nm.pow(t, gamma)) * noise


PIECE = Piece(
    name="gradient_noise",
    before=before,
    inputs=("noise",),
    hyper={
        "eta": Real(low=0, cases=(0.3,), doc="variance of the first step's noise"),
        "gamma": Real(0.55, low=0, cases=(0.8,), doc="how fast the variance falls"),
    },
    family="gradient",
    year=2015,
    paper="Neelakantan et al., Adding Gradient Noise Improves Learning for Very Deep Networks",
    arxiv="1511.06807",
)
