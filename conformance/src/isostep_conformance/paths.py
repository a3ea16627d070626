"""The paths to be tested: found by entry point, made, or counted out loud with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import isostep
from isostep.backend import families, family
from isostep_conformance.gaps import Gap, GapError, read


@dataclass
class Path:
    """One path: its backend, or why there is none here."""

    name: str
    backend: Any = None
    missing: str = ""
    #: whether it stands in for a path of other hardware (an interpreter): slow, and run as itself over there
    stand_in: bool = False
    gaps: list[Gap] = field(default_factory=list)

    @property
    def twin(self) -> str:
        """The path whose arithmetic this one has too, or none."""
        return getattr(self.backend, "twin", "")

    def offers(self, dtype: str) -> bool:
        """Whether the backend has arrays of this dtype at all."""
        return dtype in self.backend.dtypes


#: Factories of paths that no entry point offers, by name: a test's own backend.
Extra = Mapping[str, Callable[[], Any]]


def chosen(names: Iterable[str], extra: Extra | None = None) -> list[Path]:
    """The paths asked for. A plain family name is its best path here.

    Raises:
        BackendError: a name is unknown, or that path cannot run here. Asked for by name, it may not be skipped.
        GapError: its gaps say nothing, or something that is not so.
    """
    extra = extra or {}
    found = []
    for name in dict.fromkeys(names):
        if name in extra:
            found.append(Path(name, extra[name]()))
            continue
        first, _, _ = name.partition(":")
        if first not in families():
            known = sorted({*families(), *extra})
            message = f"unknown backend {name!r}; installed: {', '.join(known) or 'none'}"
            raise isostep.BackendError(message)
        made = isostep.backend(name)
        known_paths = family(first)
        full = _full_name(name, made)
        stands_in = full.partition(":")[2] in known_paths.by_name
        found.append(Path(full, made, stand_in=stands_in, gaps=_gaps(known_paths)))
    return found


def installed(extra: Extra | None = None) -> list[Path]:
    """Every installed path, those that cannot run here with the reason."""
    found = []
    for first in families():
        try:
            known = family(first)
            gaps = _gaps(known)
        except (isostep.BackendError, GapError) as error:
            found.append(Path(first, missing=str(error)))
            continue
        for path in known.paths:
            name = first if path == "default" else f"{first}:{path}"
            try:
                stands_in = path in known.by_name
                found.append(Path(name, known.make(path), stand_in=stands_in, gaps=gaps))
            except (isostep.Unavailable, isostep.BackendError) as error:
                found.append(Path(name, missing=str(error), gaps=gaps))
    for name, make in (extra or {}).items():
        found.append(Path(name, make()))
    return sorted(found, key=lambda p: p.name)


def _full_name(asked: str, made: Any) -> str:
    own = getattr(made, "name", asked)
    return own if own.startswith(asked.partition(":")[0]) else asked


def _gaps(family: Any) -> list[Gap]:
    try:
        return read(family.gaps())
    except Exception as error:
        message = f"the gaps of {family.name} cannot be read: {type(error).__name__}: {error}; mend its support.py"
        raise GapError(message) from error
