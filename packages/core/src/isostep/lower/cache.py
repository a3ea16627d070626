"""The folder where generated kernels are kept between runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


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
