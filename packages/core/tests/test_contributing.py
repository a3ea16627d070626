"""The backend that docs/contributing.md shows is a backend: as a package of its own, found by its entry point."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "contributing.md").read_text(encoding="utf-8")
(TOML,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
(SOURCE,) = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def installed(tmp_path):
    """What installing the page's package leaves: a module and its metadata; the environment to see them."""
    project = tomllib.loads(TOML)["project"]
    (tmp_path / "isostep_strict.py").write_text(SOURCE, encoding="utf-8")
    metadata = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{n} = {v}" for n, v in project["entry-points"]["isostep.backends"].items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[isostep.backends]", *lines]))
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def run(environment, *words):
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_it_takes_the_reference_s_step(installed):
    code = """
import isostep, numpy as np
rule, results = isostep.rule("adamw", lr=0.1, weight_decay=0.1), []
for name in ("strict", "numpy:reference"):
    backend = isostep.backend(name)
    params = [backend.asarray(np.array([1.0, -2.0, 3.0]))]
    state = backend.init(rule, params)
    for g in (0.5, -0.25):
        params, state = backend.step(rule, params, [backend.asarray(np.full(3, g))], state)
    results.append(backend.to_numpy(params[0]))
np.testing.assert_array_equal(*results)
"""
    done = run(installed, "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.whole
def test_it_passes_conformance(installed):
    words = ["--backend", "strict", "--rule", "addsign"]
    done = run(installed, "-m", "isostep_conformance.cli", *words)
    assert done.returncode == 0, done.stdout + done.stderr
