"""A package outside this repository, found by its entry point: the right backend passes, the wrong one does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOY = Path(__file__).parent / "toy_backend"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the toy package is installed, as far as ``importlib.metadata`` can tell."""
    site = tmp_path_factory.mktemp("site")
    info = site / "isostep_toy-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: isostep-toy\nVersion: 0.1.0\n")
    text = (TOY / "pyproject.toml").read_text()
    name, target = text.split('"isostep.backends"]')[1].split("=")
    (info / "entry_points.txt").write_text(
        f"[isostep.backends]\n{name.strip()} = {target.strip().strip(chr(34))}\n"
    )
    found = os.pathsep.join(
        [str(site), str(TOY / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    return {**os.environ, "PYTHONPATH": found}


def run(installed: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=installed,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_right_one_passes(installed: dict[str, str], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = run(
        installed,
        "isostep_conformance.cli",
        "--backend",
        "toy:default",
        "--rule",
        "adamw",
        "--rule",
        "lamb",
        "--html",
        str(page),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "path toy:default on cpu" in done.stdout
    assert "all passed" in page.read_text()


def test_the_wrong_one_is_rejected(installed: dict[str, str]) -> None:
    done = run(
        installed,
        "isostep_conformance.cli",
        "--backend",
        "toy:wrong",
        "--rule",
        "adamw",
        "--dtype",
        "float64",
    )
    assert done.returncode == 1
    said = next(
        line for line in done.stdout.splitlines() if line.startswith("adamw.") and "element" in line
    )
    for part in ("float64 on toy:wrong", "params[0] element (", "got ", "expected ", "budget 64 x"):
        assert part in said


def test_pytest_runs_it_from_anywhere(installed: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--pyargs", "isostep_conformance", "--backend=toy:wrong", "-x", "-kaddsign"],
        env=installed, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "on toy:wrong" in done.stdout


def test_an_unknown_backend_is_an_error_that_lists_those_installed(
    installed: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--pyargs", "isostep_conformance", "--backend", "tpu"],
        env=installed, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 4
    assert "unknown backend 'tpu'; installed:" in done.stdout + done.stderr
    assert "toy" in done.stdout + done.stderr
