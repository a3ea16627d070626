"""``cupy:raw(host)``: the text of the CUDA kernels, compiled by the system's C++ compiler and run on NumPy arrays.

For tests and for machines without a GPU: it proves the text and all that drives it, not its speed. ``host.h``
stands in for CUDA: blocks in a loop, a block's threads in turn. Products and sums are not contracted here, so that
results differ from the reference's by elementary functions and the order of sums alone; on a device they are.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isostep import Unavailable
from isostep.backends.numpy import NumpyReference
from isostep.lower.axes import Axes
from isostep.lower.axes_device import PassLaunch
from isostep.lower.cache import kept
from isostep.lower.device import COMMIT, DTYPES, REDUCE, Kernels
from isostep.lower.executor import Device, DeviceBackend, Launch
from isostep_cupy import axes_source
from isostep_cupy.cuda_source import source
from isostep_cupy.cuda_text import header, unit

#: Threads of a block: few, because each has a stack of its own, yet enough to halve five times.
THREADS = 32
FLAGS = (
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-shared",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-strict-aliasing",
    "-w",
)


def compiler() -> str:
    """The C++ compiler: ``CXX``, or the first of the usual names; ``Unavailable`` if there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    found = next((path for n in names if (path := shutil.which(n))), None)
    if found is None or sys.platform == "win32":
        message = f"cupy:raw(host) needs a C++ compiler for Unix; tried {', '.join(names)}"
        raise Unavailable(message)
    return found


class HostDevice(Device):
    """NumPy buffers and compiled loops."""

    def __init__(self) -> None:
        self.compiler = compiler()
        self._compiled: dict[Kernels, Mapping[str, Launch]] = {}
        self._passes: dict[str, list[PassLaunch]] = {}

    def __str__(self) -> str:
        return f"cpu ({Path(self.compiler).name}, {THREADS} threads to a block)"

    def buffer(self, count: int, dtype: str) -> np.ndarray:
        return np.empty(count, dtype)

    def upload(self, buffer: np.ndarray, values: np.ndarray) -> None:
        buffer[...] = values

    def compile(self, kernels: Kernels) -> Mapping[str, Launch]:
        found = self._compiled.get(kernels)
        if found is None:
            found = self._compiled[kernels] = self._load(kernels)
        return found

    def _load(self, kernels: Kernels) -> Mapping[str, Launch]:
        arguments = {k.name: k.arguments for k in kernels.stages}
        every = arguments | {"reduce": REDUCE, "commit": COMMIT}
        barriers = {
            k.name
            for k in kernels.stages
            if k.sums or k.unit_sums or k.figures or {*k.stores} & {*kernels.layout.packed}
        }
        return self._launches(kernels.program.name, source(kernels), every, {*barriers, "reduce"})

    def address(self, buffer: np.ndarray) -> int:
        return address(buffer)

    def passes(self, axes: Axes, dtype: str) -> Sequence[PassLaunch]:
        text = axes_source.source(axes, dtype)
        found = self._passes.get(text)
        if found is None:
            every = {f"pass{one.index}": ("table",) for one in axes.passes}
            barriers = {f"pass{one.index}" for one in axes.passes if one.reduced}
            launches = self._launches(axes.program.name, text, every, barriers)
            found = self._passes[text] = [axes_source.launcher(launches[name]) for name in every]
        return found

    def _launches(
        self, name: str, text: str, every: Mapping[str, Sequence[str]], barriers: set[str]
    ) -> dict[str, Launch]:
        """The kernels of a text by name, of which these have ``barriers``; ``every``: their arguments."""
        entries = (_entry(n, a) for n, a in every.items())
        whole = "\n".join([header("host.h"), unit(text), *entries])
        library = ctypes.CDLL(str(built(self.compiler, name, whole)))
        return {n: _launcher(getattr(library, f"run_{n}"), n in barriers) for n in every}


def built(compiler: str, name: str, text: str) -> Path:
    """The compiled text, from the cache folder if it is there."""
    key = f"{compiler} {FLAGS} {text}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:20]
    stem = "".join(c if c.isalnum() else "_" for c in name)[:60]

    def build(path: Path) -> None:
        command = [compiler, *FLAGS, "-x", "c++", "-", "-o", str(path), "-lm"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            message = f"{compiler} cannot compile the kernels of {name}:\n{done.stderr}"
            raise RuntimeError(message)

    return kept("host", f"{stem}_{digest}.so", build)


def _entry(name: str, arguments: Sequence[str]) -> str:
    """A function that a launch calls: the arguments come as one list of integers."""
    types = {"int64": "int64 *", "float64": "double *"}
    given = (
        f"({types[DTYPES[a]] if a in DTYPES else 'int64'})a[{k}]" for k, a in enumerate(arguments)
    )
    return (
        f'extern "C" void run_{name}(int64 blocks, int64 threads, int barriers, const int64 *a) {{\n'
        f"    host::run(blocks, threads, barriers, [a] {{ {name}({', '.join(given)}); }});\n}}"
    )


def _launcher(function: Any, barriers: bool) -> Launch:
    function.argtypes = (ctypes.c_int64, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p)
    function.restype = None

    def launch(blocks: int, arguments: Sequence[Any]) -> None:
        given = [a if isinstance(a, int) else address(a) for a in arguments]
        values = np.array(given, np.int64)
        function(blocks, THREADS, barriers, address(values))

    return launch


def address(array: np.ndarray) -> int:
    """Where an array's first element is."""
    return int(array.__array_interface__["data"][0])


class CupyRawHost(DeviceBackend, NumpyReference):
    """The CUDA kernels' text on NumPy arrays."""

    name = "cupy:raw(host)"

    def __init__(self) -> None:
        self.device = HostDevice()

    def take(self, array: Any) -> np.ndarray:
        """A NumPy array over the memory of any array that speaks DLPack."""
        return array if isinstance(array, np.ndarray) else np.from_dlpack(array)

    def addressable(self, array: Any) -> bool:
        return isinstance(array, np.ndarray) and array.flags.c_contiguous

    def stand_in(self, array: Any) -> np.ndarray:
        return np.empty(np.shape(array), array.dtype)

    def addresses(self, arrays: Sequence[Any]) -> np.ndarray:
        return np.fromiter(map(address, arrays), np.int64, len(arrays))
