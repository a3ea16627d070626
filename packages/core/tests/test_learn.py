"""The notebooks of docs/learn: their cells run (they check themselves), and are those of their sources."""

import importlib.util
import json
from pathlib import Path

import pytest

LEARN = Path(__file__).parents[3] / "docs" / "learn"
SOURCES = sorted(p for p in LEARN.glob("*.py") if p.name != "build.py")


def builder():
    spec = importlib.util.spec_from_file_location("learn_build", LEARN / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_a_notebook_runs_and_is_up_to_date(source):
    pytest.importorskip("matplotlib", reason="isostep[plot] is not installed")
    made = builder().notebook(source)["cells"]
    kept = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    assert [c["source"] for c in kept] == [c["source"] for c in made], "run docs/learn/build.py"
    outputs = [[o["output_type"] for o in c.get("outputs", [])] for c in made]
    assert [[o["output_type"] for o in c.get("outputs", [])] for c in kept] == outputs
    assert any("stream" in o for o in outputs)


def test_an_error_in_a_cell_is_seen(tmp_path):
    source = tmp_path / "x.py"
    source.write_text('"""Text."""\n\n# %%\nx = 1\n\n# %%\nassert x == 2\n')
    with pytest.raises(AssertionError):
        builder().notebook(source)
