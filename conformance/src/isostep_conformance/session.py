"""Running units and keeping what was found, for the plugin and the command line alike."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from isostep.storage import HALVES
from isostep_conformance import contract, runner
from isostep_conformance.budget import (
    FACTOR,
    MARGIN,
    MOST_EXEMPT,
    MOST_EXEMPT_DENORMAL,
    MOST_EXEMPT_FREE,
    MOST_EXEMPT_HUGE,
    Tally,
)
from isostep_conformance.cases import Case
from isostep_conformance.gaps import Gap, unmatched
from isostep_conformance.halves import rounded_once
from isostep_conformance.paths import Path
from isostep_conformance.select import Unit, cells, gap_of
from isostep_conformance.toll import Toll

_MANY = 12
#: Checks after which backends let go of what they have compiled.
_FORGET = 400
#: How far apart the worst honest ratio and the mildest mutant have to be.
APART = 10.0


@dataclass
class Outcome:
    """One unit or contract check: what failed, and which gaps explained a failure."""

    path: str
    rule: str
    dtype: str
    check: str
    worst: float = 0.0
    where: str = ""
    elements: int = 0
    exempt: int = 0
    failures: list[str] = field(default_factory=list)
    gap: Gap | None = None

    @property
    def passed(self) -> bool:
        """Whether there is nothing to report but, at most, a declared gap."""
        return not self.failures


@dataclass
class Session:
    """What a run has found so far."""

    paths: list[Path]
    outcomes: list[Outcome] = field(default_factory=list)
    toll: Toll | None = None
    gap_results: list[tuple[Gap, bool]] = field(default_factory=list)
    #: cases that were not done because the run was stopped
    left: int = 0
    #: the rules and dtypes that alone were asked for, or none: all
    rules: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    _since: int = 0

    def path(self, name: str) -> Path:
        """A path by name."""
        return next(p for p in self.paths if p.name == name)

    @property
    def missing(self) -> list[Path]:
        """The paths that did not run."""
        return [p for p in self.paths if p.missing]

    def check_unit(self, unit: Unit) -> list[Outcome]:
        """All scenarios of a unit."""
        return [self._scenario(unit, s) for s in unit.scenarios]

    def _scenario(self, unit: Unit, scenario: str) -> Outcome:
        path = self.path(unit.path)
        tally = runner.check(path.backend, path.name, unit.case, scenario)
        failures = tally.failures or _overexempt(tally, unit.case, scenario)
        return self._keep(path, unit.case, scenario, failures, tally)

    def check_contract(self, unit: Unit, name: str) -> Outcome:
        """One contract check."""
        path = self.path(unit.path)
        return self._keep(
            path, unit.case, name, contract.check(path.backend, path.name, unit.case, name), Tally()
        )

    def _forget(self) -> None:
        """Now and then, what the backends have compiled: a run of thousands of checks would hold all of it."""
        self._since += 1
        if self._since % _FORGET == 0:
            for path in self.paths:
                forget = getattr(path.backend, "forget", None)
                if forget is not None:
                    forget()

    def _keep(
        self, path: Path, case: Case, check: str, failures: list[str], tally: Tally
    ) -> Outcome:
        gap = gap_of(path, case, check)
        if gap is None and failures and check == rounded_once.__name__:  # of steps in other dtypes
            halves = (gap_of(path, replace(case, dtype=d), check) for d in HALVES)
            gap = next(filter(None, halves), None)
        if gap is not None:
            passed = not failures
            self.gap_results.append((gap, passed))
            passed = passed and not gap.partly
            # Strict: a gap that is closed has to go from the list.
            failures = (
                [f"{case.id} on {path.name}, {check}: passes, yet is listed as a gap: {gap}"]
                if passed
                else []
            )
        kept = Outcome(
            path.name,
            case.subject.id,
            case.dtype,
            check,
            tally.worst,
            tally.where,
            tally.elements + tally.free_elements,
            tally.exempt + tally.free_exempt,
            failures,
            gap,
        )
        self.outcomes.append(kept)
        self._forget()
        return kept

    def stale_gaps(self) -> list[str]:
        """Entries of the paths' gap data that match no case of any path of their family."""
        found = []
        runnable = [p for p in self.paths if not p.missing]
        for path in runnable:
            every = [c for p in runnable if _family(p) == _family(path) for c in cells(p)]
            # An entry for a path of the family that is not in this run cannot be judged in it.
            known = {p.name for p in runnable}
            judged = [g for g in path.gaps if _speaks_of_any(g, known)]
            found += [f"this gap matches no case: {g}" for g in unmatched(judged, every)]
        # Few cases of a sample may all pass by luck; a dozen do not.
        results: dict[Gap, list[bool]] = {}
        for gap, passed in self.gap_results:
            results.setdefault(gap, []).append(passed)
        closed = [
            g for g, all_of in results.items() if g.partly and len(all_of) >= _MANY and all(all_of)
        ]
        found += [f"all cases of this gap pass: {g}" for g in closed if not self._speaks_of_more(g)]
        return list(dict.fromkeys(found))

    def _speaks_of_more(self, gap: Gap) -> bool:
        """Whether an entry is for rules or dtypes too that were not asked for: that the others pass says little."""
        if not (self.rules or self.dtypes):
            return False

        def asked(where: tuple[str, ...]) -> bool:
            rule, dtype = where[1].rpartition(".")[0], where[2]
            return rule in (self.rules or (rule,)) and dtype in (self.dtypes or (dtype,))

        every = (where for path in self.paths if gap in path.gaps for where in cells(path))
        return any(gap.matches(*where) and not asked(where) for where in every)

    # Margins.

    def honest(self) -> dict[tuple[str, str], tuple[float, str]]:
        """The worst ratio per path and dtype among what passed, and where it was."""
        found: dict[tuple[str, str], tuple[float, str]] = {}
        for o in self.outcomes:
            if (
                o.passed
                and o.gap is None
                and o.worst >= found.get((o.path, o.dtype), (-1.0, ""))[0]
            ):
                found[o.path, o.dtype] = o.worst, o.where
        return dict(sorted(found.items()))

    def margin_faults(self) -> list[str]:
        """Where FACTOR does not sit well between honest and wrong."""
        found = []
        honest = {k: v for k, v in self.honest().items() if v[0] > 0}
        for (path, dtype), (ratio, where) in honest.items():
            if ratio * MARGIN >= FACTOR:
                found.append(
                    f"{path} in {dtype}: ratio {ratio:.3g} is too near to FACTOR {FACTOR:g} ({where})"
                )
        if self.toll is not None and self.toll.fates:
            least = self.toll.least
            if least / MARGIN <= FACTOR:
                found.append(
                    f"the mildest mutant's ratio {least:.3g} is too near to FACTOR {FACTOR:g}"
                )
            top = max((r for r, _ in honest.values()), default=1.0)
            if least < APART * top:
                found.append(
                    f"honest ({top:.3g}) and mutants ({least:.3g}) are less than {APART:g} times apart"
                )
        return found

    def faults(self) -> list[str]:
        """Everything that makes the run fail."""
        found = [f for o in self.outcomes for f in o.failures]
        found += self.stale_gaps() + self.margin_faults()
        if self.left:
            found.append(f"stopped, with {self.left:,} cases left")
        if self.toll is not None:
            found += [f"not killed: {f.id} (ratio {f.ratio:.3g})" for f in self.toll.survivors]
            found += [f"this equivalent explains no survivor: {e}" for e in self.toll.unused()]
        if not self.outcomes and self.toll is None:
            found.append("nothing was run")
        return found


