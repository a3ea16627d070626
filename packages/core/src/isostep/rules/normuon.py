"""NorMuon: Muon whose orthogonal step is divided, neuron by neuron, by the root of a running mean of its squares.

    b <- momentum * b + (1 - momentum) * g
    d  = momentum * b + (1 - momentum) * g with nesterov, else b
    o  = newton_schulz(d)                           see isostep/matrix.py
    v <- beta2 * v + (1 - beta2) * mean(o**2)       one for each neuron, the mean over its inputs
    r  = o / (sqrt(v) + eps)
    u  = -lr * weight_decay * p - lr * scale * r

    scale = |o| / (|r| + eps) * sqrt(max(1, outputs / inputs))      dialect "authors"
    scale = 0.2 * sqrt(outputs * inputs) / (|r| + eps)              dialect "paper"

Follows: Li, Liu, Liang, Chen, Zhao, "NorMuon: Making Muon more efficient and scalable", arXiv 2510.05491, and the
    authors' code zichongli5/NorMuon, normuon.py, normuon_update, whose step keeps the norm of the orthogonal matrix.
Departs:
    - The paper could not be read whole: "paper", a step of root mean square 0.2, is what pytorch_optimizer's
      update_scale="match_rms" says of its Algorithm 1.
    - The iteration runs in the compute dtype, not in bfloat16, and its norm has the lower bound ns_eps, to which the
      code adds 1e-7. See muon.
    - eps is the code's 1e-10, twice.
    - Only matrices; the code flattens kernels of convolutions to matrices first.
    - Neurons are what unit_axis numbers: rows, as in the code, or JAX's columns.
lr unit: spectral norm per step ("authors"); update RMS of 0.2 per step and unit of lr ("paper").
"""

from __future__ import annotations

import math
from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Real
from isostep.matrix import direction, newton_schulz, orthogonalising, width
from isostep.rule import Rule


def init(p: Any, /, *, unit_axis: int) -> tuple[Any, Any]:
    """Zeros: the running average of the gradients, and a mean of squares for each neuron."""
    zeros = parts.zeros(p)
    return zeros, nm.sum_units(zeros, unit_axis)


def update(
    p: Any,
    g: Any,
    b: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    weight_decay: Any,
    momentum: Any,
    nesterov: bool,
    beta2: Any,
    eps: Any,
    ns_coefficients: tuple[Any, Any, Any],
    ns_steps: int,
    ns_eps: Any,
    unit_axis: int,
    dialect: str,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    b, d = direction(b, g, momentum, nesterov)
    o = newton_schulz(d, ns_coefficients, ns_steps, ns_eps)
    inputs = nm.unit_size(p, unit_axis)
    v = parts.average(v, nm.sum_units(o * o, unit_axis) / inputs, beta2)
    r = o / (nm.sqrt(v) + eps)
    if dialect == "paper":
        size = 0.2 * math.sqrt(math.prod(p.shape))
    else:
        shape = p.shape if unit_axis % 2 == 0 else p.shape[::-1]
        size = parts.norm(o) * width(*shape)
    u = -lr * (size / (parts.norm(r) + eps)) * r
    return parts.decoupled(p, u, lr, weight_decay), b, v


RULE = Rule(
    name="normuon",
    update=update,
    init=init,
    state=("momentum_buffer", "second_momentum_buffer"),
    hyper={
        "lr": parts.lr(0.02, unit="spectral norm per step"),
        "weight_decay": parts.weight_decay(case=0.2),
        "beta2": parts.decay_rate(0.95, "decay rate of the neurons' mean squares"),
        "eps": parts.eps(1e-10, "added to the root and to the norm"),
        **orthogonalising(),
        "ns_eps": Real(1e-7, low=0, doc="lower bound of the norm that the matrix is divided by"),
        "unit_axis": parts.unit_axis(of="neurons"),
        "dialect": Choice("authors", options=("authors", "paper"), doc="the size of a step"),
    },
    ndim=(2,),
    family="matrix",
    year=2025,
    paper="Li et al., NorMuon: Making Muon more efficient and scalable",
    arxiv="2510.05491",
)
