"""What the CuPy paths do not do, as data: see ``isostep_conformance.gaps``."""

from __future__ import annotations

from typing import Any


def gaps() -> list[Any]:
    """The kernels of ``cupy:raw`` have none; CuPy's own, which run all else, flush denormals."""
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
            "way": ("passes*", "stacked*"),  # CuPy's own kernels do what is between passes
            "dtype": ("float32", "bfloat16"),  # which computes in float32
        },
    ]
