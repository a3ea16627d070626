"""Muon: momentum, orthogonalised by a Newton-Schulz iteration. For matrices.

    b <- momentum * b + (1 - momentum) * g
    d  = momentum * b + (1 - momentum) * g with nesterov, else b
    o  = newton_schulz(d)                           see isostep/matrix.py
    u  = -lr * weight_decay * p - lr * scale * o

    scale = sqrt(max(1, rows / columns))            adjust_lr_fn None or "original"
    scale = 0.2 * sqrt(max(rows, columns))          adjust_lr_fn "match_rms_adamw"

Follows: torch.optim.Muon; Jordan et al., "Muon: An optimizer for hidden layers in neural networks"
    (2024, a web page and the repository KellerJordan/Muon, muon_update); weight decay and
    "match_rms_adamw" from Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982,
    equation 4.
Departs:
    - The iteration runs in the compute dtype. torch and KellerJordan/Muon run it in bfloat16
      whatever the parameter's dtype: about 2e-2 of one step's size.
      torch.set_float32_matmul_precision ("high": TF32, "medium": bfloat16) and
      jax_default_matmul_precision hold for the iteration too, and make it that much faster.
    - torch's documentation writes b <- momentum * b + g; its code, KellerJordan's and this rule
      average. The direction differs only by a factor that the iteration divides out (but for eps).
    - The norm is clamped from below at eps, as in torch; KellerJordan adds 1e-7 to it.
    - Only matrices, as in torch; KellerJordan flattens convolution kernels to matrices first.
    - Keras has m <- momentum * m + g and its own lr scale; optax runs the iteration in the
      parameter's dtype and takes (in, out) matrices; MLX couples the weight decay.
lr unit: spectral norm per step ("original"); update RMS of 0.2 per step and unit of lr
    ("match_rms_adamw").
"""

from __future__ import annotations

import math
from typing import Any

from isostep import parts
from isostep.domains import Choice, Real
from isostep.matrix import direction, newton_schulz, orthogonalising, width
from isostep.rule import Rule


def update(
    p: Any,
    g: Any,
    b: Any,
    t: int,
    /,
    *,
    lr: Any,
    weight_decay: Any,
    momentum: Any,
    nesterov: bool,
    ns_coefficients: tuple[Any, Any, Any],
    eps: Any,
    ns_steps: int,
    adjust_lr_fn: str | None,
) -> tuple[Any, Any]:
    """See the module's equations."""
    b, d = direction(b, g, momentum, nesterov)
    o = newton_schulz(d, ns_coefficients, ns_steps, eps)
    matched = adjust_lr_fn == "match_rms_adamw"
    scale = 0.2 * math.sqrt(max(p.shape)) if matched else width(*p.shape)
    u = -(lr * scale) * o
    return parts.decoupled(p, u, lr, weight_decay), b


#: In torch's order of arguments.
SETTINGS = orthogonalising()

RULE = Rule(
    name="muon",
    update=update,
    state=("momentum_buffer",),
    hyper={
        "lr": parts.lr(1e-3, unit="spectral norm per step"),
        "weight_decay": parts.weight_decay(0.1, case=0.2),
        "momentum": SETTINGS["momentum"],
        "nesterov": SETTINGS["nesterov"],
        "ns_coefficients": SETTINGS["ns_coefficients"],
        "eps": Real(1e-7, low=0, doc="lower bound of the norm that the matrix is divided by"),
        "ns_steps": SETTINGS["ns_steps"],
        "adjust_lr_fn": Choice(
            None, options=(None, "original", "match_rms_adamw"), doc="how lr depends on the shape"
        ),
    },
    ndim=(2,),
    family="matrix",
    year=2024,
    paper="Jordan et al., Muon (2024); Liu et al., Muon is Scalable for LLM Training",
    arxiv="2502.16982",
)
