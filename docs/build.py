"""Puts the site's pages together in docs/_build/pages: the written ones, and those that the registry writes.

    python docs/build.py             the pages, for mkdocs
    python docs/build.py --readme    the support matrix between the markers of README.md, in place

A page per rule, piece and solver (its docstring, hyperparameters, state, program; for a rule also its row of the
support matrix, what the oracles' reports say of it, its path on Rosenbrock's valley) and the support matrix, rule by
path, as the installed backends declare it. A public name without a docstring fails the build.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import string
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import isostep
from isostep.domains import REQUIRED, Domain
from isostep.plot import SURFACES
from isostep.plot.paths import title
from isostep.plot.svg import drawing
from isostep.rule import Part, Rule
from isostep_conformance import paths, sanity
from isostep_conformance.gaps import Gap

DOCS = Path(__file__).parent
PAGES = DOCS / "_build" / "pages"
#: What `python -m isostep_conformance.oracles NAME --json FILE` wrote, one file for each NAME.
ORACLES = DOCS.parent / "conformance" / "reports"
BEGIN, END = "<!-- support:begin -->", "<!-- support:end -->"


def main() -> None:
    """Build the pages, or only renew the README's matrix."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", action="store_true", help="renew the matrix in README.md")
    if parser.parse_args().readme:
        readme = DOCS.parent / "README.md"
        readme.write_text(with_matrix(readme.read_text(encoding="utf-8")), encoding="utf-8")
        return
    undocumented = [n for n in isostep.__all__ if not getattr(getattr(isostep, n), "__doc__", None)]
    if undocumented:
        sys.exit(f"public names without a docstring: {', '.join(undocumented)}")
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    for written in DOCS.glob("*.md"):
        shutil.copy(written, PAGES)
    shutil.copytree(DOCS / "img", PAGES / "img")
    shutil.copytree(DOCS / "learn", PAGES / "learn", ignore=shutil.ignore_patterns("*.py", "__*"))
    rules = {name: isostep.definition(name) for name in isostep.rules()}
    pieces = {name: isostep.pieces.registry[name] for name in isostep.pieces.registry.names()}
    solvers = {name: isostep.solvers.registry[name] for name in isostep.solvers.names()}
    for folder, parts in (("rules", rules), ("pieces", pieces), ("solvers", solvers)):
        (PAGES / folder).mkdir()
        for name, part in parts.items():
            put(f"{folder}/{name}.md", page(part))
        put(f"{folder}/index.md", [f"# {folder.capitalize()}", "", *index(parts)])
    put("support.md", ["# Support", "", *matrix()])