def _family(path: Path) -> str:
    return path.name.partition(":")[0]


def _speaks_of_any(gap: Gap, paths: set[str]) -> bool:
    """Whether the entry's path is one of these; a path that nobody ever had matches none and is an error elsewhere."""
    anywhere = replace(gap, rule="*", dtype="*", check="*")
    return any(anywhere.matches(p, "", "", "") for p in paths) or ":" not in str(gap.path)


def _overexempt(tally: Tally, case: Case, scenario: str) -> list[str]:
    limit = {"denormals": MOST_EXEMPT_DENORMAL, "huge": MOST_EXEMPT_HUGE}.get(scenario, MOST_EXEMPT)
    found = []
    for kind, exempt, elements, most in (
        ("teacher-forced", tally.exempt, tally.elements, limit),
        ("free-running", tally.free_exempt, tally.free_elements, MOST_EXEMPT_FREE),
    ):
        if exempt > most * elements:
            found.append(
                f"{case.id}, {scenario}, {kind}: the case is bad, whatever the backend: {exempt / elements:.1%} of its "
                f"elements hang on a comparison that rounding decides, at most {most:.0%} may; see 'Comparisons' in "
                "docs/contributing.md"
            )
    return found


def versions() -> dict[str, str]:
    """What ran: interpreter, machine, and the packages that matter."""
    found = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    for name in (
        "isostep",
        "isostep-conformance",
        "numpy",
        "ml_dtypes",
        "numba",
        "torch",
        "jax",
        "cupy",
        "array-api-strict",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found["longdouble bits"] = str(np.finfo(np.longdouble).nmant + 1)
    return found


def device(path: Path) -> str:
    """What a path runs on, as far as its backend says."""
    say: Any = getattr(path.backend, "device", None)
    return str(say() if callable(say) else say) if say is not None else "cpu"


def header(session: Session) -> list[str]:
    """The lines in front of a run: versions, paths and devices, and what is not run."""
    lines = ["isostep conformance: " + ", ".join(f"{k} {v}" for k, v in versions().items())]
    lines += [f"path {p.name} on {device(p)}" for p in session.paths if not p.missing]
    missing = session.missing
    reasons = "; ".join(f"{p.name} ({p.missing})" for p in missing)
    lines.append(f"paths not run: {len(missing)}" + (f": {reasons}" if missing else ""))
    return lines
