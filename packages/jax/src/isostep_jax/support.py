"""What the JAX paths do not do, as data: see ``isostep_conformance.gaps``."""

from __future__ import annotations

from typing import Any


def gaps() -> list[Any]:
    """Every rule runs on ``jax:jit`` in every dtype; a few things that XLA does are not the contract's."""
    return [
        {
            "word": "notyet",
            "reason": "https://github.com/openxla/xla/issues/22858 (XLA's CPU code flushes denormals to zero)",
            "path": "jax:jit",
            "check": "denormals",
            "partly": True,
        },
        {
            "word": "notyet",
            "reason": "XLA folds sqrt(x * x) to |x| for arrays of one element: finite where the square overflows",
            "path": "jax:jit",
            "rule": "*adaptive_clip+*",
            "check": "huge",
            "partly": True,
        },
        {
            "word": "never",
            "reason": "where partial sums overflow both ways, their order decides between infinity and NaN",
            "path": "jax:jit",
            "rule": "*sgd_hd*",
            "check": "huge",
            "partly": True,
        },
        {
            "word": "never",
            "reason": "XLA contracts multiply-adds differently as it fuses other leaves: the last bit may differ",
            "path": "jax:jit",
            "check": "grouping_bits",
            "partly": True,
        },
    ]
