"""``isostep list`` of rules and solvers, and ``isostep show NAME`` of those and of pieces."""

from __future__ import annotations

import argparse
import fnmatch
import re
import sys
from typing import Any

import isostep
from isostep.backend import families
from isostep.backend import family as find_family
from isostep.commands import sources
from isostep.commands.common import (
    UsageError,
    assignments,
    at_least,
    bind,
    command,
    complaint,
    completes,
    print_json,
    print_table,
    rule_argument,
    set_argument,
    table,
)
from isostep.domains import REQUIRED
from isostep.lower.layout import obstacle
from isostep.lower.traffic import bytes_moved
from isostep.rule import BoundRule, Part, Rule
from isostep.state import COMPUTE_DTYPE

#: What ``show`` has a page of beside rules: its folder, what it is called, and what that is.
OTHERS = (
    (isostep.solvers.registry, "solver", "which calls a function"),
    (
        isostep.pieces.registry,
        "piece",
        "used by isostep.compose(isostep.pieces.{}(...), isostep.rule(...))",
    ),
)
#: The paths that make kernels of a program, where nothing stands in the way of that; on JAX the fusing of every
#: rule is XLA's. Named here, because asking a path means to import its framework: ``list --paths`` does.
FUSING = ("numpy:fused", "torch:fused", "cupy:raw")


def add(commands: Any) -> None:
    """Add both commands."""
    made = command(
        commands, "list", run_list, "the rules and solvers", "isostep list '*sign' --paths"
    )
    completes(
        made.add_argument(
            "pattern", nargs="?", default="*", help="a name with * and ? (default: all)"
        ),
        lambda: [*isostep.rules(), *isostep.solvers.names()],
    )
    made.add_argument(
        "--paths", action="store_true", help="ask every installed path how it runs the rule"
    )
    show = command(
        commands,
        "show",
        run_show,
        "one rule, solver or piece: formula, hyperparameters, sources; a rule's traced program",
        "isostep show adam --set amsgrad=True --source numba",
    )
    rule_argument(show, "rule")
    set_argument(show)
    completes(
        show.add_argument(
            "--source",
            metavar="LANGUAGE",
            help=f"print only this text of the traced rule: {', '.join(sources.names())}",
        ),
        sources.names,
    )
    show.add_argument("--dtype", choices=list(COMPUTE_DTYPE), default="float32", help="of a kernel")
    show.add_argument("--t", type=int, default=1, help="the step, for rules whose steps differ")


def run_list(arguments: argparse.Namespace) -> None:
    """Print a line or JSON object for each rule and solver that matches."""
    names = fnmatch.filter(isostep.rules(), arguments.pattern)
    solvers = fnmatch.filter(isostep.solvers.names(), arguments.pattern)
    if not names and not solvers:
        known = ", ".join([*isostep.rules(), *isostep.solvers.names()])
        message = f"no rule or solver matches {arguments.pattern!r}; known: {known}"
        raise UsageError(message)
    made = runnable() if arguments.paths else {}
    rows = []
    for n in names:
        try:
            rows.append(row(isostep.definition(n)))
            if arguments.paths:
                rule = bind(n, {}, example=True)
                rows[-1]["paths"] = {name: path.path(rule) for name, path in made.items()}
        except (isostep.RuleError, isostep.TraceError) as error:
            print(complaint(error), end="", file=sys.stderr)  # the others are listed all the same
    called = [common_row(isostep.solvers.registry[n], "solver") for n in solvers]
    if arguments.json:
        print_json([*rows, *called])
        return
    if rows:
        print_rules(rows, paths=arguments.paths)
    if rows and called:
        print()
    if called:
        columns = ("name", "year", "family", "title")
        print_table(["solver", *columns[1:]], [[str(r[c]) for c in columns] for r in called])


def print_rules(rows: list[dict[str, Any]], *, paths: bool) -> None:
    """The table of rules."""
    head = ["name", "year", "family", "state", "bytes", "fused", "dialects", "title"]
    if paths:
        head[5:6] = list(rows[0]["paths"])
    lines = []
    for r in rows:
        how = [p.partition(":")[0] for p in r["paths"].values()] if paths else None
        lines.append(
            [
                r["name"],
                str(r["year"] or ""),
                r["family"],
                shortened(r["state"]),
                "" if r["bytes_per_element"] is None else str(r["bytes_per_element"]),
                *(how or [", ".join(p.partition(":")[0] for p in r["fused"]) or "no"]),
                ", ".join(r["dialects"]),
                r["title"],
            ]
        )
    print_table(head, lines)


def shortened(names: list[str], width: int = 48) -> str:
    """Names with commas between; of many, the first ones and their number."""
    text = ", ".join(names) or "none"
    if len(text) <= width:
        return text
    most = text.rfind(", ", 0, width - len(", ... (00)"))
    return f"{text[:most]}, ... ({len(names)})"


def runnable() -> dict[str, Any]:
    """The paths that run here, by name."""
    found = {}
    for name in families():
        try:
            family = find_family(name)
        except isostep.BackendError:
            continue
        for path in family.paths:
            try:
                backend = family.make(path)
            except (isostep.Unavailable, isostep.BackendError):
                continue
            if hasattr(backend, "path"):
                found[name if path == "default" else f"{name}:{path}"] = backend
    return found


