"""What a run found, as a terminal matrix, as JSON, and as one HTML page that needs no network."""

from __future__ import annotations

import html
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path as File
from typing import Any

from isostep_conformance.budget import FACTOR, MARGIN
from isostep_conformance.cases import DTYPES
from isostep_conformance.session import Outcome, Session, device, versions

_SHORT = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def cell(outcomes: list[Outcome]) -> tuple[str, str]:
    """A cell's mark and its class: worst ratio if all passed, else what went wrong."""
    if not outcomes:
        return "", "none"
    if any(not o.passed for o in outcomes):
        return "FAIL", "fail"
    gaps = [o for o in outcomes if o.gap is not None]
    worst = max((o.worst for o in outcomes if o.gap is None), default=0.0)
    return (f"{worst:.1f}*", "gap") if gaps else (f"{worst:.1f}", "pass")


def matrix(
    session: Session,
) -> tuple[list[str], list[tuple[str, str]], dict[tuple[str, str, str], list[Outcome]]]:
    """Rule names, (path, dtype) columns, and the outcomes of each cell."""
    cells: dict[tuple[str, str, str], list[Outcome]] = {}
    for o in session.outcomes:
        cells.setdefault((o.rule.rpartition(".")[0], o.path, o.dtype), []).append(o)
    rules = list(dict.fromkeys(o.rule.rpartition(".")[0] for o in session.outcomes))
    present = {(o.path, o.dtype) for o in session.outcomes}
    columns = [
        (p.name, d)
        for p in session.paths
        if not p.missing
        for d in DTYPES
        if (p.name, d) in present
    ]
    return rules, columns, cells


def table(session: Session) -> str:
    """The matrix as plain text: worst ratio per cell; ``*`` has a declared gap."""
    rules, columns, cells = matrix(session)
    widths = [len(p) for p, _ in columns]
    first = max((len(_name(r)) for r in rules), default=4)
    lines = [" " * first + "  " + "  ".join(p for p, _ in columns)]
    lines.append(
        " " * first
        + "  "
        + "  ".join(_SHORT[d].rjust(w) for (_, d), w in zip(columns, widths, strict=True))
    )
    for r in rules:
        marks = [cell(cells.get((r, *c), []))[0] or "." for c in columns]
        row = "  ".join(m.rjust(w) for m, w in zip(marks, widths, strict=True))
        lines.append(f"{_name(r):{first}s}  {row}")
    return "\n".join(lines)


def _name(rule: str) -> str:
    return rule if len(rule) <= 44 else rule[:41] + "..."


