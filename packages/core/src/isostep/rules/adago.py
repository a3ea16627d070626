"""AdaGO: Muon's direction, with AdaGrad's step size from the norms of the gradients.

    b <- momentum * b + (1 - momentum) * g
    d  = momentum * b + (1 - momentum) * g with nesterov, else b
    o  = newton_schulz(d)                           see isostep/matrix.py
    n  = min(|g|, gamma)                            the norm of the whole matrix
    w <- sqrt(w**2 + n**2)                          w = v before the first step
    u  = -max(lr * n / w, eps) * o - lr * weight_decay * p

Follows: Zhang, Liu, Schaeffer, "AdaGrad Meets Muon: Adaptive Stepsizes for Orthogonal Updates", arXiv
    2509.02981. Of the paper itself only the abstract could be read, and no code of the authors: the
    equations are those that junaidaliop.github.io/zij gives for it, names and defaults are
    pytorch_optimizer's.
Departs:
    - The paper's orthogonal factor is exact; here it is Muon's iteration, as in pytorch_optimizer,
      in the compute dtype. See muon.
    - pytorch_optimizer's AdaGO has w**2 in the place of w, which is not AdaGrad's step size, and
      starts it at v. Under nesterov the n that it multiplies with is that of what is orthogonalised.
    - nesterov and weight_decay are pytorch_optimizer's. Only matrices; it flattens kernels of
      convolutions to matrices first.
lr unit: spectral norm of the first step; of later ones it is lr * n / w.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Real
from isostep.matrix import direction, newton_schulz, orthogonalising
from isostep.rule import Rule


def init(p: Any, /, *, v: Any) -> tuple[Any, Any]:
    """No momentum, and a first norm that is not zero."""
    zeros = parts.zeros(p)
    return zeros, nm.sum(zeros) + v


def update(
    p: Any,
    g: Any,
    b: Any,
    w: Any,
    t: int,
    /,
    *,
    lr: Any,
    weight_decay: Any,
    momentum: Any,
    nesterov: bool,
    gamma: Any,
    eps: Any,
    ns_coefficients: tuple[Any, Any, Any],
    ns_steps: int,
    ns_eps: Any,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    b, d = direction(b, g, momentum, nesterov)
    o = newton_schulz(d, ns_coefficients, ns_steps, ns_eps)
    n = nm.minimum(parts.norm(g), gamma)
    w = nm.sqrt(w * w + n * n)
    u = -nm.maximum(lr * n / w, eps) * o
    return parts.decoupled(p, u, lr, weight_decay), b, w


RULE = Rule(
    name="adago",
    update=update,
    init=init,
    state=("momentum_buffer", "accumulated_norm"),
    hyper={
        "lr": parts.lr(0.05, unit="spectral norm of the first step"),
        "weight_decay": parts.weight_decay(case=0.2),
        "gamma": Real(10.0, low=0, low_open=True, cases=(3.0,), doc="largest norm that counts"),
        "eps": Real(5e-4, low=0, cases=(0.02,), doc="smallest step size"),
        "v": Real(
            1e-6,
            low=0,
            low_open=True,
            cases=(0.3,),
            doc="norm that is accumulated before the first",
        ),
        **orthogonalising(),
        "nesterov": Flag(False, doc="Nesterov momentum"),
        "ns_eps": Real(1e-7, low=0, doc="lower bound of the norm that the matrix is divided by"),
    },
    ndim=(2,),
    family="matrix",
    year=2025,
    paper="Zhang et al., AdaGrad Meets Muon: Adaptive Stepsizes for Orthogonal Updates",
    arxiv="2509.02981",
)
