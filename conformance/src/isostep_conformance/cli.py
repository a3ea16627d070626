"""``isostep-conformance``: hold backends to the reference, and write a report.

Exit status: 0 all passed, 1 something did not, 2 the arguments make no sense.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path as File

from isostep import BackendError
from isostep_conformance import paths, report
from isostep_conformance.budget import FACTOR
from isostep_conformance.cases import DTYPES, subjects
from isostep_conformance.kill import Toll, judge
from isostep_conformance.plugin import closing
from isostep_conformance.select import SelectionError, contracts, units
from isostep_conformance.session import Session, header


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="isostep-conformance", description=__doc__.partition("\n")[0]
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
        help="only this rule or composition; repeatable",
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
    made.add_argument("--json", metavar="FILE", help="write the findings as JSON")
    made.add_argument("--html", metavar="FILE", help="write one self-contained page")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run, report, and say by the exit status how it went."""
    options = parser().parse_args(argv)
    for file in (options.json, options.html):
        if file and not File(file).resolve().parent.is_dir():
            print(f"isostep-conformance: the folder of {file} does not exist", file=sys.stderr)
            return 2
    try:
        session = Session(paths.chosen(options.backend) if options.backend else paths.installed())
        chosen = units(session.paths, full=options.full, rules=options.rule, dtypes=options.dtype)
    except (BackendError, SelectionError) as error:
        print(f"isostep-conformance: {error}", file=sys.stderr)
        return 2
    print("\n".join(header(session)), flush=True)
    started = time.monotonic()
    checks = contracts(chosen, full=options.full)
    total = len(chosen) + len(checks)
    for i, unit in enumerate(chosen):
        _progress(i, total, unit.id, started)
        session.check_unit(unit)
    for i, (unit, name) in enumerate(checks, len(chosen)):
        _progress(i, total, f"{unit.id} {name}", started)
        session.check_contract(unit, name)
    if options.mutants:
        session.toll = _mutants(options.rule, started)
    _clear()
    report.show(session)
    for line in closing(session):
        print(line)
    if session.toll is not None:
        toll = session.toll
        print(
            f"{len(toll.fates):,} mutants, kill rate {toll.rate:.2%}, the mildest {toll.least:.3g} (FACTOR {FACTOR:g})"
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
    print(
        f"{'FAILED' if faults else 'passed'}: {len(session.outcomes):,} checks in {time.monotonic() - started:.0f} s"
    )
    return 1 if faults else 0


def _mutants(rules: list[str], started: float) -> Toll:
    chosen = [s for s in subjects() if not rules or s.name in rules]
    toll = Toll()
    for i, subject in enumerate(chosen):
        _progress(i, len(chosen), f"mutants of {subject.id}", started)
        toll.fates += judge(subject)
    return toll


def _progress(done: int, total: int, what: str, started: float) -> None:
    if sys.stderr.isatty():
        seconds = time.monotonic() - started
        print(
            f"\r\033[K{done}/{total} {seconds:.0f} s  {what}", end="", file=sys.stderr, flush=True
        )


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
