"""Compiled kernels: source files in a cache folder, imported and compiled once, kept between runs."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType

from isostep.lower import numba_support
from isostep.lower.cache import kept
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
            found = _LOADED[key] = (program, _load(source(program, dtype), program.name))
        return found[1]


def _load(text: str, name: str) -> ModuleType:
    support = Path(
        numba_support.__file__
    ).read_text()  # Numba's cache does not look into imported modules
    digest = hashlib.sha256((support + text).encode()).hexdigest()[:16]
    stem = "".join(c if c.isalnum() else "_" for c in name)[:60]
    module_name = f"isostep_kernel_{stem}_{digest}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    path = kept(
        "numba",
        f"{module_name}.py",
        lambda file: _write(file, text),
        good=lambda file: file.read_text() == text,
    )
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


def _write(file: Path, text: str) -> None:
    file.write_text(text)
