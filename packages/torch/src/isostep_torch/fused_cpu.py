"""``torch:fused`` on the CPU: core's Numba kernels on tensors, by their addresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from isostep.lower.cpu import FusedCPU
from isostep_torch.loop import TorchLoop


class TorchFused(FusedCPU, TorchLoop):
    """One pass per stage over all tensors of the CPU; tensors elsewhere take the generic path so far."""

    name = "torch:fused"
    array_type = torch.Tensor
    stays_put = False  # `p.data = other` moves a tensor

    def reachable(self, array: Any) -> bool:
        return array.device.type == "cpu" and array.layout is torch.strided

    def addressable(self, array: torch.Tensor) -> bool:
        return array.is_contiguous()

    def stand_in(self, array: torch.Tensor) -> torch.Tensor:
        return torch.empty(array.shape, dtype=array.dtype)

    def addresses(self, arrays: Sequence[torch.Tensor]) -> np.ndarray:
        return np.fromiter((a.data_ptr() for a in arrays), np.int64, len(arrays))