def row(rule: Rule) -> dict[str, Any]:
    """What ``list`` says of a rule: with its default hyperparameters."""
    bound = bind(rule, {}, example=True)
    program, why = isostep.program(bound), obstacle(bound)
    dialect = rule.hyper.get("dialect")
    return common_row(rule, "rule") | {
        "state": list(program.state_names),
        "bytes_per_element": bytes_moved(program),
        "fused": [] if why else list(FUSING),
        "not_fused": why,
        "dialects": [str(o) for o in getattr(dialect, "options", ())],
    }


def common_row(part: Part, kind: str) -> dict[str, Any]:
    """What ``list`` says of rules and solvers alike, and ``show`` of pieces."""
    return {
        "name": part.name,
        "kind": kind,
        "year": part.year,
        "family": part.family,
        "title": part.doc.splitlines()[0].rstrip(".") if part.doc else "",
        "paper": part.paper,
        "arxiv": part.arxiv,
    }


def run_show(arguments: argparse.Namespace) -> None:
    """Print everything about one rule, solver or piece, or one text of a rule."""
    at_least("--t", arguments.t, 1)
    for folder, kind, what in OTHERS:
        if arguments.rule in folder.names():
            show_other(arguments, folder[arguments.rule], kind, what.format(arguments.rule))
            return
    bound = bind(arguments.rule, assignments(arguments.set), example=True)
    definition = bound.rule
    program = isostep.program(bound, t=arguments.t)
    if arguments.source:
        text = sources.text(arguments.source, program, arguments.dtype)
        if arguments.json:
            print_json({"source": text})
        else:
            print(text.rstrip())
        return
    hyper = hyper_rows(definition)
    moved = bytes_moved(program, "float32")
    if arguments.json:
        found = row(definition) | {
            "hyper": hyper,
            "state": list(bound.state_names),
            "bytes_per_element": moved,
            "values": {n: text_of(v) for n, v in bound.values.items()},
            "doc": definition.doc,
            **sections(definition.doc),
            "program": str(program),
        }
        print_json(found)
        return
    print(definition.doc, "\n")
    print(table(["name", "allowed", "default", "meaning"], [list(r.values()) for r in hyper]), "\n")
    print(f"paper    {source_of(definition)}")
    print(f"state    {', '.join(bound.state_names) or 'none'}")
    print(f"moves    {f'{moved} bytes per float32 element' if moved else _unfused(bound)}\n")
    print(program)


def show_other(arguments: argparse.Namespace, definition: Any, kind: str, what: str) -> None:
    """Print everything about one solver or piece; ``what`` that is."""
    if arguments.source:
        message = f"{definition.name} is a {kind}, {what}: it has no {arguments.source} of its own"
        raise UsageError(message)
    given = assignments(arguments.set)
    required = any(d.default is REQUIRED for d in definition.hyper.values())
    values = {} if required and not given else definition.bind(**given).values
    hyper = hyper_rows(definition)
    if arguments.json:
        found = common_row(definition, kind) | {
            "hyper": hyper,
            "values": {n: text_of(v) for n, v in values.items()},
            "doc": definition.doc,
            **sections(definition.doc),
        }
        print_json(found)
        return
    print(definition.doc, "\n")
    print(table(["name", "allowed", "default", "meaning"], [list(r.values()) for r in hyper]), "\n")
    print(f"kind     {kind}, {what}")
    print(f"paper    {source_of(definition)}")


def _unfused(bound: BoundRule) -> str:
    return f"not fused: {obstacle(bound)}"


def source_of(rule: Part) -> str:
    """Paper, year and arXiv number in one line."""
    year = f" ({rule.year})" if rule.year else ""
    number = f", https://arxiv.org/abs/{rule.arxiv}" if rule.arxiv else ""
    return f"{rule.paper or 'none'}{year}{number}"


def text_of(value: Any) -> Any:
    """A hyperparameter's value as JSON can hold it."""
    plain = value is None or isinstance(value, bool | int | float | str)
    return value if plain else list(value) if isinstance(value, tuple) else repr(value)


def sections(doc: str) -> dict[str, str]:
    """A rule's docstring by its parts: ``formula`` (above the first heading), ``follows``, ``departs``, ..."""
    found: dict[str, list[str]] = {"formula": []}
    key = "formula"
    for line in doc.splitlines()[1:]:
        heading = re.match(r"(Follows|Departs|Also[^:]*|[\w ]*unit)\s*:\s*(.*)", line)
        if heading:
            key = heading[1].lower().replace(" ", "_")
            line = heading[2]
        found.setdefault(key, []).append(line)
    return {k: "\n".join(v).strip("\n") for k, v in found.items()}


def hyper_rows(definition: Part) -> list[dict[str, str]]:
    """Name, allowed values, default and meaning of every hyperparameter."""
    return [
        {
            "name": name,
            "allowed": domain.describe(),
            "default": repr(domain.default),
            "meaning": str(getattr(domain, "doc", "")),
        }
        for name, domain in definition.hyper.items()
    ]
