"""A run cut into jobs, one a case, so that all paths of a case share one truth; and spread over processes.

A worker builds the same list from the same selection, and is sent numbers and paths: nothing of a rule or a backend
has to be pickled. After a while all workers are replaced, because what a framework has compiled stays in their memory.
(A pool can do so by itself, ``max_tasks_per_child``, and then hangs in Python 3.11: python/cpython issue 115634.)
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import TYPE_CHECKING

from isostep_conformance import paths
from isostep_conformance.cases import Subject
from isostep_conformance.gaps import Gap
from isostep_conformance.kill import judge
from isostep_conformance.paths import Path
from isostep_conformance.select import Unit, contracts, subjects_of, units
from isostep_conformance.session import Outcome, Session
from isostep_conformance.toll import Fate

if TYPE_CHECKING:
    from isostep_conformance.journal import Journal

#: Jobs per worker before all are replaced.
_RENEW = 60
#: What stands in a path's place where mutants were killed: they are tried on no path.
MUTANTS = "mutants"


@dataclass(frozen=True)
class Selection:
    """What the command line chose."""

    backends: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    full: bool = False
    mutants: bool = False

    def session(self) -> Session:
        """An empty session on the chosen paths, or on all that are installed."""
        found = paths.chosen(self.backends) if self.backends else paths.installed()
        return Session(found, rules=self.rules, dtypes=self.dtypes)


@dataclass
class Job:
    """The units of one case with their contract checks, or the mutants of one subject."""

    name: str
    units: list[Unit] = field(default_factory=list)
    checks: list[tuple[Unit, str]] = field(default_factory=list)
    subject: Subject | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths it runs on."""
        return (MUTANTS,) if self.subject is not None else tuple(u.path for u in self.units)

    def run(self, session: Session, paths: Iterable[str]) -> Iterator[Found]:
        """Do it on some of its paths, and say what was found on each."""
        for path in paths:
            session.outcomes, session.gap_results = [], []
            for unit in self.units:
                if unit.path == path:
                    session.check_unit(unit)
            for unit, check in self.checks:
                if unit.path == path:
                    session.check_contract(unit, check)
            fates = list(judge(self.subject)) if self.subject is not None else []
            yield Found(self.name, path, session.outcomes, session.gap_results, fates)


@dataclass
class Found:
    """What was found of one job on one path."""

    name: str
    path: str
    outcomes: list[Outcome]
    gap_results: list[tuple[Gap, bool]]
    fates: list[Fate]


def jobs(selection: Selection, session: Session) -> list[Job]:
    """All jobs of a selection, in the order of the cases; mutants last."""
    chosen = units(
        session.paths, full=selection.full, rules=selection.rules, dtypes=selection.dtypes
    )
    found: dict[str, Job] = {}
    for unit in chosen:
        found.setdefault(unit.case.id, Job(unit.case.id)).units.append(unit)
    for unit, check in contracts(chosen, full=selection.full):
        found[unit.case.id].checks.append((unit, check))
    every = list(found.values())
    if selection.mutants:
        tested = subjects_of(selection.rules)
        every += [Job(f"mutants of {s.id}", subject=s) for s in tested]
    return every


#: The number of a job, and its paths that are to be run.
Task = tuple[int, tuple[str, ...]]

_session: Session
_jobs: list[Job]


def _open(selection: Selection) -> None:
    global _session, _jobs
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is for the parent to tell of
    _session = selection.session()
    _jobs = jobs(selection, _session)


def _do(task: Task) -> list[Found]:
    number, paths = task
    return list(_jobs[number].run(_session, paths))


def _elsewhere(tasks: list[Task], selection: Selection, processes: int) -> Iterator[list[Found]]:
    batch = _RENEW * processes
    for start in range(0, len(tasks), batch):
        with ProcessPoolExecutor(
            processes, get_context("spawn"), initializer=_open, initargs=(selection,)
        ) as pool:
            yield from pool.map(_do, tasks[start : start + batch])


def _here(every: list[Job], tasks: list[Task], paths: list[Path]) -> Iterator[list[Found]]:
    session = Session(paths)
    for number, chosen in tasks:
        yield list(every[number].run(session, chosen))


def run(
    selection: Selection,
    session: Session,
    every: list[Job],
    processes: int = 1,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
    journal: Journal | None = None,
) -> list[Fate]:
    """Do all jobs, in this process or in several; what they found goes to the session, the fates are returned.

    What a journal knows is not done again, and what is done is written to it, job by job. Ctrl-C ends the run, and the
    session has what was found by then.

    Raises:
        BrokenProcessPool: a worker died; what the journal has by then is kept.
    """
    known: list[Found] = []
    tasks = [(i, job.paths) for i, job in enumerate(every)]
    if journal is not None:
        known, tasks = journal.split(every)
    results = (
        _elsewhere(tasks, selection, processes)
        if processes > 1
        else _here(every, tasks, session.paths)
    )
    done = 0
    try:
        for (number, _), founds in zip(tasks, results, strict=True):
            if journal is not None:
                journal.add(every[number], founds)
            known += founds
            done += 1
            progress(done, len(tasks), every[number].name)
    except KeyboardInterrupt:
        session.left = len(tasks) - done
    places = {job.name: i for i, job in enumerate(every)}
    known.sort(key=lambda found: places[found.name])
    for found in known:
        session.outcomes += found.outcomes
        session.gap_results += found.gap_results
    return [fate for found in known for fate in found.fates]
