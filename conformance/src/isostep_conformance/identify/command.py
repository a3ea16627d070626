"""``isostep-identify``: which rule an optimizer follows, and what it does otherwise.

Exit status: 0 a rule takes its steps, 1 none does, 2 the arguments make no sense.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any

from isostep import RuleError
from isostep.domains import Choice, Flag
from isostep.rule import BoundRule
from isostep_conformance.identify.answer import ROUNDED, Answer, Finding
from isostep_conformance.identify.search import identify
from isostep_conformance.identify.states import told
from isostep_conformance.identify.targets import PROTOCOLS, TargetError
from isostep_conformance.identify.trial import SAME, STEPS

#: How many of each kind are told.
TOLD = 3


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="isostep-identify", description=__doc__.partition("\n")[0].partition(": ")[2]
    )
    made.add_argument(
        "optimizer", help="torch.optim.AdamW, optax.adam, module:name, or file.py:name"
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the optimizer; repeatable; telling numbers are taken for the others",
    )
    made.add_argument("--rule", metavar="RULE", help="ask about this rule only")
    made.add_argument(
        "--protocol", choices=tuple(PROTOCOLS), help="how it is used, where a guess is wrong"
    )
    made.add_argument(
        "--slips",
        type=int,
        choices=(0, 1, 2),
        default=2,
        help="how many mistakes in a rule to look for where no rule fits; default: 2",
    )
    made.add_argument(
        "--state", action="store_true", help="tell which arrays of its state are the rule's"
    )
    made.add_argument("--json", action="store_true", help="print what was found as JSON")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Search, print, and say by the exit status whether a rule was found."""
    options = parser().parse_args(argv)
    try:
        with redirect_stdout(sys.stderr):  # what the optimizer prints is no answer
            answer = identify(
                options.optimizer,
                dict(_setting(text) for text in options.set),
                protocol=options.protocol,
                rule=options.rule,
                slips_at_most=options.slips,
                with_state=options.state,
            )
    except (TargetError, RuleError) as error:
        print(f"isostep-identify: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("isostep-identify: interrupted", file=sys.stderr)
        return 130
    print(json.dumps(as_json(answer), indent=1) if options.json else "\n".join(lines(answer)))
    return 0 if answer.verdict in ("same", "rounded") else 1


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        message = f"--set takes NAME=VALUE, got {text!r}"
        raise TargetError(message)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def lines(answer: Answer) -> Iterator[str]:
    """What was found, in words."""
    given = ", ".join(f"{n}={v!r}" for n, v in answer.settings.items())
    yield f"{answer.label}({given})"
    yield from _told(answer)
    if answer.state:
        yield "where the first one's state is"
        yield from told(answer.state)
    skipped = f"; not tried, because they need more than gradients: {', '.join(answer.not_tried)}"
    yield f"{answer.tried:,} runs of {STEPS} steps and more in float64{skipped if answer.verdict == 'none' else ''}"


def _told(answer: Answer) -> Iterator[str]:
    if answer.same:
        yield f"takes the steps of (within {SAME:g} of each step)"
        yield from map(_line, answer.same[:TOLD])
    elif answer.rounded:
        yield f"takes the steps of, with numbers rounded to float32 on the way (within {ROUNDED:g} of each step)"
        yield from map(_line, answer.rounded[:TOLD])
    else:
        yield from _not_found(answer)


def _not_found(answer: Answer) -> Iterator[str]:
    if answer.parted:
        yield f"takes the steps of these {STEPS} times, but parts from them in a longer and harder run"
        for finding in answer.parted[:TOLD]:
            yield _line(finding)
            if finding.parted is not None:
                step, shape = finding.parted
                yield f"           at step {step}, in an array of shape {shape}"
        return
    whole = [f for f in answer.slipped if f.off <= ROUNDED]
    if whole:
        yield "takes the steps of no rule here as it is, but of"
    elif answer.slipped:
        yield "takes the steps of no rule here; what explains most of them is"
    else:
        yield "takes the steps of no rule here"
    for finding in (whole or answer.slipped)[:TOLD]:
        yield _line(finding)
        yield from (f"           with {slip}" for slip in finding.slip.split("; "))
    if answer.nearest:
        yield "nearest as they are (how far off an array's update is, and from which step on)"
        for f in answer.nearest[:TOLD]:
            yield f"  {f.far:8.1e}  {f.rule!r}, from step {f.first}"


def _line(finding: Finding) -> str:
    return f"  {finding.off:8.1e}  {finding.rule!r}"


def choices(rule: BoundRule) -> dict[str, Any]:
    """What makes it this one among the rules of its name: its dialect, and flags that are not as by default."""
    found = {n: d for n, d in rule.domains.items() if isinstance(d, Flag | Choice)}
    return {
        n: rule.values[n] for n, d in found.items() if n == "dialect" or rule.values[n] != d.default
    }


def _finite(number: float) -> float | None:
    """A number as JSON may have it; None for what is endless."""
    return number if math.isfinite(number) else None


def as_json(answer: Answer) -> dict[str, Any]:
    """What was found, as JSON has it."""

    def entries(findings: Sequence[Finding]) -> list[dict[str, Any]]:
        return [
            {
                "name": f.rule.name,
                "choices": choices(f.rule),
                "rule": repr(f.rule),
                "off": _finite(f.off),
                "far": _finite(f.far),
                "first": f.first,
                "parted": None if f.parted is None else [f.parted[0], list(f.parted[1])],
                "slips": [s for s in f.slip.split("; ") if s],
            }
            for f in findings
        ]

    return {
        "optimizer": answer.label,
        "settings": {n: repr(v) for n, v in answer.settings.items()},
        "verdict": answer.verdict,
        "same": entries(answer.same),
        "rounded": entries(answer.rounded),
        "parted": entries(answer.parted),
        "slipped": entries(answer.slipped),
        "nearest": entries(answer.nearest),
        "state": [
            {"name": m.name, "where": m.where or None, "factor": m.factor, "off": _finite(m.off)}
            for m in answer.state
        ],
        "runs": answer.tried,
        "not_tried": answer.not_tried,
    }
