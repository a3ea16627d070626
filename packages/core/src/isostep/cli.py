"""The command line: ``isostep list`` and ``isostep show RULE``.

An error is one line (what, allowed, got, next step) on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import isostep
from isostep.domains import REQUIRED, DomainError
from isostep.program import Program
from isostep.rule import Rule, RuleError
from isostep.state import COMPUTE_DTYPE


class UsageError(ValueError):
    """Arguments that the command cannot take."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    arguments = parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (UsageError, RuleError, DomainError) as error:
        print(f"isostep: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `isostep show adam | head`
        sys.stderr.close()
        return 0
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    top = argparse.ArgumentParser(prog="isostep", description="Optimizers, each specified once.")
    top.add_argument("--version", action="version", version=isostep.__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _command(commands, "list", _list, "the rules", "isostep list '*sign'").add_argument(
        "pattern", nargs="?", default="*", help="a name with * and ? (default: all)"
    )
    show = _command(
        commands, "show", _show, "one rule", "isostep show adam --set amsgrad=True --source numba"
    )
    show.add_argument("rule", help="a rule's name")
    show.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a hyperparameter"
    )
    show.add_argument(
        "--source", choices=sorted(SOURCES), help="print only this text of the traced rule"
    )
    show.add_argument("--dtype", choices=list(COMPUTE_DTYPE), default="float32", help="of a kernel")
    show.add_argument("--t", type=int, default=1, help="the step, for rules whose steps differ")
    return top


def _command(commands: Any, name: str, run: Any, about: str, example: str) -> Any:
    command = commands.add_parser(
        name, help=about, description=f"Show {about}.", epilog=f"Example: {example}"
    )
    command.set_defaults(run=run)
    command.add_argument("--json", action="store_true", help="print JSON")
    return command


def _list(arguments: argparse.Namespace) -> None:
    names = fnmatch.filter(isostep.rules(), arguments.pattern)
    if not names:
        message = f"no rule matches {arguments.pattern!r}; known: {', '.join(isostep.rules())}"
        raise UsageError(message)
    rows = [_row(isostep.definition(n)) for n in names]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    width = max(len(r["name"]) for r in rows)
    family = max(len(r["family"]) for r in rows)
    for r in rows:
        print(f"{r['name']:{width}}  {r['year'] or '':4}  {r['family']:{family}}  {r['title']}")


def _row(rule: Rule) -> dict[str, Any]:
    title = rule.doc.splitlines()[0].rstrip(".") if rule.doc else ""
    return {
        "name": rule.name,
        "year": rule.year,
        "family": rule.family,
        "title": title,
        "paper": rule.paper,
        "arxiv": rule.arxiv,
    }


def _show(arguments: argparse.Namespace) -> None:
    definition = isostep.definition(arguments.rule)
    given = dict(_assignment(text) for text in arguments.set)
    bound = definition.bind(**_with_required(definition, given))
    if arguments.t < 1:
        message = f"--t must be an integer >= 1, got {arguments.t}"
        raise UsageError(message)
    program = isostep.program(bound, t=arguments.t)
    if arguments.source:
        text = SOURCES[arguments.source](program, arguments.dtype)
        print(json.dumps({"source": text}) if arguments.json else text.rstrip())
        return
    rows = _hyper_rows(definition)
    if arguments.json:
        fields = {"hyper": rows, "state": list(bound.state_names), "doc": definition.doc}
        print(json.dumps(_row(definition) | fields | {"program": str(program)}, indent=2))
        return
    print(definition.doc, "\n")
    print(_table(["name", "allowed", "default", "meaning"], [list(r.values()) for r in rows]), "\n")
    print(f"state    {', '.join(bound.state_names) or 'none'}\n")
    print(program)


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        message = f"--set takes NAME=VALUE, got {text!r}"
        raise UsageError(message)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word, such as a dialect


def _with_required(definition: Rule, given: dict[str, Any]) -> dict[str, Any]:
    """A program does not depend on the value of a required number: any will do to show it."""
    missing = {n: 1.0 for n, d in definition.hyper.items() if d.default is REQUIRED}
    return missing | given


def _hyper_rows(definition: Rule) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "allowed": domain.describe(),
            "default": repr(domain.default),
            "meaning": str(getattr(domain, "doc", "")),
        }
        for name, domain in definition.hyper.items()
    ]


def _table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(r[k]) for r in [head, *rows]) for k in range(len(head) - 1)]
    lines = [head, ["-" * len(h) for h in head], *rows]
    return "\n".join(
        "  ".join([c.ljust(w) for c, w in zip(line, widths, strict=False)] + line[-1:]).rstrip()
        for line in lines
    )


def _numba(program: Program, dtype: str) -> str:
    from isostep.lower.numba_source import Layout, source

    obstacle = Layout(program, dtype).obstacle
    if obstacle:
        message = f"{program.name} has no fused kernel: {obstacle}; see --source program"
        raise UsageError(message)
    return source(program, dtype)


#: The texts that a traced rule has: name -> (program, dtype) -> text.
SOURCES: dict[str, Callable[[Program, str], str]] = {
    "program": lambda program, dtype: str(program),
    "numba": _numba,
}


if __name__ == "__main__":
    sys.exit(main())
