"""Files that take another's place only when all of them is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


class FileError(ValueError):
    """A file that cannot be read or written, in one line: what it is, what was wrong, what to do."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new file's place in the same folder, of which the whole becomes ``path``; after an error it is gone.

    Every call has a place of its own, so that the last of several threads or processes is what stays. A link stays
    one: what it points to is replaced.

    Raises:
        FileError: there is no such folder; or what is there is no regular file (a device, a pipe, a folder), and would
            be gone.
    """
    name, target = os.fspath(path), Path(os.path.realpath(path))
    if not target.parent.is_dir():
        message = f"{name} cannot be written: there is no folder {target.parent}; make it first"
        raise FileError(message)
    if target.exists() and not target.is_file():
        message = f"{name} is not a regular file, which a file could take the place of; choose another place"
        raise FileError(message)
    temporary = target.with_name(f".isostep-{uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
