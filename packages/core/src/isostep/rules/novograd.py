"""NovoGrad: momentum of gradients that are divided by the running norm of their layer.

    s  = sum of g**2 over the whole array
    v <- b2 * v + (1 - b2) * s                      v = s at t = 1; one number for each array
    d  = g / (sqrt(v) + eps) + weight_decay * p
    m <- b1 * m + d                                 m = d at t = 1; with grad_averaging, later on,
    u  = -lr * m                                    b1 * m + (1 - b1) * d

Follows: Ginsburg, Castonguay, Hrinchuk, Kuchaiev, Lavrukhin, Leary, Li, Nguyen, Zhang, Cohen,
    "Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks",
    arXiv 1905.11286, Algorithm 1. optax.novograd and pytorch_optimizer's NovoGrad agree.
Departs:
    - grad_averaging is not in Algorithm 1; the paper names it in its text and NVIDIA's code has it.
    - NVIDIA's code and timm's NvNovoGrad start m at zero, so that grad_averaging acts at t = 1 too;
      timm adds the decay before it divides by nothing else, as here.
    - The first step's division has eps too; the paper's equation for m_1 has none.
    - amsgrad, which NVIDIA's code offers, is left out.
lr unit: fraction of the layer's gradient direction: a step of lr has norm about lr / (1 - b1).
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Flag
from isostep.rule import Rule


def init(p: Any, /) -> tuple[Any, Any]:
    """The momentum, and one number for the array."""
    return parts.zeros(p), nm.sum(parts.zeros(p))


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
    grad_averaging: bool,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    b1, b2 = betas
    # v and m are zero before the first step, so all that t = 1 needs is what comes in, whole.
    v = b2 * v + nm.where(t > 1, 1 - b2, 1.0) * nm.sum(g * g)
    d = parts.coupled(p, g / (nm.sqrt(v) + eps), weight_decay)
    m = b1 * m + (nm.where(t > 1, 1 - b1, 1.0) * d if grad_averaging else d)
    return -lr * m, m, v


RULE = Rule(
    name="novograd",
    update=update,
    init=init,
    state=("moments", "grads_ema"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(
            0.95, 0.98, doc="decay rates of the momentum and of the layer's squared norm"
        ),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(doc="decay, added to the divided gradient"),
        "grad_averaging": Flag(False, doc="average the momentum instead of summing it"),
    },
    family="adaptive",
    year=2019,
    paper="Ginsburg et al., Stochastic Gradient Methods with Layer-wise Adaptive Moments",
    arxiv="1905.11286",
)
