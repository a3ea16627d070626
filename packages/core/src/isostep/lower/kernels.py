"""Compiled kernels: source files in a cache folder, imported and compiled once, kept between runs."""

from __future__ import annotations

import threading
from pathlib import Path
from types import ModuleType

from isostep.lower import numba_support
from isostep.lower.cache import module
from isostep.lower.numba_source import source
from isostep.program import Program

_LOCK = threading.Lock()
_LOADED: dict[tuple[int, str], tuple[Program, ModuleType]] = {}


def kernels(program: Program, dtype: str) -> ModuleType:
    """The module with a program's compiled passes for arrays of ``dtype``."""
    key = (id(program), dtype)
    with _LOCK:
        found = _LOADED.get(key)
        if found is None:  # the program is kept too, so that its id stays its own
            # Numba's cache does not look into imported modules.
            support = Path(numba_support.__file__).read_text()
            text = source(program, dtype)
            found = _LOADED[key] = (program, module("kernel", program.name, text, support))
        return found[1]
