"""How fused steps find the memory of tensors, on the CPU and on CUDA alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


class Memory:
    """What ``isostep.lower.fused`` asks of tensors whose elements kernels read by address."""

    array_type: type = torch.Tensor
    stays_put = False  # `p.data = other` moves a tensor

    def stand_in(self, array: torch.Tensor) -> torch.Tensor:
        return torch.empty(array.shape, dtype=array.dtype, device=array.device)

    def strides(self, array: torch.Tensor) -> Sequence[int]:
        return array.stride()

    def turned(self, array: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
        return array.detach().permute(*axes)

    def addresses(self, arrays: Sequence[torch.Tensor]) -> np.ndarray:
        return np.fromiter(map(torch.Tensor.data_ptr, arrays), np.int64, len(arrays))
