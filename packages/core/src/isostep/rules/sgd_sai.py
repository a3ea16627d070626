"""SGD-SaI: SGD with momentum, each array's rate scaled by the signal-to-noise ratio of its first gradient.

    s  = |g| / (std(g) + eps)                       at t = 1, and kept: one number for an array
    m <- momentum * m + (1 - momentum) * g          m = g at t = 1
    u  = -lr * s * m - lr * weight_decay * p

std is the sample's, with n - 1; of a single element it is 0.

Follows: Xu, Xiang, Cai, Wen, "No More Adam: Learning Rate Scaling at Initialization is All You Need",
    arXiv 2412.11768, and the authors' package sgd_sai 1.0.3, SGD_sai.
Departs:
    - Without momentum the code fails; here m is g.
    - The code takes s of all arrays at its first step; here each array has it at its own first step.
    - pytorch_optimizer's SGDSaI starts m at zeros, and takes |g| alone for s of vectors.
lr unit: parameter units per step, times the root of the array's size: s is about that where gradients are noise.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.rule import Rule


def init(p: Any, /) -> tuple[Any, Any]:
    """Zeros, and one number for the array."""
    zeros = parts.zeros(p)
    return zeros, nm.sum(zeros)


def phase(t: int, /) -> bool:
    """Whether the ratio is known: it takes sums over the array."""
    return t > 1


def update(
    p: Any,
    g: Any,
    m: Any,
    s: Any,
    t: int,
    /,
    *,
    lr: Any,
    momentum: Any,
    eps: Any,
    weight_decay: Any,
    phase: bool,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    if phase:
        m = parts.average(m, g, momentum)
    else:
        m, s = g, parts.norm(g) / (parts.deviation(g) + eps)
    return parts.decoupled(p, -lr * s * m, lr, weight_decay), m, s


RULE = Rule(
    name="sgd_sai",
    update=update,
    init=init,
    phase=phase,
    state=("momentum_buffer", "gsnr"),
    hyper={
        "lr": parts.lr(1e-2),
        "momentum": parts.decay_rate(0.9, "decay rate of the momentum"),
        "eps": Real(1e-8, low=0, cases=(0.05,), doc="added to the deviation"),
        "weight_decay": parts.weight_decay(0.01),
    },
    family="sgd",
    year=2024,
    paper="Xu et al., No More Adam: Learning Rate Scaling at Initialization is All You Need",
    arxiv="2412.11768",
)