def show(session: Session) -> None:
    """The matrix on the terminal, with rich where it is installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(table(session))
        return
    rules, columns, cells = matrix(session)
    made = Table(title=f"worst error / allowed error (fails above {FACTOR:g}; * declared gap)")
    made.add_column("rule")
    for p, d in columns:
        made.add_column(f"{p}\n{_SHORT[d]}", justify="right")
    colours = {"pass": "green", "gap": "yellow", "fail": "bold red", "none": "dim"}
    for r in rules:
        row = []
        for c in columns:
            mark, kind = cell(cells.get((r, *c), []))
            row.append(f"[{colours[kind]}]{mark or '.'}[/]")
        made.add_row(_name(r), *row)
    Console().print(made)


def data(session: Session) -> dict[str, Any]:
    """Everything as plain data."""
    toll = session.toll
    return {
        "versions": versions(),
        "factor": FACTOR,
        "margin": MARGIN,
        "paths": [{"name": p.name, "device": device(p)} for p in session.paths if not p.missing],
        "paths_not_run": [{"name": p.name, "reason": p.missing} for p in session.missing],
        "honest": [
            {"path": p, "dtype": d, "ratio": _finite(r), "where": w}
            for (p, d), (r, w) in session.honest().items()
        ],
        "outcomes": [
            {
                "path": o.path,
                "rule": o.rule,
                "dtype": o.dtype,
                "check": o.check,
                "ratio": _finite(o.worst),
                "where": o.where,
                "elements": o.elements,
                "exempt": o.exempt,
                "passed": o.passed,
                "failures": o.failures,
                "gap": None if o.gap is None else str(o.gap),
            }
            for o in session.outcomes
        ],
        "gaps": [str(g) for p in session.paths if not p.missing for g in p.gaps],
        "mutants": None
        if toll is None
        else {
            "tried": len(toll.fates),
            "made": len(toll.mutants),
            "killed": sum(f.killed for f in toll.mutants),
            "kill_rate": toll.rate,
            "least_ratio": _finite(toll.least),
            "equivalent": [
                {"mutant": f.id, "reason": f.equivalent.reason}
                for f in toll.mutants
                if f.equivalent is not None
            ],
            "survivors": [f.id for f in toll.survivors],
        },
        "faults": session.faults(),
    }


def _finite(x: float) -> float | str:
    return float(x) if x == x and abs(x) != float("inf") else str(x)  # JSON has no infinity


def write(file: str | os.PathLike[str], text: str) -> None:
    """Write a file whole or not at all."""
    target = File(file)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        os.replace(name, target)
    except BaseException:
        File(name).unlink(missing_ok=True)
        raise


def as_json(session: Session) -> str:
    """The data as JSON."""
    return json.dumps(data(session), indent=1)


_STYLE = """
:root { color-scheme: light dark; --ok: #1a7f37; --gap: #9a6700; --bad: #cf222e; --line: #8884; }
@media (prefers-color-scheme: dark) { :root { --ok: #3fb950; --gap: #d29922; --bad: #f85149; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { position: sticky; top: 0; background: Canvas; }
.pass { color: var(--ok); } .gap { color: var(--gap); } .fail { color: var(--bad); font-weight: 700; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; } summary { cursor: pointer; }
"""


def as_html(session: Session) -> str:
    """One self-contained page."""
    found = data(session)
    faults = found["faults"]
    verdict = "all passed" if not faults else f"{len(faults)} faults"
    kind = "fail" if faults else "pass"
    rows = "<p>" + html.escape(", ".join(f"{k} {v}" for k, v in found["versions"].items())) + "</p>"
    missing = [f"{p['name']}: {p['reason']}" for p in found["paths_not_run"]]
    elements, exempt = (
        sum(o["elements"] for o in found["outcomes"]),
        sum(o["exempt"] for o in found["outcomes"]),
    )
    body = [
        f"<h1>isostep conformance: <span class={kind}>{verdict}</span></h1>",
        rows,
        f"<p>{elements:,} numbers compared, {exempt:,} of them exempt at thresholds. "
        f"Paths not run: {len(missing)}.</p>",
        _list(missing),
        "<h2>Matrix</h2>",
        "<p>The worst error over the allowed error before FACTOR "
        f"(fails above {FACTOR:g}). * marks a declared gap.</p>",
        _matrix(session),
        "<h2>Margins</h2>",
        _rows(
            ("path", "dtype", "worst honest ratio", "where"),
            ((h["path"], h["dtype"], h["ratio"], h["where"]) for h in found["honest"]),
        ),
        _mutants(found["mutants"]),
        "<h2>Gaps</h2>",
        _list(found["gaps"]) or "<p>None.</p>",
    ]
    if faults:
        body += ["<h2>Faults</h2>", "<pre>" + html.escape("\n".join(faults)) + "</pre>"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>isostep conformance</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
    )


def _matrix(session: Session) -> str:
    rules, columns, cells = matrix(session)
    head = "".join(f"<th>{html.escape(p)}<br>{_SHORT[d]}</th>" for p, d in columns)
    body = []
    for r in rules:
        marks = []
        for c in columns:
            outcomes = cells.get((r, *c), [])
            mark, kind = cell(outcomes)
            exempt = sum(o.exempt for o in outcomes)
            title = f"{len(outcomes)} checks, {exempt} elements exempt"
            marks.append(f'<td class="{kind}" title="{title}">{mark}</td>')
        body.append(f"<tr><td>{html.escape(r)}</td>{''.join(marks)}</tr>")
    return (
        f"<table><thead><tr><th>rule</th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    )


def _mutants(found: dict[str, Any] | None) -> str:
    if found is None:
        return "<h2>Mutants</h2><p>Not made in this run; ask for them with --mutants.</p>"
    equivalent = [f"{e['mutant']}: {e['reason']}" for e in found["equivalent"]]
    least = found["least_ratio"]
    mildest = least if isinstance(least, str) else f"{least:.3g}"
    return (
        f"<h2>Mutants</h2><p>{found['made']:,} made and tried in {found['tried']:,} settings, "
        f"{found['killed']:,} killed, {len(equivalent)} equivalent; kill rate {found['kill_rate']:.2%}. "
        f"The mildest is {mildest} "
        f"times the allowed error (FACTOR is {FACTOR:g}).</p>"
        f"<details><summary>Equivalent mutants</summary>{_list(equivalent)}</details>"
        + _list(found["survivors"])
    )


def _rows(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    def text(x: Any) -> str:
        return html.escape(f"{x:.3g}" if isinstance(x, float) else str(x))

    body = "".join("<tr>" + "".join(f"<td>{text(x)}</td>" for x in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{''.join(f'<th>{h}</th>' for h in head)}</tr></thead><tbody>{body}</tbody></table>"


def _list(items: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(i)}</li>" for i in items) + "</ul>" if items else ""
