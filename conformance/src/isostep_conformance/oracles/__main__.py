"""``python -m isostep_conformance.oracles tensorflow|libraries|catalogue [--json FILE]``.

Prints one line per rule, oracle and setting, with the worst deviation and its tolerance. Exits with
1 if any of them fails or none was run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .outcome import Outcome

HEADINGS = ("rule", "oracle", "setting", "worst", "tolerance", "compared", "aside", "")


def cells(outcome: Outcome) -> tuple[str, ...]:
    """One line of the table."""
    found = outcome.deviation
    aside = [f"{found.exempt} exempt"] if found.exempt else []
    aside += [f"{outcome.flushed} flushed"] if outcome.flushed else []
    return (
        outcome.rule,
        outcome.oracle,
        outcome.setting,
        "nan" if math.isnan(found.worst) else f"{found.worst:.1e}",
        f"{outcome.tolerance:.1e}",
        str(found.compared),
        ", ".join(aside),
        "ok" if outcome.passed else "FAILED",
    )


def show(outcomes: Sequence[Outcome]) -> None:
    """The table, with rich where it is installed."""
    rows = [cells(outcome) for outcome in outcomes]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(len(row[i]) for row in (HEADINGS, *rows)) for i in range(len(HEADINGS))]
        for row in (HEADINGS, *rows):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
        return
    table = Table(*HEADINGS)
    for row, outcome in zip(rows, outcomes, strict=True):
        table.add_row(*row, style=None if outcome.passed else "bold red")
    # As wide as it needs to be: a long line can be scrolled, a squeezed table cannot be read.
    widest = Console(width=1000).measure(table).maximum
    Console(width=widest).print(table)


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many checks passed, how many entries were compared, and how many were not as they are."""
    compared = sum(outcome.deviation.compared for outcome in outcomes)
    exempt = sum(outcome.deviation.exempt for outcome in outcomes)
    flushed = sum(outcome.flushed for outcome in outcomes)
    passed = sum(outcome.passed for outcome in outcomes)
    text = f"{passed} of {len(outcomes)} checks passed, {compared} entries compared"
    if flushed:
        text += f", {flushed} of them with the formulas where TensorFlow flushes denormals"
    return f"{text}; {exempt} exempt because a sign is within rounding of zero"


def counted(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """The same, with a running count on a terminal: the whole table takes about a minute."""
    for number, outcome in enumerate(outcomes, start=1):
        if sys.stderr.isatty():
            print(f"\r{number} checks run", end="", file=sys.stderr, flush=True)
        yield outcome
    if sys.stderr.isatty():
        print(file=sys.stderr)


def report(outcomes: Iterable[Outcome], target: Path | None) -> int:
    """Run, print, and write JSON; the exit status."""
    done = list(counted(outcomes))
    show(done)
    for outcome in done:
        if not outcome.passed:
            print(f"FAILED {outcome.rule} x {outcome.oracle}, {outcome.setting}: {outcome.note}")
    print(summary(done))
    if target is not None:
        target.write_text(json.dumps([outcome.as_dict() for outcome in done], indent=1) + "\n")
    return 0 if done and all(outcome.passed for outcome in done) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m isostep_conformance.oracles", description="Check isostep's rules live."
    )
    parser.add_argument("oracle", choices=("tensorflow", "libraries", "catalogue"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    options = parser.parse_args(arguments)
    module = importlib.import_module(f".{options.oracle}", __package__)
    return report(module.checks(), options.json)


if __name__ == "__main__":
    sys.exit(main())
