"""``isostep-conformance``: hold backends to the reference, and write a report.

Exit status: 0 all passed, 1 something did not, 2 the arguments make no sense.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path as File

from isostep import BackendError, RuleError, TraceError
from isostep_conformance import report
from isostep_conformance.budget import FACTOR
from isostep_conformance.cases import DTYPES
from isostep_conformance.gaps import GapError
from isostep_conformance.jobs import Selection, jobs, run
from isostep_conformance.journal import Journal, JournalError
from isostep_conformance.plugin import closing
from isostep_conformance.select import SelectionError, extent
from isostep_conformance.session import header
from isostep_conformance.toll import Toll

#: What is the caller's to mend.
ERRORS = (BackendError, GapError, JournalError, RuleError, SelectionError, TraceError)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="isostep-conformance",
        description="Hold backends to the reference, and write a report.",
    )
    made.add_argument(
        "--backend",
        action="append",
        default=[],
        metavar="NAME",
        help="a path or family; repeatable; default: all",
    )
    made.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="RULE",
        help="only this rule or composition, or the rule or piece of this file; repeatable",
    )
    made.add_argument(
        "--dtype",
        action="append",
        default=[],
        metavar="DTYPE",
        help=f"only this dtype: {', '.join(DTYPES)}",
    )
    made.add_argument("--full", action="store_true", help="the whole matrix, not its sample")
    made.add_argument(
        "--mutants", action="store_true", help="also make and kill the rules' mutants"
    )
    made.add_argument(
        "--processes", type=_count, default=1, metavar="N", help="spread the cases over N processes"
    )
    made.add_argument(
        "--journal",
        metavar="FILE",
        help="keep what was found in FILE, and do not do again what it holds and nothing has changed since",
    )
    made.add_argument("--json", metavar="FILE", help="write the findings as JSON")
    made.add_argument("--html", metavar="FILE", help="write one self-contained page")
    return made


def _count(text: str) -> int:
    """A number of processes."""
    if not text.isdigit() or int(text) < 1:
        message = f"must be a whole number from 1 on, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, report, and say by the exit status how it went."""
    options = parser().parse_args(argv)
    for file in (options.json, options.html, options.journal):
        fault = _unwritable(File(file)) if file else None
        if fault:
            return _complain(f"{fault}; choose another place")
    try:
        return _run(options)
    except ERRORS as error:
        _clear()
        return _complain(error)
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}; choose another place")


def _complain(what: object) -> int:
    """Say in one line what is the caller's to mend; the exit code."""
    print(f"isostep-conformance: {' '.join(str(what).splitlines())}", file=sys.stderr)
    return 2


def _unwritable(file: File) -> str | None:
    """Why a file cannot be written, as far as that shows before a run of minutes; None if it can."""
    folder = file.resolve().parent
    if not folder.is_dir():
        return f"the folder of {file} does not exist"
    if file.is_dir():
        return f"{file} is a folder"
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return f"{file} cannot be written: {error.strerror}"
    return None


def _run(options: argparse.Namespace) -> int:
    selection = Selection(
        tuple(options.backend),
        tuple(options.rule),
        tuple(options.dtype),
        options.full,
        options.mutants,
    )
    session = selection.session()
    every = jobs(selection, session)
    journal = Journal(File(options.journal), session.paths) if options.journal else None
    print("\n".join(header(session)), flush=True)
    started = time.monotonic()
    fates = run(
        selection,
        session,
        every,
        options.processes,
        lambda done, total, name: _progress(done, total, name, started),
        journal,
    )
    if options.mutants:
        session.toll = Toll(fates)
    _clear()
    report.show(session)
    for line in closing(session):
        print(line)
    ran = sum(len(job.units) for job in every)
    whole = extent(session.paths, selection.rules, selection.dtypes)
    if ran < whole:
        print(f"{ran:,} of {whole:,} cases, a sample: --full runs all of them")
    if session.toll is not None:
        toll = session.toll
        print(
            f"{len(toll.mutants):,} mutants in {len(toll.fates):,} settings, "
            f"kill rate {toll.rate:.2%}, the mildest {toll.least:.3g} (FACTOR {FACTOR:g})"
        )
    if options.json:
        report.write(options.json, report.as_json(session))
    if options.html:
        report.write(options.html, report.as_html(session))
    faults = session.faults()
    for line in faults[:40]:
        print(line)
    if len(faults) > 40:
        print(f"... and {len(faults) - 40} more; --json has them all")
    failed = sum(not o.passed for o in session.outcomes)
    which = f"{failed:,} of {len(session.outcomes):,}" if failed else f"{len(session.outcomes):,}"
    verdict = "FAILED" if faults else "passed"
    print(f"{verdict}: {which} checks in {time.monotonic() - started:.0f} s")
    return 1 if faults else 0


def _progress(done: int, total: int, what: str, started: float) -> None:
    """Where the run is: one line that renews itself on a terminal, a line for every twentieth in a log."""
    seconds = time.monotonic() - started
    if sys.stderr.isatty():
        line = f"\r\033[K{done}/{total} {seconds:.0f} s  {what}"
        print(line, end="", file=sys.stderr, flush=True)
    elif done * 20 // total != (done - 1) * 20 // total:
        print(f"{done}/{total} cases, {seconds:.0f} s", file=sys.stderr, flush=True)


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
