"""PyTorch as a backend: its paths, best first."""

from __future__ import annotations

from typing import Any

import torch

from isostep import Family, Unavailable
from isostep_torch.foreach import TorchForeach
from isostep_torch.loop import TorchLoop
from isostep_torch.support import gaps


def _fused() -> Any:
    from isostep_torch.fused_cpu import TorchFused

    return TorchFused()


def _on_cuda() -> Any:
    if not torch.cuda.is_available():
        message = "torch:fused(cuda) needs a CUDA device, and torch finds none here"
        raise Unavailable(message)
    from isostep_torch.fused_cuda import TorchTriton

    return TorchTriton()


def _interpreted() -> Any:
    from isostep_torch.fused_cuda import TorchInterpreter

    return TorchInterpreter()


family = Family(
    "torch",
    {
        "fused": _fused,
        "fused(cuda)": _on_cuda,
        "foreach": TorchForeach,
        "loop": TorchLoop,
        "triton(interpreter)": _interpreted,
    },
    needs={"fused": "numba", "fused(cuda)": "triton", "triton(interpreter)": "triton"},
    gaps=gaps,
    by_name=("triton(interpreter)",),
)
