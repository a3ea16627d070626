"""Generated Triton kernels as modules: for a device, or for Triton's interpreter on the CPU."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from isostep.lower import cache
from isostep.lower.axes import Axes
from isostep.lower.device import Kernels
from isostep_torch import triton_axes
from isostep_torch.triton_source import source

_HERE = Path(__file__).parent
_ON_DEVICE = "from isostep_torch.triton_support import "
_INTERPRETED = "from isostep_torch.triton_interpreted import range, "

_LOCK = threading.Lock()
_LOADED: dict[Any, tuple[Any, ModuleType]] = {}


def module(kernels: Kernels, *, interpreted: bool = False, traced: bool = False) -> ModuleType:
    """A program's kernels: ``stage0``, ``stage1``, ...; see ``triton_source.source``."""
    key = (id(kernels), interpreted, traced)
    with _LOCK:
        if key not in _LOADED:  # the kernels are kept too, so that their id stays their own
            text = source(kernels, traced=traced)
            _LOADED[key] = (kernels, _load(kernels.program.name, text, interpreted))
        return _LOADED[key][1]


@functools.cache
def passes(axes: Axes, dtype: str, *, interpreted: bool = False) -> ModuleType:
    """The passes of a program with axes: ``pass0``, ``pass1``, ...; one module for all programs of the same text."""
    text = triton_axes.source(axes, dtype)
    with _LOCK:
        return _load(axes.program.name, text, interpreted)


@functools.cache
def common(*, interpreted: bool = False) -> ModuleType:
    """The kernels that know no rule: ``reduce`` and ``commit``."""
    return _load("common", (_HERE / "triton_common.py").read_text(), interpreted)


def _load(name: str, text: str, interpreted: bool) -> ModuleType:
    """Both are the same text, but for where the functions come from that Triton's language lacks."""
    if not interpreted:
        return cache.module("triton", name, text)
    return cache.module("interpreted", name, text.replace(_ON_DEVICE, _INTERPRETED))
