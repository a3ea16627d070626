"""``cupy:raw``: one CUDA kernel per stage over all arrays of a list, on the current device and stream.

All that is proved without a GPU is shared with ``isostep_cupy.host``: the kernels' text, tables, launches and their
order. What is left here is how CuPy compiles, uploads and launches. CuPy's own compilation of raw kernels flushes
float32 denormals (it appends -ftz=true), which a step must not; so NVRTC is called without it, and CuPy loads the
result.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from isostep.lower.axes import Axes
from isostep.lower.axes_device import PassLaunch
from isostep.lower.cache import kept
from isostep.lower.device import Kernels
from isostep.lower.executor import Device, DeviceBackend, Launch
from isostep.lower.plan import Plan
from isostep.state import StepError
from isostep_cupy import axes_source
from isostep_cupy.backend import CupyGeneric
from isostep_cupy.cuda_source import source
from isostep_cupy.cuda_text import unit

#: Threads of a block. There is a block for each row of chunks: of fewer, with several rows each, some would be at their
#: last rows while multiprocessors already stand idle.
THREADS = 256
OPTIONS = ("-std=c++17",)


class CupyDevice(Device):
    """CuPy's buffers and kernels."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._compiled: dict[tuple[int, Kernels], Mapping[str, Launch]] = {}
        self._passes: dict[tuple[int, str], list[PassLaunch]] = {}
        self._staging: dict[tuple[int, int], deque[tuple[Any, Any]]] = {}

    def __str__(self) -> str:
        device = self._cupy.cuda.runtime.getDeviceProperties(self._cupy.cuda.Device().id)
        return str(device["name"].decode())

    def buffer(self, count: int, dtype: str) -> Any:
        return self._cupy.empty(count, dtype)

    def upload(self, buffer: Any, values: np.ndarray) -> None:
        """Through page-locked memory, of which there is as much as copies are under way: nobody waits."""
        stream = self._cupy.cuda.get_current_stream()
        place = self._cupy.cuda.Device().id  # events are one device's
        waiting = self._staging.setdefault((place, values.nbytes), deque())
        if waiting and waiting[0][1].done:
            staged, event = waiting.popleft()
        else:
            locked = self._cupy.cuda.alloc_pinned_memory(values.nbytes)
            staged = np.frombuffer(locked, np.uint8, values.nbytes)
            event = self._cupy.cuda.Event(disable_timing=True)
        staged[...] = values.view(np.uint8)
        buffer.data.copy_from_host_async(staged.ctypes.data, values.nbytes, stream)
        event.record(stream)
        waiting.append((staged, event))

    def compile(self, kernels: Kernels) -> Mapping[str, Launch]:
        key = self._cupy.cuda.Device().id, kernels
        found = self._compiled.get(key)
        if found is None:
            names = [*(k.name for k in kernels.stages), "reduce", "commit"]
            launches = self._launches(kernels.program.name, source(kernels), names)
            found = self._compiled[key] = launches
        return found

    def address(self, buffer: Any) -> int:
        return int(buffer.data.ptr)

    def passes(self, axes: Axes, dtype: str) -> Sequence[PassLaunch]:
        key = self._cupy.cuda.Device().id, axes_source.source(axes, dtype)
        found = self._passes.get(key)
        if found is None:
            names = [f"pass{one.index}" for one in axes.passes]
            launches = self._launches(axes.program.name, key[1], names)
            found = self._passes[key] = [axes_source.launcher(launches[name]) for name in names]
        return found

    def _launches(self, name: str, text: str, every: Sequence[str]) -> dict[str, Launch]:
        """The kernels of a text, by name."""
        module = self._cupy.RawModule(path=str(self._built(name, unit(text))))
        return {n: _launcher(module.get_function(n)) for n in every}

    def _built(self, name: str, text: str) -> Path:
        """The machine code for this device, from the cache folder if it is there."""
        nvrtc = self._cupy.cuda.nvrtc
        options = (*OPTIONS, f"--gpu-architecture=sm_{self._cupy.cuda.Device().compute_capability}")
        key = f"{nvrtc.getVersion()} {options} {text}"
        digest = hashlib.sha256(key.encode()).hexdigest()[:20]
        stem = "".join(c if c.isalnum() else "_" for c in name)[:60]
        return kept(
            "cuda",
            f"{stem}_{digest}.cubin",
            lambda path: _write(path, compiled(nvrtc, text, options)),
        )


def compiled(nvrtc: Any, text: str, options: tuple[str, ...]) -> bytes:
    """Machine code by NVRTC, ``cupy.cuda.nvrtc``."""
    program = nvrtc.createProgram(text, "isostep.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        # CuPy takes the last byte, a 0, for the end of a text and drops it (cupy_backends/cuda/libs/nvrtc.pyx, as of
        # 14.2). Of machine code in a file it is missed; one too many is not.
        code: bytes = nvrtc.getCUBIN(program) + b"\0"
    except nvrtc.NVRTCError as error:
        message = f"NVRTC cannot compile these kernels:\n{nvrtc.getProgramLog(program)}"
        raise RuntimeError(message) from error
    finally:
        nvrtc.destroyProgram(program)
    return code


def _write(path: Path, code: bytes) -> None:
    path.write_bytes(code)


def _launcher(kernel: Any) -> Launch:
    def launch(blocks: int, arguments: Sequence[Any]) -> None:
        given = tuple(np.int64(a) if isinstance(a, int) else a for a in arguments)
        kernel((blocks,), (THREADS,), given)

    return launch


class CupyRaw(DeviceBackend, CupyGeneric):
    """The CUDA kernels on CuPy arrays of the current device; parameters and state change in place."""

    name = "cupy:raw"
    #: a plan is one device's
    shape_of = staticmethod(attrgetter("dtype", "shape", "device"))  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        if self._has_bfloat16():
            self.dtypes = (*CupyGeneric.dtypes, "bfloat16")
        self.device = CupyDevice(self._cupy)
        self.array_type = self._cupy.ndarray

    def _has_bfloat16(self) -> bool:
        """Whether this CuPy has arrays of bfloat16; the kernels do."""
        try:
            from ml_dtypes import bfloat16

            self._cupy.ones(1, np.float32).astype(bfloat16).astype(np.float32)
        except Exception:  # no ml_dtypes, no such dtype, or CuPy cannot compile the cast here
            return False
        return True

    def launch(self, plan: Plan, *given: Any) -> dict[str, Any]:
        self.device_of(plan.params[0])
        return super().launch(plan, *given)

    def device_of(self, array: Any) -> Device:
        here, place = self._cupy.cuda.Device().id, array.device.id
        if here != place:
            message = f"the parameters are on device {place}, the current one is {here}; use cupy.cuda.Device({place})"
            raise StepError(message)
        if self._cupy.cuda.get_current_stream().is_capturing():
            message = (
                "a graph that captures this step would repeat its step count; prepare it before, "
                "and capture what that returns"
            )
            raise StepError(message)
        return self.device

    def reachable(self, array: Any) -> bool:
        here = self._cupy.cuda.Device().id
        return isinstance(array, self._cupy.ndarray) and array.device.id == here

    def addressable(self, array: Any) -> bool:
        return isinstance(array, self._cupy.ndarray) and bool(array.flags.c_contiguous)

    def stand_in(self, array: Any) -> Any:
        return self._cupy.empty(array.shape, array.dtype)

    def addresses(self, arrays: Sequence[Any]) -> np.ndarray:
        return np.fromiter((a.data.ptr for a in arrays), np.int64, len(arrays))
