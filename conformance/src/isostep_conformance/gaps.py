"""Gaps: what a path does not do, as data in the backend's own package (``Family.gaps``), in three words.

``notimpl(...)``       it could be done here and has not been
``notyet(link, ...)``  it needs something from others; the link says what
``never(reason, ...)`` it makes no sense; nobody should try

Gaps are strict: an entry that matches no case is an error, and so is a case with a gap that passes (with
``partly``: an entry of which every case passes). A backend's package need not import this one: a dictionary
with the same fields does as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

WORDS = ("notimpl", "notyet", "never")


class GapError(ValueError):
    """Gap data that says nothing, or something that is not so."""


@dataclass(frozen=True)
class Gap:
    """One gap; ``path``, ``rule``, ``dtype``, ``check`` and ``way`` are patterns (or tuples of them).

    ``rule`` is matched against ids such as ``adamw.3``; ``check`` is a scenario or a contract check; ``way`` is what
    the path says of how it runs the rule (``backend.path(rule)``: ``generic: it works on matrices``). ``partly``
    says that whether a case fails depends on its numbers (denormals): then it is an error if none fails at all.
    """

    word: str
    reason: str
    path: str | tuple[str, ...] = "*"
    rule: str | tuple[str, ...] = "*"
    dtype: str | tuple[str, ...] = "*"
    check: str | tuple[str, ...] = "*"
    way: str | tuple[str, ...] = "*"
    partly: bool = False

    def __post_init__(self) -> None:
        if self.word not in WORDS:
            message = f"a gap's word must be one of {', '.join(WORDS)}, got {self.word!r}"
            raise GapError(message)
        if not self.reason:
            message = f"{self.word} needs a {'link' if self.word == 'notyet' else 'reason'}"
            raise GapError(message)

    def matches(self, path: str, rule: str, dtype: str, check: str, way: str = "") -> bool:
        """Whether this entry speaks of that case."""
        names = rule, rule.rpartition(".")[0]  # "adamw.3" or all of "adamw"
        return (
            _like(path, self.path)
            and any(_like(n, self.rule) for n in names)
            and _like(dtype, self.dtype)
            and _like(check, self.check)
            and _like(way, self.way)
        )

    def __str__(self) -> str:
        return f"{self.word}: {self.reason} [{' '.join(f'{n}={v}' for n, v in self.where.items())}]"

    @property
    def where(self) -> dict[str, str | tuple[str, ...]]:
        """The patterns, each by what it is matched against."""
        return {
            "path": self.path,
            "rule": self.rule,
            "dtype": self.dtype,
            "check": self.check,
            "way": self.way,
        }


def notimpl(reason: str, **where: Any) -> Gap:
    """It could be done here and has not been."""
    return Gap("notimpl", reason, **where)


def notyet(link: str, **where: Any) -> Gap:
    """It needs something upstream; ``link`` says what."""
    return Gap("notyet", link, **where)


def never(reason: str, **where: Any) -> Gap:
    """It makes no sense on this backend."""
    return Gap("never", reason, **where)


def read(entries: Iterable[Any]) -> list[Gap]:
    """Gaps as ``Gap`` objects, from those or from dictionaries of their fields."""
    found = []
    known = {f.name for f in fields(Gap)}
    for entry in entries:
        if isinstance(entry, Gap):
            found.append(entry)
        elif (
            isinstance(entry, Mapping) and set(entry) <= known and {"word", "reason"} <= set(entry)
        ):
            found.append(Gap(**entry))
        else:
            message = f"a gap must be a Gap or a dict of {sorted(known)}, got {entry!r}"
            raise GapError(message)
    return found


def unmatched(gaps: Iterable[Gap], cells: Iterable[tuple[str, ...]]) -> list[Gap]:
    """The entries that speak of no case at all; cells are (path, rule id, dtype, check, way)."""
    every = list(cells)
    return [g for g in gaps if not any(g.matches(*cell) for cell in every)]


def _like(name: str, patterns: str | tuple[str, ...]) -> bool:
    return any(
        fnmatchcase(name, p) for p in ((patterns,) if isinstance(patterns, str) else patterns)
    )