def put(name: str, lines: Iterable[str]) -> None:
    """Write one page."""
    (PAGES / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def with_matrix(readme: str) -> str:
    """The README with a fresh support matrix."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([before + BEGIN, *summary(), END]) + after


# Pages


def page(part: Part) -> list[str]:
    """The page of one rule, piece or solver."""
    lines = [f"# {part.name}", "", *prose(part.doc), "", "## Hyperparameters", ""]
    if part.hyper:
        lines += ["| name | default | allowed | |", "|---|---|---|---|"]
        lines += [
            f"| `{name}` | {default(domain)} | {escape(domain.describe())} | {escape(domain.doc)} |"
            for name, domain in part.hyper.items()
        ]
    else:
        lines += ["None."]
    if part.paper:
        number = f", arXiv [{part.arxiv}](https://arxiv.org/abs/{part.arxiv})" if part.arxiv else ""
        lines += ["", "## Source", "", f"{escape(part.paper)} ({part.year}){number}."]
    if isinstance(part, Rule):
        rule = part.bind(**required(part))
        state = ", ".join(f"`{name}`" for name in rule.state_names) or "none"
        lines += ["", "## State", "", f"With these hyperparameters: {state}."]
        lines += ["", "## Dialects", "", *dialects(part)]
        lines += ["", "## Support", "", *support(rule)]
        lines += ["", "## Oracles", "", *oracles(part.name)]
        lines += ["", "## Path", "", *valley(part.name)]
        call = "".join(f", {name}={value}" for name, value in required(part).items())
        lines += ["", "## Program", "", f"`isostep.program(isostep.rule({part.name!r}{call}))`", ""]
        lines += ["```text", str(isostep.program(rule)), "```"]
    return lines


def dialects(rule: Rule) -> list[str]:
    """The rules that go by this name, and how to see where they differ."""
    options = getattr(rule.hyper.get("dialect"), "options", ())
    if not options:
        return ["None: one rule goes by this name here."]
    pair = ",".join(map(str, options[:2]))
    names = ", ".join(f"`{option}`" for option in options)
    return [
        f"{names}; `isostep diff {rule.name} --dialects {pair}` shows where two of them differ."
    ]


def support(rule: isostep.BoundRule) -> list[str]:
    """The rule's row of the support matrix, which explains the words."""
    columns = columns_here()
    return [
        f"| {' | '.join(path.name for path in columns)} |",
        "|---" * len(columns) + "|",
        f"| {' | '.join(cell(path, rule) for path in columns)} |",
    ]


def oracles(name: str) -> list[str]:
    """What the oracles' reports say of a rule."""
    rows = [row for row in reported() if row["rule"] == name]
    if not rows:
        return [
            "Not recorded: no report of `nox -s oracles` in conformance/reports speaks of this rule."
        ]
    lines = ["| oracle | setting | worst deviation | tolerance | |", "|---|---|---|---|---|"]
    for row in rows:
        verdict = "agrees" if row["passed"] else "**differs**"
        told = f"{row['worst']:.1e} | {row['tolerance']:.1e} | {verdict}"
        lines += [f"| {escape(row['oracle'])} | {escape(row['setting'])} | {told} |"]
    return lines


@cache
def reported() -> tuple[dict[str, Any], ...]:
    """Every row of the oracles' reports."""
    files = sorted(ORACLES.glob("oracles-*.json"))
    return tuple(row for file in files for row in json.loads(file.read_text(encoding="utf-8")))


def valley(name: str) -> list[str]:
    """The path of the rule's sanity run on Rosenbrock's valley, as a picture in the page."""
    task = sanity.rosenbrock()
    rule = sanity.rule_for(name, task)
    points: list[Any] = []
    first, last = sanity.run(rule, task, lambda params: points.append(params[0].ravel().copy()))
    shown = drawing(SURFACES["rosenbrock"], np.array(points), f"{name} on Rosenbrock's valley")
    told = f"{task.steps} steps of `{title(rule)}` in float32: from {first:.3g} to {last:.3g}."
    return [f"<div>{shown}</div>", "", told + " The cross is the minimum."]


def required(part: Part) -> dict[str, Any]:
    """Values for the hyperparameters that have no default."""
    return {n: 0.1 for n, domain in part.hyper.items() if domain.default is REQUIRED}


def default(domain: Domain) -> str:
    """A default as the table shows it."""
    return "required" if domain.default is REQUIRED else f"`{domain.default!r}`"


def index(parts: dict[str, Part]) -> list[str]:
    """A list of pages with the first sentence of each."""
    first = {name: part.doc.partition("\n")[0] for name, part in parts.items()}
    return [f"- [{name}]({name}.md): {escape(line)}" for name, line in first.items()]


def escape(text: str) -> str:
    """Prose in which nothing is markup but backquotes."""
    pieces = re.split(r"(`+[^`]*`+)", text)
    return "".join(
        re.sub(r"`+", "`", piece)
        if piece.startswith("`")
        else re.sub(r"([*_<>\[\]|])", r"\\\1", piece)
        for piece in pieces
    )


def prose(doc: str) -> list[str]:
    """A docstring as Markdown: equations stay as they stand, `Departs:` and its like become lists."""
    first, *blocks = re.split(r"\n\s*\n", doc)
    lines = [escape(first), ""]
    for block in blocks:
        rows = block.split("\n")
        if all(row.startswith("    ") for row in rows):
            lines += ["```text", *(row[4:] for row in rows), "```", ""]
            continue
        indented = False
        for row in rows:
            text = row.strip()
            if item := re.match(r"- (.*)", text):
                lines += ["", f"- {escape(item[1])}"]
            elif section := re.match(r"([A-Z][a-z ]*|[\w ]+ unit):(.*)", row):
                lines += ["", f"**{section[1]}:**{escape(section[2])}"]
            else:
                lines += [""] * (indented and not row.startswith(" ")) + [escape(text)]
            indented = row.startswith(" ")
        lines += [""]
    return lines


# The support matrix

LEGEND = """
*fused*: kernels generated from the rule's program, one pass over all arrays per stage. *foreach*: the program as calls
over lists of tensors. *stacked*: the program once for all tensors of a shape. *passes*: likewise, with generated
kernels for what is done element by element. *jit*: the program under `jax.jit`. *generic*: the rule's own functions on
that framework's arrays. *notimpl*, *notyet*, *never*: a gap that the backend declares. *not run here*: the path did not
run on the machine that made this table.
"""


def rows() -> dict[str, tuple[str, ...]]:
    """Rule by path: the way that a path runs the rule."""
    found = {}
    for name in isostep.rules():
        part = isostep.definition(name)
        rule = part.bind(**required(part))
        found[name] = tuple(cell(path, rule) for path in columns_here())
    return found


def matrix() -> list[str]:
    """Rule by path, a row for each rule, and the gaps that paths declare."""
    names = [p.name for p in columns_here()]
    lines = [f"| rule | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(row)} |" for name, row in rows().items()]
    return lines + legend()


def summary() -> list[str]:
    """The same with a column for all rules that have the same row."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, row in rows().items():
        alike.setdefault(row, []).append(name)
    groups = sorted(alike.items(), key=lambda item: -len(item[1]))
    letters = string.ascii_uppercase[: len(groups)]
    lines = [f"| path | {' | '.join(letters)} |", "|---" * (len(groups) + 1) + "|"]
    for path, *ways in zip(
        (p.name for p in columns_here()), *(row for row, _ in groups), strict=True
    ):
        lines.append(f"| `{path}` | {' | '.join(ways)} |")
    for letter, (_, names) in zip(letters, groups, strict=True):
        lines += ["", f"**{letter}**, {len(names)} rules: {', '.join(names)}."]
    return lines + legend()


def legend() -> list[str]:
    """What the words mean, and the gaps."""
    lines = LEGEND.rstrip().split("\n")
    gaps = {gap: None for path in columns_here() for gap in path.gaps}
    if gaps:
        lines += ["", "Declared gaps:", ""]
        lines += [f"- {where(gap)}: *{gap.word}*: {escape(gap.reason)}" for gap in gaps]
    return lines


@cache
def columns_here() -> tuple[paths.Path, ...]:
    """The paths that are installed."""
    return tuple(paths.installed())


def cell(path: paths.Path, rule: isostep.BoundRule) -> str:
    """How a path runs a rule, without the reason why; and the words of its gaps there, if they are whole."""
    if path.backend is None:
        return "not run here"
    way = path.backend.path(rule)
    words = {g.word for g in path.gaps if not g.partly and concerns(g, path.name, rule.name, way)}
    return ", ".join([way.partition(":")[0], *sorted(words)])


def where(gap: Gap) -> str:
    """What a gap speaks of, leaving out what it does not narrow."""
    said = {n: [given] if isinstance(given, str) else given for n, given in gap.where.items()}
    return ", ".join(
        f"{name} {' or '.join(f'`{g}`' for g in given)}"
        for name, given in said.items()
        if "*" not in given
    )


def concerns(gap: Gap, path: str, rule: str, way: str) -> bool:
    """Whether a gap speaks of this rule on this path, in whatever case."""
    wanted = [((path,), gap.path), ((rule, f"{rule}.0"), gap.rule), ((way,), gap.way)]
    return all(
        any(
            fnmatchcase(n, p) for n in names for p in ([given] if isinstance(given, str) else given)
        )
        for names, given in wanted
    )


if __name__ == "__main__":
    main()
