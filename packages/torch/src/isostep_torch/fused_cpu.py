"""``torch:fused`` on the CPU: core's Numba kernels on tensors, by their addresses."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from isostep.lower.cpu import FusedCPU
from isostep.lower.openmp import OpenMP
from isostep.lower.threads import POOL, Team
from isostep_torch.foreach import TorchForeach
from isostep_torch.memory import Memory, all_have_memory, has_memory


def team() -> Team:
    """torch's own threads, as many as ``torch.get_num_threads()``; Python's where torch's are not OpenMP's."""
    try:
        return OpenMP(
            CDLL(torch._C.__file__), torch.get_num_threads
        )  # leads to all that torch is linked to
    except (AttributeError, OSError):
        return POOL


class TorchFused(Memory, FusedCPU, TorchForeach):
    """One pass per stage over all tensors of the CPU; rules with axes or matrices by passes over those of a shape."""

    name = "torch:fused"
    team = team()

    def of_host(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array)

    def reachable(self, array: Any) -> bool:
        here = array.device.type == "cpu" and array.layout is torch.strided
        return here and has_memory(type(array))  # type: ignore[arg-type]

    def addressable(self, array: torch.Tensor) -> bool:
        return array.is_contiguous() and not array.is_neg()

    # For a thousand tensors, without a line of Python for each.

    def all_reachable(self, arrays: Sequence[Any]) -> bool:
        layouts = set(map(attrgetter("layout"), arrays))
        there = layouts <= {torch.strided} and all(map(attrgetter("is_cpu"), arrays))
        return there and all_have_memory(arrays)

    def strided(self, arrays: Sequence[Any]) -> list[int]:
        everywhere = all(map(torch.Tensor.is_contiguous, arrays))
        plain = everywhere and not any(map(torch.Tensor.is_neg, arrays))
        return [] if plain else super().strided(arrays)
