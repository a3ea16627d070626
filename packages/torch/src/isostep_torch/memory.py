"""How fused steps find the memory of tensors, on the CPU and on CUDA alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from isostep.lower.overlap import SHARES, Written, spread
from isostep.lower.plan import Looks
from isostep.rule import BoundRule
from isostep.state import StepError
from isostep_torch.addresses import finder, in_python, places_in_python
from isostep_torch.looks import looks


@cache
def has_memory(kind: Any) -> bool:
    """Whether tensors of a type hold their elements; wrappers (DTensor, FakeTensor) only stand for other tensors."""
    plain = torch.Tensor.__torch_dispatch__
    return getattr(kind, "__torch_dispatch__", plain) is plain


def watched() -> bool:
    """Whether a dispatch mode sees every operation (``make_fx`` does, to repeat them), and of a kernel none."""
    return bool(torch._C._len_torch_dispatch_stack())


def all_have_memory(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether that is so of all of them."""
    return all(map(has_memory, {*map(type, tensors)}))


def check_apart(rule: BoundRule, tensors: Sequence[torch.Tensor]) -> None:
    """No two of those that steps write lie over one another."""
    if _any_share(tensors):
        message = f"{rule.name}: {SHARES}"
        raise StepError(message)


def _any_share(tensors: Sequence[torch.Tensor]) -> bool:
    placed = all(t.layout is torch.strided and t.device.type in ("cpu", "cuda") for t in tensors)
    if not placed or not all_have_memory(tensors):
        return False
    by_device: dict[torch.device, list[torch.Tensor]] = defaultdict(list)
    for t in tensors:
        by_device[t.device].append(t)
    for some in by_device.values():
        at, flat = in_python(some), [t.is_contiguous() for t in some]
        sizes = np.array([t.nbytes for t in some], np.int64)
        others = [
            spread(t, a) for t, a, lies in zip(some, at.tolist(), flat, strict=True) if not lies
        ]
        if Written(at[flat], sizes[flat], others).overlap:
            return True
    return False


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
        return in_python(arrays)

    def places(self, arrays: Sequence[torch.Tensor]) -> np.ndarray:
        return places_in_python(arrays)

    def finder(self, arrays: Sequence[torch.Tensor]) -> Callable[[], np.ndarray] | None:
        return finder(arrays)

    def looks(self, arrays: list[torch.Tensor]) -> Looks | None:
        return looks(arrays)

    def wrote(self, tensors: Iterable[torch.Tensor]) -> None:
        """Tell autograd what kernels have written to by address: a graph that saved it must not be used any more."""
        torch.autograd.graph.increment_version(tensors)
