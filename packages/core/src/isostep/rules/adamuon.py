"""AdaMuon: Muon whose orthogonal step is divided, element by element, by the root of the average of its squares.

    b <- momentum * b + (1 - momentum) * g
    d  = momentum * b + (1 - momentum) * g with nesterov, else b
    o  = newton_schulz(d)                           see isostep/matrix.py
    v <- beta2 * v + (1 - beta2) * o**2
    r  = o / (sqrt(v / (1 - beta2**t)) + eps)
    u  = -lr * weight_decay * p - lr * 0.2 * sqrt(rows * columns) / (|r| + eps) * r

Follows: Si, Zhang, Shen, "AdaMuon: Adaptive Muon Optimizer", arXiv 2507.11005, and the authors' code
    Chongjie-Si/AdaMuon, adamuon.py, whose 0.2 * sqrt(max(rows, columns)) and sqrt(min(rows, columns)) are one factor.
Departs:
    - Later versions of the paper orthogonalise the sign of the momentum ("sign-stabilized orthogonal update"); the code
      above, pytorch_optimizer's AdaMuon and this rule do not.
    - The iteration runs in the compute dtype, not in bfloat16, and its norm has the lower bound ns_eps, to which the
      code adds 1e-7. See muon.
    - The code rounds the step to bfloat16 before it is taken.
    - Only matrices; the code flattens kernels of convolutions to matrices first.
    - pytorch_optimizer's AdaMuon has no Nesterov momentum.
lr unit: update RMS of 0.2 per step and unit of lr.
"""

from __future__ import annotations

import math
from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.matrix import direction, newton_schulz, orthogonalising
from isostep.rule import Rule


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
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    b, d = direction(b, g, momentum, nesterov)
    o = newton_schulz(d, ns_coefficients, ns_steps, ns_eps)
    v = parts.average(v, o * o, beta2)
    r = o / (parts.root(v, nm.one_minus_pow(beta2, t)) + eps)
    size = 0.2 * math.sqrt(math.prod(p.shape))
    u = -lr * (size / (parts.norm(r) + eps)) * r
    return parts.decoupled(p, u, lr, weight_decay), b, v


RULE = Rule(
    name="adamuon",
    update=update,
    state=("momentum_buffer", "v_buffer"),
    hyper={
        "lr": parts.lr(0.02, unit="update RMS of 0.2 per step"),
        "weight_decay": parts.weight_decay(0.01, case=0.2),
        "beta2": parts.decay_rate(0.999, "decay rate of the average of the step's squares"),
        "eps": parts.eps(1e-8, "added to the root and to the norm"),
        **orthogonalising(),
        "ns_eps": Real(1e-7, low=0, doc="lower bound of the norm that the matrix is divided by"),
    },
    ndim=(2,),
    family="matrix",
    year=2025,
    paper="Si et al., AdaMuon: Adaptive Muon Optimizer",
    arxiv="2507.11005",
)
