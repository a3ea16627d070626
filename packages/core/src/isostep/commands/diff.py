"""``isostep diff``: two traced programs side by side."""

from __future__ import annotations

import argparse
import difflib
from typing import Any

import isostep
from isostep.commands.common import (
    UsageError,
    assignments,
    at_least,
    bind,
    command,
    print_json,
    rule_argument,
    set_argument,
)
from isostep.rule import BoundRule


def add(commands: Any) -> None:
    """Add the command."""
    made = command(
        commands,
        "diff",
        run,
        "two rules, or two dialects of one, side by side",
        "isostep diff adam --dialects torch,keras",
        "Lines that differ are marked |, lines of one side only < or >.",
    )
    rule_argument(made, "rule")
    rule_argument(made, "other", nargs="?", help="another rule")
    made.add_argument("--dialects", metavar="A,B", help="two dialects of one rule")
    set_argument(made)
    made.add_argument("--t", type=int, default=1, help="the step, for rules whose steps differ")


def run(arguments: argparse.Namespace) -> None:
    """Print both programs, or JSON rows ``[mark, left, right]``."""
    at_least("--t", arguments.t, 1)
    pair = sides(arguments)
    texts = [str(isostep.program(rule, t=arguments.t)).splitlines() for _, rule in pair]
    rows = beside(*texts)
    if arguments.json:
        found: dict[str, Any] = {
            side: {"title": title, "state": list(rule.state_names), "program": "\n".join(text)}
            for side, (title, rule), text in zip(("left", "right"), pair, texts, strict=True)
        }
        print_json(found | {"equal": texts[0][1:] == texts[1][1:], "lines": rows})
        return
    width = max(len(left) for _, left, _ in [*rows, ("", pair[0][0], "")])
    print(f"{pair[0][0]:{width}}   {pair[1][0]}")
    for mark, left, right in rows:
        print(f"{left:{width}} {mark} {right}".rstrip())


def sides(arguments: argparse.Namespace) -> list[tuple[str, BoundRule]]:
    """The two rules with their titles; a setting goes to each rule that has it."""
    given = assignments(arguments.set)
    first = isostep._rules.named(arguments.rule)[0]
    if (arguments.other is None) == (arguments.dialects is None):
        message = f"diff takes another rule or --dialects A,B; try isostep diff {first.name} sgd"
        raise UsageError(message)
    if arguments.dialects is not None:
        if "dialect" in given:
            message = f"--dialects names both dialects, got --set dialect={given['dialect']} too; leave it out"
            raise UsageError(message)
        options = getattr(first.hyper.get("dialect"), "options", ())
        names = arguments.dialects.split(",")
        if len(names) != 2 or not set(names) <= set(options):
            known = ", ".join(options) or "none"
            message = f"--dialects must be two of {first.name}'s dialects ({known}), got {arguments.dialects!r}"
            raise UsageError(message)
        return [
            (f"{first.name} {d}", bind(arguments.rule, given | {"dialect": d}, example=True))
            for d in names
        ]
    pair = {n: isostep._rules.named(n)[0].hyper for n in (arguments.rule, arguments.other)}
    for name in given:
        if not any(name in hyper for hyper in pair.values()):
            known = ", ".join(dict.fromkeys(n for hyper in pair.values() for n in hyper))
            message = f"neither rule has the hyperparameter {name!r}; they have {known}"
            raise UsageError(message)
    return [
        (n, bind(n, {k: v for k, v in given.items() if k in pair[n]}, example=True))
        for n in (arguments.rule, arguments.other)
    ]


def beside(left: list[str], right: list[str]) -> list[tuple[str, str, str]]:
    """Rows of both texts, equal lines facing each other."""
    rows: list[tuple[str, str, str]] = []
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for _, a, b, c, d in matcher.get_opcodes():
        for k in range(max(b - a, d - c)):
            one = left[a + k] if a + k < b else None
            two = right[c + k] if c + k < d else None
            mark = "<" if two is None else ">" if one is None else " " if one == two else "|"
            rows.append((mark, one or "", two or ""))
    return rows
