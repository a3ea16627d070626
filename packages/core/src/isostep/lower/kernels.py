"""Compiled kernels: source files in a cache folder, imported and compiled once, kept between runs."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
import threading
from pathlib import Path
from types import ModuleType

from isostep.lower import numba_support
from isostep.lower.numba_source import source
from isostep.program import Program

_LOCK = threading.Lock()
_LOADED: dict[tuple[int, str], tuple[Program, ModuleType]] = {}


def cache_folder() -> Path:
    """Where generated kernels are kept: ``ISOSTEP_CACHE_DIR``, or the user's cache folder."""
    named = os.environ.get("ISOSTEP_CACHE_DIR")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "isostep"


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
    path = _write(f"{module_name}.py", text)
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


def _write(file: str, text: str) -> Path:
    """The source in the cache folder, written atomically; in a temporary folder where that is not possible."""
    for folder in (
        cache_folder() / "numba",
        Path(tempfile.gettempdir()) / f"isostep-{os.getuid()}" / "numba",
    ):
        path = folder / file
        try:
            if path.exists() and path.read_text() == text:
                return path
            folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
            with os.fdopen(handle, "w") as f:
                f.write(text)
            os.replace(temporary, path)
        except OSError:
            continue
        return path
    message = f"no folder for generated kernels can be written; set ISOSTEP_CACHE_DIR (tried {cache_folder()})"
    raise OSError(message)
