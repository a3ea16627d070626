"""What the commands share: arguments, rules from words, tables and JSON."""

from __future__ import annotations

import argparse
import ast
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, NoReturn

import isostep
from isostep.domains import REQUIRED
from isostep.rule import BoundRule, Rule


class UsageError(ValueError):
    """Arguments that the command cannot take."""


def _choice(found: re.Match[str]) -> str:
    what, got, allowed = found.groups()
    return f"{what} must be one of {allowed.replace(chr(39), '')}, got {got}"  # quoted before Python 3.12


#: What argparse says, as we say it: what, allowed, got.
WORDING: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^([^:]+): invalid choice: (.*) \(choose from (.*)\)$", _choice),
    (r"^([^:]+): invalid int value: (.*)$", r"\1 must be an integer, got \2"),
    (r"^([^:]+): invalid float value: (.*)$", r"\1 must be a number, got \2"),
    (r"^([^:]+): expected one argument$", r"\1 must have a value, got none"),
    (r"^the following arguments are required: (.*)$", r"\1 must be given, got nothing"),
    (r"^ambiguous option: (\S+) could match (.*)$", r"\1 must be one of \2, got \1"),
    (r"^([^:]+): ignored explicit argument (.*)$", r"\1 must have no value, got \2"),
    (r"^([^:]+): (must be .*)$", r"\1 \2"),
)


def complaint(what: object) -> str:
    """An error as the command line prints it, however many lines are quoted in it."""
    return f"isostep: {' '.join(str(what).splitlines())}\n"


class Parser(argparse.ArgumentParser):
    """One whose errors are one line, and for which ``-0.5,1.4`` is a value."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but what is too much is an error of the command that it stands behind."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            used: Parser = getattr(found, "parser", self)
            takes = [a for a in used._actions if a.dest != "help"]
            words = [
                a.option_strings[-1] if a.option_strings else a.metavar or a.dest for a in takes
            ]
            name = used.prog.removeprefix(f"{self.prog} ")
            used.error(f"{name} takes {', '.join(map(str, words))}, got {' '.join(rest)!r}")
        return found

    def error(self, message: str) -> NoReturn:
        text = message.replace("argument ", "", 1)
        for pattern, ours in WORDING:
            text = re.sub(pattern, ours, text, flags=re.DOTALL)
        self.exit(2, complaint(f"{text}; see '{self.prog} --help'"))


def command(
    commands: Any, name: str, run: Callable[..., Any], about: str, example: str, more: str = ""
) -> Parser:
    """A command with ``--json``, its help and an example."""
    made: Parser = commands.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.{' ' if more else ''}{more}",
        epilog=f"Example: {example}",
    )
    made.set_defaults(run=run, parser=made)
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def completes(action: argparse.Action, values: Callable[[], Sequence[str]]) -> None:
    """Let shell completion offer these values for an argument."""
    action.complete = values  # type: ignore[attr-defined]


def rule_argument(to: Parser, name: str, **more: Any) -> None:
    """A positional argument that is a rule's name."""
    completes(
        to.add_argument(name, **{"help": "a rule's name, or the path of its file", **more}),
        isostep.rules,
    )


def set_argument(to: Parser) -> None:
    """``--set NAME=VALUE``, as often as wanted."""
    to.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a hyperparameter"
    )


