"""The pytest plugin in the test runs of other projects: every pytest of an environment loads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: What other projects have; pytest refuses two options of one name.
CONFTEST = """
def pytest_addoption(parser):
    parser.addoption("--backend", default="theirs")
    parser.addoption("--full", action="store_true")
"""
TEST = """
import sys

def test_it(request):
    assert request.config.getoption("--backend") == "theirs"
    assert not request.config.getoption("--full")
    assert "isostep_conformance.plugin" in sys.modules
    assert "isostep" not in sys.modules
    assert "numpy" not in sys.modules
"""
SUITE = "from isostep_conformance.test_conformance import *\n"


def pytest_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def test_options_of_the_same_names_and_no_imports(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TEST)
    done = pytest_in(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_module_that_imports_the_suite_has_the_long_names(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(SUITE)
    done = pytest_in(tmp_path, "--isostep-backend", "tpu", "test_mine.py")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "unknown backend 'tpu'; installed:" in done.stdout + done.stderr


def test_where_the_suite_is_named_the_short_names_are_there(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, "--pyargs", "isostep_conformance", "--backend", "tpu", "--full")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "unknown backend 'tpu'; installed:" in done.stdout + done.stderr
