"""A run cut into jobs, one a case, so that all paths of a case share one truth; and spread over processes.

A worker builds the same list from the same selection, and is sent numbers: nothing of a rule or a backend has to be
pickled. After a while all workers are replaced, because what a framework has compiled stays in their memory. (A pool
can do so by itself, ``max_tasks_per_child``, and then hangs in Python 3.11: python/cpython issue 115634.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from isostep_conformance import paths
from isostep_conformance.cases import Subject, subjects
from isostep_conformance.gaps import Gap
from isostep_conformance.kill import Fate, judge
from isostep_conformance.select import Unit, contracts, units
from isostep_conformance.session import Outcome, Session

#: Jobs per worker before all are replaced.
_RENEW = 60


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
        return Session(paths.chosen(self.backends) if self.backends else paths.installed())


@dataclass
class Job:
    """The units of one case with their contract checks, or the mutants of one subject."""

    name: str
    units: list[Unit] = field(default_factory=list)
    checks: list[tuple[Unit, str]] = field(default_factory=list)
    subject: Subject | None = None

    def run(self, session: Session) -> list[Fate]:
        """Do it; what is found goes to the session, the fates of mutants are returned."""
        for unit in self.units:
            session.check_unit(unit)
        for unit, check in self.checks:
            session.check_contract(unit, check)
        return list(judge(self.subject)) if self.subject is not None else []


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
        tested = (s for s in subjects() if not selection.rules or s.name in selection.rules)
        every += [Job(f"mutants of {s.id}", subject=s) for s in tested]
    return every


@dataclass
class _Found:
    """What a worker sends back for one job."""

    name: str
    outcomes: list[Outcome]
    gap_results: dict[Gap, list[bool]]
    fates: list[Fate]


_session: Session
_jobs: list[Job]


def _open(selection: Selection) -> None:
    global _session, _jobs
    _session = selection.session()
    _jobs = jobs(selection, _session)


def _do(number: int) -> _Found:
    _session.outcomes, _session.gap_results = [], {}
    fates = _jobs[number].run(_session)
    return _Found(_jobs[number].name, _session.outcomes, _session.gap_results, fates)


def _elsewhere(every: list[Job], selection: Selection, processes: int) -> Iterator[_Found]:
    batch = _RENEW * processes
    for start in range(0, len(every), batch):
        with ProcessPoolExecutor(
            processes, get_context("spawn"), initializer=_open, initargs=(selection,)
        ) as pool:
            yield from pool.map(_do, range(start, min(start + batch, len(every))))


def _here(every: list[Job], session: Session) -> Iterator[_Found]:
    for job in every:
        yield _Found(job.name, [], {}, job.run(session))


def run(
    selection: Selection,
    session: Session,
    every: list[Job],
    processes: int = 1,
    progress: Callable[[int, str], None] = lambda done, name: None,
) -> list[Fate]:
    """Do all jobs, in this process or in several; what they found, in the order of the jobs.

    Raises:
        BrokenProcessPool: a worker died; nothing of a run that is not whole is kept.
    """
    fates: list[Fate] = []
    results = _elsewhere(every, selection, processes) if processes > 1 else _here(every, session)
    for done, found in enumerate(results, start=1):
        session.outcomes += found.outcomes
        for gap, passed in found.gap_results.items():
            session.gap_results.setdefault(gap, []).extend(passed)
        fates += found.fates
        progress(done, found.name)
    return fates