def assignments(words: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` words as values: literals as Python has them, ``Name(...)`` a schedule, else text."""
    found: dict[str, Any] = {}
    for text in words:
        name, equals, value = text.partition("=")
        if not equals:
            message = f"--set takes NAME=VALUE, got {text!r}"
            raise UsageError(message)
        found[name] = literal(value)
    return found


#: What Python's parser raises for texts of every kind; a text too deep for it is a MemoryError or a RecursionError.
UNREADABLE = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)


def literal(text: str) -> Any:
    """A number, tuple, True, None; a call of one of isostep's schedules; or the text itself, such as a dialect."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except UNREADABLE:
        return text
    if isinstance(tree, ast.Call):
        return _schedule(tree, text)
    try:
        return ast.literal_eval(tree)
    except UNREADABLE:
        return text


def schedule_names() -> list[str]:
    """What of isostep.schedules can be called here."""
    return sorted(set(isostep.schedules.__all__) - {"Schedule", "PlateauState"})


def _schedule(tree: ast.Call, text: str) -> Any:
    """``Name(1, a=2, b=[Other(3)])`` with Name in isostep.schedules; nothing else is evaluated."""
    known = schedule_names()
    name = tree.func.id if isinstance(tree.func, ast.Name) else ""
    if name not in known:
        message = f"{text!r} is not a schedule; known: {', '.join(known)}"
        raise UsageError(message)
    made = getattr(isostep.schedules, name)
    args = [_inner(a, text) for a in tree.args]
    given = {k.arg or "": _inner(k.value, text) for k in tree.keywords}
    try:
        return made(*args, **given)
    except ValueError as error:
        message = str(error)
        raise UsageError(message) from None
    except TypeError:
        takes = [str(p.replace(annotation=p.empty)) for p in signature(made).parameters.values()]
        message = f"{name} takes {', '.join(takes)}, got {text!r}"
        raise UsageError(message) from None


def _inner(tree: ast.expr, text: str) -> Any:
    if isinstance(tree, ast.Call):
        return _schedule(tree, text)
    if isinstance(tree, ast.List | ast.Tuple):
        return [_inner(e, text) for e in tree.elts]
    try:
        return ast.literal_eval(tree)
    except UNREADABLE:
        message = f"{text!r} must have numbers and schedules as arguments"
        raise UsageError(message) from None


#: The path of a rule's file as one writes it, at the start or behind a comma.
BARE_PATH = re.compile(r"(^|,)([^,()\[\]'\"=]+\.py)(?=\s*(?:$|,|\())")


def rules_of(text: str) -> list[BoundRule | str]:
    """``sgd,adam(lr=0.1)``: a rule that is called is bound to these values, the others are names or paths."""
    text = BARE_PATH.sub(lambda found: f"{found[1]}{found[2].strip()!r}", text)
    try:
        trees = ast.parse(f"[{text}]", mode="eval").body
    except UNREADABLE:
        trees = None
    if not isinstance(trees, ast.List):
        raise _unlike_rules(text)
    return [_rule(tree, text) for tree in trees.elts]


def _unlike_rules(text: str) -> UsageError:
    return UsageError(f"rules must be like sgd,adam(lr=0.1,betas=(0.9,0.99)), got {text!r}")


def _rule(tree: ast.expr, text: str) -> BoundRule | str:
    name = _name(tree, text)
    if name is not None:
        isostep._rules.named(name)  # an error if it is unknown
        return name
    called = _name(tree.func, text) if isinstance(tree, ast.Call) and not tree.args else None
    if called is None or not isinstance(tree, ast.Call):
        raise _unlike_rules(text)
    given = {k.arg or "": _word(k.value, text) for k in tree.keywords}
    return bind(called, given, example=True)


def _name(tree: ast.expr, text: str) -> str | None:
    """A rule's name, ``sgd`` or ``formula(sign(g) * m)``, or the path of its file in quotes."""
    if isinstance(tree, ast.Name):
        return tree.id
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        return tree.value
    function = getattr(getattr(tree, "func", None), "id", None)
    if function == isostep.formulas.BEFORE.rstrip("(") and getattr(tree, "args", None):
        return ast.get_source_segment(f"[{text}]", tree)
    return None


def _word(tree: ast.expr, text: str) -> Any:
    """A value; a bare name is a word, such as a dialect."""
    if isinstance(tree, ast.Name):
        return tree.id
    if isinstance(tree, ast.Call):
        return _schedule(tree, text)
    try:
        return ast.literal_eval(tree)
    except UNREADABLE:
        raise _unlike_rules(text) from None


def bind(rule: str | Rule, given: dict[str, Any], *, example: bool = False) -> BoundRule:
    """A rule with the values given; ``example``: required numbers that are not given become 1."""
    definition, setting = isostep._rules.named(rule) if isinstance(rule, str) else (rule, {})
    missing = {n: 1.0 for n, d in definition.hyper.items() if d.default is REQUIRED}
    return definition.bind(**((missing if example else {}) | {**setting, **given}))


def at_least(name: str, value: float, low: float) -> None:
    """An option's number must not be below ``low``."""
    if not value >= low:
        kind = "an integer" if isinstance(value, int) else "a number"
        message = f"{name} must be {kind} >= {low:g}, got {value}"
        raise UsageError(message)


def at_most(name: str, value: int, high: int, why: str) -> None:
    """An option's integer must not be above ``high``."""
    if value > high:
        message = f"{name} must be an integer <= {high}, got {value}; {why}"
        raise UsageError(message)


def finite_number(text: str) -> float:
    """An option's value that is a number, and neither NaN nor an infinity."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        message = f"must be a finite number, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return value


def print_json(value: Any) -> None:
    """One JSON value on stdout; what is not finite becomes null."""
    print(json.dumps(finite(value), indent=2))


def finite(value: Any) -> Any:
    """NaN and infinities, which JSON has not, as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text under a ruled head."""
    widths = [max(len(r[k]) for r in [head, *rows]) for k in range(len(head) - 1)]
    lines = [head, ["-" * len(h) for h in head], *rows]
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in lines
    )


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The table: in rich's form on a terminal where rich is installed, as plain text elsewhere."""
    if sys.stdout.isatty():
        try:
            from rich.box import SIMPLE_HEAD
            from rich.console import Console
            from rich.table import Table
        except ModuleNotFoundError:
            pass
        else:
            made = Table(*head, box=SIMPLE_HEAD, pad_edge=False)
            for row in rows:
                made.add_row(*row)
            Console(markup=False, emoji=False).print(made)
            return
    print(table(head, rows))
