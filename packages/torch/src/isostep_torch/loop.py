"""``torch:loop``: the rule's own functions on tensors, one parameter after another."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from isostep import ArrayBackend
from isostep.backends.numpy import numpy_dtype
from isostep.rule import BoundRule
from isostep.state import StepError
from isostep.strides import folded
from isostep_torch import blocks, sharded
from isostep_torch.calls import call
from isostep_torch.rounding import key_of, stochastic_


class TorchLoop(ArrayBackend):
    """The generic path on tensors of any device; parameters and state change in place, outside autograd."""

    name = "torch:loop"

    def asarray(self, array: np.ndarray) -> torch.Tensor:
        array = np.asarray(array)
        if (
            array.dtype.name == "bfloat16"
        ):  # torch does not know NumPy's extension type: pass the bits
            return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(array.copy())

    def to_numpy(self, array: torch.Tensor) -> np.ndarray:
        array = array.detach().cpu()
        if array.dtype is torch.bfloat16:
            return array.contiguous().view(torch.int16).numpy().copy().view(numpy_dtype("bfloat16"))
        return array.numpy().copy()

    def cast(self, array: Any, dtype: str) -> torch.Tensor:
        # ``torch.as_tensor`` would move it to torch's default device.
        known = array if isinstance(array, torch.Tensor) else torch.as_tensor(array)
        kind = getattr(torch, dtype)
        known = known.detach() if known.requires_grad else known
        return known if known.dtype is kind else known.to(kind)

    def zeros_like(self, array: torch.Tensor, dtype: str | None = None) -> torch.Tensor:
        kind = None if dtype is None else getattr(torch, dtype)
        return torch.zeros_like(sharded.added_up(array.detach()), dtype=kind)

    def scalar(self, number: float, dtype: str, like: torch.Tensor) -> torch.Tensor:
        return torch.tensor(number, dtype=getattr(torch, dtype), device=like.device)

    def write(self, target: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return target.copy_(sharded.laid_out(value, target))

    def wrote(self, tensors: Iterable[torch.Tensor]) -> None:
        """What a step has written to; operations of torch tell autograd themselves."""

    def writable(self, array: torch.Tensor) -> bool:
        """Not what was expanded: its elements share memory."""
        if array.is_contiguous():
            return True
        pairs = zip(array.shape, array.stride(), strict=True)
        return not array.numel() or not any(count > 1 and step == 0 for count, step in pairs)

    def folded(self, array: torch.Tensor) -> bool:
        return not array.is_contiguous() and folded(array.shape, array.stride())

    def views(self, value: Any, array: torch.Tensor) -> bool:
        if value is array or not isinstance(value, torch.Tensor) or torch.compiler.is_compiling():
            return value is array
        return bool(torch._C._is_alias_of(value, array))  # type: ignore[attr-defined]

    def scaled(self, gradient: torch.Tensor, factor: Any) -> torch.Tensor:
        here = factor.to(gradient.device) if isinstance(factor, torch.Tensor) else factor
        return gradient * here

    def stochastic(
        self, value: torch.Tensor, dtype: str, noise: tuple[Any, Any, int], place: int
    ) -> torch.Tensor:
        def rounded(part: torch.Tensor) -> torch.Tensor:
            found = torch.empty_like(part, dtype=getattr(torch, dtype))
            stochastic_(found, part, key_of(*noise, part.device), place)
            return found

        return sharded.by_parts(rounded, value)

    def bytes(self, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        if sharded.distributed(like):
            raise StepError(blocks.NO_SHARDS)
        return torch.zeros(shape, dtype=torch.uint8, device=like.device)

    def packed(
        self, value: torch.Tensor, form: str, noise: tuple[Any, Any, int] | None, place: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert noise is not None
        return blocks.packed(value, form, key_of(*noise, value.device), place)

    def unpacked(self, codes: torch.Tensor, scales: torch.Tensor, form: str) -> torch.Tensor:
        return blocks.unpacked(codes, scales, form)

    def takes_blocks(self, rule: BoundRule) -> bool:
        """Whether kernels take state in blocks as it is; else it is opened before a step and closed after it."""
        return False

    def call(self, op: str, *args: Any) -> Any:
        return call(op, *args)

    def sum_dtype(self, array: Any) -> str:
        return "float32" if array.device.type == "mps" else "float64"  # which has no float64

    def quiet(self) -> AbstractContextManager[Any]:
        return torch.no_grad() if torch.is_grad_enabled() else nullcontext()

    def _run(self, rule: BoundRule, items: list[Any], group: dict[str, Any], t: Any) -> Any:
        return sharded.stepped(super()._run, rule, items, group, t)

    def value_and_grad(self, function: Any) -> Any:
        def both(params: Any, *args: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
            leaves = [p.detach().requires_grad_() for p in params]
            value = function(leaves, *args)
            return value.detach(), list(torch.autograd.grad(value, leaves))

        return both
