"""Which frameworks can run here, and the reason for each that cannot."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from net import NETS, Net

import isostep

KNOWN = tuple(NETS)


def why_not(framework: str) -> str | None:
    """Return why this framework cannot run here, or None where it can."""
    if framework == "numpy":
        return None
    if importlib.util.find_spec(framework) is None:
        return f"{framework} is not installed"
    if importlib.util.find_spec(f"isostep_{framework}") is None:
        return f"{framework} is installed, its adapter isostep-{framework} is not"
    if framework == "cupy":
        cupy = importlib.import_module("cupy")
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            return f"cupy is installed, no GPU answers ({error})"
        if count == 0:
            return "cupy is installed, there is no GPU"
    return None


@dataclass(frozen=True)
class Framework:
    """One way to run: an isostep backend for the updates, a network for the gradients."""

    path: str
    backend: Any
    net: Net


def open_framework(wanted: str, dtype: str) -> Framework:
    """Import the framework of a backend name ("torch", "torch:loop") and make both its halves."""
    backend = isostep.backend(wanted)
    return Framework(backend.name, backend, NETS[wanted.split(":")[0]](backend, dtype))
