"""PyTorch as a backend: its paths, best first."""

from __future__ import annotations

from typing import Any

from isostep import Family
from isostep_torch.foreach import TorchForeach
from isostep_torch.loop import TorchLoop
from isostep_torch.support import gaps


def _fused() -> Any:
    from isostep_torch.fused_cpu import TorchFused

    return TorchFused()


family = Family(
    "torch",
    {"fused": _fused, "foreach": TorchForeach, "loop": TorchLoop},
    needs={"fused": "numba"},
    gaps=gaps,
)
