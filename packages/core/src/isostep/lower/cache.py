"""The folder where generated kernels are kept between runs."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType


def cache_folder() -> Path:
    """Where generated kernels are kept: ``ISOSTEP_CACHE_DIR``, or the user's cache folder."""
    named = os.environ.get("ISOSTEP_CACHE_DIR")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "isostep"


def kept(
    kind: str, file: str, make: Callable[[Path], None], good: Callable[[Path], bool] = Path.exists
) -> Path:
    """The file of this name, made (atomically) if there is no good one; in a temporary folder if need be."""
    for folder in (
        cache_folder() / kind,
        Path(tempfile.gettempdir()) / f"isostep-{os.getuid()}" / kind,
    ):
        path = folder / file
        try:
            if path.exists() and good(path):
                return path
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
        except OSError:
            continue
        os.close(handle)
        fresh = Path(name)
        try:
            make(fresh)
            fresh.replace(path)
        except OSError:
            continue
        finally:
            fresh.unlink(missing_ok=True)
        return path
    message = f"no folder for generated kernels can be written; set ISOSTEP_CACHE_DIR (tried {cache_folder()})"
    raise OSError(message)


def module(kind: str, name: str, text: str, beside: str = "") -> ModuleType:
    """A generated text as a module, from its file; another text, or another ``beside``, is another module."""
    digest = hashlib.sha256((beside + text).encode()).hexdigest()[:16]
    stem = "".join(c if c.isalnum() else "_" for c in name)[:60]
    own_name = f"isostep_{kind}_{stem}_{digest}"
    if own_name in sys.modules:
        return sys.modules[own_name]
    path = kept(
        kind,
        f"{own_name}.py",
        lambda file: _write(file, text),
        good=lambda file: file.read_text() == text,
    )
    spec = importlib.util.spec_from_file_location(own_name, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[own_name] = found
    try:
        spec.loader.exec_module(found)
    except BaseException:  # Ctrl-C while it compiles: the next step starts anew
        sys.modules.pop(own_name, None)
        raise
    return found


def _write(file: Path, text: str) -> None:
    file.write_text(text)
