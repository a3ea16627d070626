"""Puts the site's pages together in docs/_build/pages: the written ones, and those that the registry writes.

    python docs/build.py             the pages, for mkdocs
    python docs/build.py --readme    the support matrix between the markers of README.md, in place

A page per rule, piece and solver (its docstring, hyperparameters, state, program) and the support matrix,
rule by path, as the installed backends declare it. A public name without a docstring fails the build.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import isostep
from isostep.domains import REQUIRED, Domain
from isostep.rule import Part, Rule
from isostep_conformance import paths
from isostep_conformance.gaps import Gap

DOCS = Path(__file__).parent
PAGES = DOCS / "_build" / "pages"
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
    return "\n".join([before + BEGIN, *matrix(), END]) + after


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
        call = "".join(f", {name}={value}" for name, value in required(part).items())
        lines += ["", "## Program", "", f"`isostep.program(isostep.rule({part.name!r}{call}))`", ""]
        lines += ["```text", str(isostep.program(rule)), "```"]
    return lines


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
over lists of tensors. *jit*: the program under `jax.jit`. *generic*: the rule's own functions on that framework's
arrays. *notimpl*, *notyet*, *never*: a gap that the backend declares. *not run here*: the path did not run on the
machine that made this table.
"""


def matrix() -> list[str]:
    """Rule by path: the way that a path runs the rule, and the gaps that it declares for it."""
    columns = paths.installed()
    lines = [f"| rule | {' | '.join(p.name for p in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in isostep.rules():
        part = isostep.definition(name)
        rule = part.bind(**required(part))
        lines.append(f"| {name} | {' | '.join(cell(path, rule) for path in columns)} |")
    lines += LEGEND.rstrip().split("\n")
    gaps = {gap: None for path in columns for gap in path.gaps}
    if gaps:
        lines += ["", "Declared gaps:", ""]
        lines += [f"- {where(gap)}: *{gap.word}*: {escape(gap.reason)}" for gap in gaps]
    return lines


def cell(path: paths.Path, rule: isostep.BoundRule) -> str:
    """How a path runs a rule, without the reason why; and the words of its gaps there, if they are whole."""
    if path.backend is None:
        return "not run here"
    way = path.backend.path(rule).partition(":")[0]
    words = {g.word for g in path.gaps if not g.partly and concerns(g, path.name, rule.name)}
    return ", ".join([way, *sorted(words)])


def where(gap: Gap) -> str:
    """What a gap speaks of, leaving out what it does not narrow."""
    fields = {"path": gap.path, "rule": gap.rule, "dtype": gap.dtype, "check": gap.check}
    return ", ".join(f"{name} `{given}`" for name, given in fields.items() if given != "*")


def concerns(gap: Gap, path: str, rule: str) -> bool:
    """Whether a gap speaks of this rule on this path, in whatever case."""
    wanted = [((path,), gap.path), ((rule, f"{rule}.0"), gap.rule)]
    return all(
        any(
            fnmatchcase(n, p) for n in names for p in ([given] if isinstance(given, str) else given)
        )
        for names, given in wanted
    )


if __name__ == "__main__":
    main()
