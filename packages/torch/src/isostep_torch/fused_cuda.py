"""``torch:fused(cuda)``: a program's Triton kernels on lists of tensors, by their addresses.

``isostep.lower.executor`` says what is launched when; here are the buffers and the launches. The same kernels run in
Triton's interpreter on tensors of the CPU, as the path ``torch:triton(interpreter)``: that is how they are
proved where there is no GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
import triton.language as tl

from isostep.lower.axes import Axes
from isostep.lower.axes_device import PassLaunch
from isostep.lower.device import Kernel, Kernels
from isostep.lower.executor import Device, DeviceBackend, Launch
from isostep.lower.plan import Plan
from isostep.state import StepError
from isostep_torch import triton_modules
from isostep_torch.foreach import TorchForeach
from isostep_torch.memory import Memory, has_memory
from isostep_torch.triton_source import THREADS, block

#: a * b + c stays two roundings, so that a result does not depend on how an element's row was compiled.
OPTIONS: dict[str, Any] = {"num_warps": THREADS // 32, "enable_fp_fusion": False}
#: Rows of partial sums that a block of ``reduce`` holds at a time: one block adds up the whole group's, 25,600 of 100M
#: elements, and waits for memory once for so many.
ROWS = 2048
#: Places of a pass' tile for each thread, if there are so many.
EACH = 8


class TritonDevice(Device):
    """The tables on one device, and its launches."""

    def __init__(self, place: torch.device) -> None:
        self.place = place
        self.interpreted = place.type == "cpu"

    def __str__(self) -> str:
        return "cpu" if self.interpreted else torch.cuda.get_device_name(self.place)

    def here(self) -> Any:
        return on(self.place)

    def buffer(self, count: int, dtype: str) -> torch.Tensor:
        return torch.empty(count, dtype=getattr(torch, dtype), device=self.place)

    def upload(self, buffer: torch.Tensor, values: np.ndarray) -> None:
        # torch's allocator does not give pinned memory out again before the copies from it are done.
        buffer.copy_(self.pinned(values), non_blocking=True)

    def pinned(self, values: np.ndarray) -> torch.Tensor:
        """A copy that the device can fetch by itself."""
        host = torch.from_numpy(values)
        return host.clone() if self.interpreted else host.pin_memory()

    def compile(self, kernels: Kernels) -> Mapping[str, Launch]:
        own = triton_modules.module(kernels, interpreted=self.interpreted)
        common = triton_modules.common(interpreted=self.interpreted)
        group = {"DTYPE": getattr(tl, kernels.group_dtype)}
        return {
            **{
                k.name: partial(stage, getattr(own, k.name), k, block(kernels.dtype))
                for k in kernels.stages
            },
            "reduce": partial(launch, common.reduce, {"BLOCK": ROWS}),
            "commit": partial(launch, common.commit, group),
        }

    def address(self, buffer: torch.Tensor) -> int:
        return buffer.data_ptr()

    def passes(self, axes: Axes, dtype: str) -> Sequence[PassLaunch]:
        own = triton_modules.passes(axes, dtype, interpreted=self.interpreted)
        return [partial(tiled, getattr(own, f"pass{k}")) for k in range(axes.count)]


def stage(
    function: Any, kernel: Kernel, size: int, blocks: int, arguments: Sequence[Any], *more: Any
) -> None:
    """One block per row, so that a kernel need not know how many there are; ``size`` elements at a time."""
    count = kernel.arguments.index("count")
    function[(blocks,)](*arguments[:count], *arguments[count + 1 :], *more, BLOCK=size, **OPTIONS)


def launch(
    function: Any, given: dict[str, Any], blocks: int, arguments: Sequence[Any], *more: Any
) -> None:
    """So many blocks of a kernel, ``given`` what it is compiled for."""
    function[(blocks,)](*arguments, *more, **given, **OPTIONS)


def tiled(function: Any, blocks: int, table: torch.Tensor, lengths: tuple[int, ...]) -> None:
    """A block for each tile of a pass."""
    named = {f"B{k}": n for k, n in enumerate(lengths)}
    function[(blocks,)](table, **named, **OPTIONS | {"num_warps": warps(lengths)})


def warps(lengths: tuple[int, ...]) -> int:
    """Few enough that no two have the same places of a tile: one might store before the other has loaded."""
    return min(max(math.prod(lengths) // (32 * EACH), 1), THREADS // 32)


class TorchTriton(Memory, DeviceBackend, TorchForeach):
    """One launch per stage over all tensors of a device and dtype, one more where the stage sums."""

    name = "torch:fused(cuda)"
    kind = "cuda"

    def __init__(self) -> None:
        self._devices: dict[torch.device, TritonDevice] = {}
        self.device = TritonDevice(torch.device(self.kind))  # before a step, the current one

    def asarray(self, array: np.ndarray) -> torch.Tensor:
        return super().asarray(array).to(self.kind)

    def reachable(self, array: Any) -> bool:
        here = array.device.type == self.kind and array.layout is torch.strided
        return here and has_memory(type(array))  # type: ignore[arg-type]

    def addressable(self, array: torch.Tensor) -> bool:
        return array.device.type == self.kind and array.is_contiguous() and not array.is_neg()

    def all_reachable(self, arrays: Sequence[Any]) -> bool:
        """Whether all are, on one device; those of several take the generic path."""
        return len(set(map(attrgetter("device"), arrays))) < 2 and super().all_reachable(arrays)

    def launch(
        self,
        plan: Plan,
        hypers: Sequence[tuple[int, Mapping[str, Any]]],
        group_hyper: tuple[int, Mapping[str, Any]],
        group: dict[str, Any],
    ) -> dict[str, Any]:
        self.device = self.device_of(plan.params[0])
        with self.device.here():
            return super().launch(plan, hypers, group_hyper, group)

    def device_of(self, array: Any) -> TritonDevice:
        place = array.device
        if capturing(place):
            message = (
                "a graph that captures this step would repeat its step count; use capturable=True"
            )
            raise StepError(message)
        return self._devices.setdefault(place, TritonDevice(place))


class TorchInterpreter(TorchTriton):
    """The same kernels in Triton's interpreter, on tensors of the CPU: slow, and exact."""

    name = "torch:triton(interpreter)"
    kind = "cpu"

    @contextmanager
    def quiet(self) -> Iterator[None]:
        with super().quiet(), np.errstate(all="ignore"):  # the interpreter computes with NumPy
            yield


def capturing(place: torch.device) -> bool:
    """Whether a graph records what is asked of a device now, to be done whenever it is replayed."""
    return place.type == "cuda" and torch.cuda.is_current_stream_capturing()


def on(place: torch.device) -> Any:
    """Launches go to this device."""
    return torch.cuda.device(place if place.type == "cuda" else -1)
