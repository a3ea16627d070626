"""What a long run has found so far, in a file, so that a run that was stopped goes on where it was.

A line holds one job on one path (or one subject's mutants) with a digest of all that its findings depend on: versions,
the sources of the packages, the files of its rule and pieces, the gaps and equivalents that speak of it. A line whose
digest is not today's is passed over, so a changed rule is run again and the others are not.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path as File
from types import ModuleType
from typing import Any

from isostep_conformance.equivalents import EQUIVALENTS, Equivalent
from isostep_conformance.gaps import Gap
from isostep_conformance.jobs import MUTANTS, Found, Job
from isostep_conformance.paths import Path
from isostep_conformance.session import Outcome, versions
from isostep_conformance.toll import Fate

#: Files and folders of the packages that no finding depends on, or that a digest takes in by themselves.
_ASIDE = {"rules", "pieces", "commands", "plot", "train", "oracles", "support.py", "equivalents.py"}
_START = '{"digest": '
_FILES = ("isostep.rules.", "isostep.pieces.")


class JournalError(ValueError):
    """A file that is no journal."""


@dataclass
class Journal:
    """The lines of a file that still hold, and a place for more."""

    file: File
    paths: list[Path]
    _known: dict[tuple[str, str, str], Found] = field(default_factory=dict)

    def __post_init__(self) -> None:
        text = self.file.read_text() if self.file.exists() else ""
        whole, _, half = text.rpartition("\n")
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                key, found = _read(json.loads(line))
            except (ValueError, KeyError, TypeError, StopIteration) as error:
                raise JournalError(self._no_line(number)) from error
            self._known[key] = found
        if half and not half.startswith(_START):
            raise JournalError(self._no_line(text.count("\n") + 1))
        if half:  # the run was stopped while it wrote this line: its job is done again
            self.file.write_text(whole + "\n" if whole else "")

    def _no_line(self, number: int) -> str:
        return f"{self.file}: line {number} is no line of a journal; name another file or remove it"

    def split(self, every: Iterable[Job]) -> tuple[list[Found], list[tuple[int, tuple[str, ...]]]]:
        """What is known of these jobs, and what is left to do: the number of a job, and its paths."""
        known, left = [], []
        for number, job in enumerate(every):
            keys = {path: (job.name, path, self._digest(job, path)) for path in job.paths}
            known += [self._known[k] for k in keys.values() if k in self._known]
            rest = tuple(path for path, k in keys.items() if k not in self._known)
            if rest:
                left.append((number, rest))
        return known, left

    def add(self, job: Job, founds: Iterable[Found]) -> None:
        """Write down what was found of a job, a line for each path; a line is whole or not there."""
        lines = [
            json.dumps({"digest": self._digest(job, one.path), **asdict(one)}) for one in founds
        ]
        with self.file.open("a") as out:
            out.write("".join(line + "\n" for line in lines))

    def _digest(self, job: Job, path: str) -> str:
        parts = [_shared(), *_own_files(job), job.name, path]
        if path == MUTANTS:
            name = job.name.removeprefix("mutants of ").rpartition(".")[0]
            parts += [str(e) for e in EQUIVALENTS if e.speaks_of(name)]
        else:
            unit = next(u for u in job.units if u.path == path)
            case, scenarios = unit.case, unit.scenarios
            gaps = next(p.gaps for p in self.paths if p.name == path)
            checks = [n for u, n in job.checks if u.path == path]
            every = (*scenarios, *checks)
            parts += [*every, repr(case.subject.rule)]
            parts += [
                str(g)
                for g in gaps
                if any(g.matches(path, case.subject.id, case.dtype, c) for c in every)
            ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _read(line: dict[str, Any]) -> tuple[tuple[str, str, str], Found]:
    def gap(data: dict[str, Any]) -> Gap:
        fields: dict[str, Any] = {
            n: tuple(v) if isinstance(v, list) else v for n, v in data.items()
        }
        return Gap(**fields)

    def outcome(data: dict[str, Any]) -> Outcome:
        return Outcome(**{**data, "gap": gap(data["gap"]) if data["gap"] else None})

    def fate(data: dict[str, Any]) -> Fate:
        same = data["equivalent"]
        return Fate(**{**data, "equivalent": Equivalent(**same) if same else None})

    found = Found(
        line["name"],
        line["path"],
        [outcome(o) for o in line["outcomes"]],
        [(gap(g), passed) for g, passed in line["gap_results"]],
        [fate(f) for f in line["fates"]],
    )
    return (found.name, found.path, line["digest"]), found


@cache
def _shared() -> str:
    """One digest of the versions and of every source file that all findings depend on."""
    total = hashlib.sha256(json.dumps(versions()).encode())
    points = entry_points(group="isostep.backends")
    packages = {
        "isostep",
        "isostep_conformance",
        *(p.value.partition(":")[0].partition(".")[0] for p in points),
    }
    for package in sorted(packages):
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            continue
        root = File(spec.origin).parent
        for file in sorted(root.rglob("*.py")):
            if not _ASIDE.intersection(file.relative_to(root).parts):
                total.update(file.read_bytes())
    return total.hexdigest()


def _own_files(job: Job) -> Iterator[str]:
    """The text of the files that declare a job's rule and pieces, and of those that these are made from."""
    subject = job.subject if job.subject is not None else job.units[0].case.subject
    parts = [c.part for c in subject.rule.components]
    waiting = [f"{folder}{part.name}" for part in parts for folder in _FILES]
    waiting += [f.__module__ for part in parts for f in part.functions() if f is not None]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in sys.modules:
            continue
        seen.add(name)
        for value in vars(sys.modules[name]).values():
            other = (
                value.__name__
                if isinstance(value, ModuleType)
                else getattr(value, "__module__", "")
            )
            if str(other).startswith(_FILES):
                waiting.append(other)
    for name in sorted(seen):
        file = sys.modules[name].__file__
        yield File(file).read_text() if file else name
