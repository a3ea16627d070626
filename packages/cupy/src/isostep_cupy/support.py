"""What the CuPy paths do not do, as data: see ``isostep_conformance.gaps``."""

from __future__ import annotations

from typing import Any


def gaps() -> list[Any]:
    """The kernels of ``cupy:raw`` have none; CuPy's own, which run the generic path, flush denormals."""
    return [
        {
            "word": "notyet",
            "reason": "CuPy compiles its own kernels with -ftz=true, in cupy/cuda/compiler.py (as of 14.2)",
            "path": "cupy:generic",
            "dtype": "float32",
            "check": "denormals",
            "partly": True,
        },
    ]
