"""Run docs/learn/NAME.py cell by cell and keep source and outputs in NAME.ipynb: python docs/learn/build.py

A cell begins with ``# %%``, one of text with ``# %% [markdown]``. What a cell prints and the figure that it leaves in
``figure`` are its outputs. An error in a cell is an error here.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def cells(text: str) -> list[tuple[bool, str]]:
    """Each cell: whether it is text, and its lines."""
    found = []
    for part in text.split("\n# %%")[1:]:
        kind, _, body = part.partition("\n")
        written = kind.strip() == "[markdown]"
        lines = [x.removeprefix("#").removeprefix(" ") if written else x for x in body.splitlines()]
        found.append((written, "\n".join(lines).strip("\n")))
    return found


def notebook(path: Path) -> dict[str, Any]:
    """The executed notebook of a source file, in nbformat 4."""
    names: dict[str, Any] = {}
    made = []
    count = 0
    for written, body in cells(path.read_text(encoding="utf-8")):
        lines = body.splitlines(keepends=True)
        name = f"cell-{len(made)}"
        if written:
            made.append({"cell_type": "markdown", "id": name, "metadata": {}, "source": lines})
            continue
        count += 1
        printed = io.StringIO()
        names.pop("figure", None)
        with contextlib.redirect_stdout(printed):
            exec(compile(body, f"{path.name}, cell {count}", "exec"), names)
        outputs: list[dict[str, Any]] = []
        if printed.getvalue():
            text = printed.getvalue().splitlines(keepends=True)
            outputs.append({"output_type": "stream", "name": "stdout", "text": text})
        if "figure" in names:
            drawn = io.BytesIO()
            names["figure"].savefig(drawn, format="png", dpi=70)
            data = {"image/png": base64.b64encode(drawn.getvalue()).decode()}
            outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
        made.append(
            {
                "cell_type": "code",
                "id": name,
                "metadata": {},
                "execution_count": count,
                "source": lines,
                "outputs": outputs,
            }
        )
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    for source in sorted(HERE.glob("*.py")):
        if source != Path(__file__):
            text = json.dumps(notebook(source), indent=1) + "\n"
            source.with_suffix(".ipynb").write_text(text, encoding="utf-8")
            print(f"wrote {source.with_suffix('.ipynb').name}")
