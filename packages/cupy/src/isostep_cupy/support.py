"""What the CuPy paths do not do, as data: see ``isostep_conformance.gaps``."""

from __future__ import annotations

from typing import Any

#: Rules that have no kernels, in some setting or in all: ``cupy:raw`` takes CuPy's own for them.
WITHOUT_KERNELS = (
    "adafactor", "adammini", "adashift", "amos", "came", "muon", "nero", "novograd", "psgd_kron", "shampoo", "sm3",
    "soap",
)  # fmt: skip


def gaps() -> list[Any]:
    """The kernels of ``cupy:raw`` have none; CuPy's own, which run the generic path, flush denormals."""
    flush = {
        "word": "notyet",
        "reason": "CuPy compiles its own kernels with -ftz=true, in cupy/cuda/compiler.py (as of 14.2)",
        "check": "denormals",
        "partly": True,
    }
    return [
        {**flush, "path": "cupy:generic", "dtype": "float32"},
        {
            **flush,
            "path": "cupy:raw",
            "rule": WITHOUT_KERNELS,
            "dtype": ("float32", "bfloat16"),  # which computes in float32
        },
    ]
