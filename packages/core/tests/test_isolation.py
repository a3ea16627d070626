"""Layering: importing isostep imports no framework, and all distributions are of one version."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import isostep
from isostep.version import VERSION

ROOT = Path(__file__).parents[3]
SOURCES = Path(isostep.__file__).parent
TOMLS = [*sorted(ROOT.glob("packages/*/pyproject.toml")), ROOT / "conformance" / "pyproject.toml"]
FRAMEWORKS = {
    *("torch", "triton", "jax", "jaxlib", "optax", "cupy", "tensorflow", "keras"),
    *("numba", "llvmlite", "ml_dtypes", "safetensors", "matplotlib", "sklearn", "rich"),
}
# The optional extras of core, each with the only files that may import it. That they are not imported
# too early is what the other tests see, and what running core's tests without extras sees.
EXTRAS = {
    "numba": ["lower/*.py"],
    "llvmlite": ["lower/*.py"],
    "ml_dtypes": ["lower/*.py", "backends/*.py"],
    "rich": ["commands/*.py"],
    "matplotlib": ["plot/*.py"],
}


@pytest.mark.parametrize("statement", ["pass", "isostep.rules()", "isostep.rule('adamw', lr=0.1)"])
def test_importing_isostep_imports_no_framework(statement):
    code = f"import sys, isostep; {statement}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not FRAMEWORKS & set(run.stdout.split())


def imports(path):
    """The top-level packages that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    "path", sorted(SOURCES.rglob("*.py")), ids=lambda p: p.relative_to(SOURCES).as_posix()
)
def test_no_source_of_core_imports_a_framework(path):
    place = path.relative_to(SOURCES).as_posix()
    for name in FRAMEWORKS.intersection(imports(path)):
        assert any(fnmatch(place, allowed) for allowed in EXTRAS.get(name, ())), f"imports {name}"


def test_an_import_in_a_function_is_seen(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text(
        "import torch.nn\ndef f():\n    from numba.core import types\nfrom . import jax\n"
    )
    assert sorted(imports(path)) == ["numba", "torch"]


@pytest.mark.parametrize("toml", TOMLS, ids=lambda toml: toml.parent.name)
def test_every_distribution_has_the_one_version_and_pins_its_minor(toml):
    settings = tomllib.loads(toml.read_text(encoding="utf-8"))
    version_file = (toml.parent / settings["tool"]["hatch"]["version"]["path"]).resolve()
    assert version_file == ROOT / "packages/core/src/isostep/version.py"

    project = settings["project"]
    assert "version" in project["dynamic"]
    pins = [r for r in map(Requirement, project["dependencies"]) if r.name == "isostep"]
    assert len(pins) == (project["name"] != "isostep")
    major, minor, *_ = map(int, VERSION.split(".")[:2])
    for pin in pins:
        assert pin.specifier.contains(VERSION, prereleases=True)
        assert not pin.specifier.contains(f"{major}.{minor + 1}.0")


@pytest.mark.whole
@pytest.mark.parametrize("toml", TOMLS, ids=lambda toml: toml.parent.name)
def test_what_is_installed_is_that_version(toml):
    name = tomllib.loads(toml.read_text(encoding="utf-8"))["project"]["name"]
    assert importlib.metadata.version(name) == VERSION


def test_core_needs_numpy_and_array_api_compat_only():
    project = tomllib.loads((ROOT / "packages/core/pyproject.toml").read_text())["project"]
    assert {Requirement(r).name for r in project["dependencies"]} == {"numpy", "array-api-compat"}


@pytest.mark.parametrize("toml", TOMLS, ids=lambda toml: toml.parent.name)
def test_every_distribution_carries_the_licence_and_a_readme_that_is_read_elsewhere(toml):
    project = tomllib.loads(toml.read_text(encoding="utf-8"))["project"]
    assert project["license-files"] == ["LICENSE"]
    licence = (toml.parent / "LICENSE").read_bytes()  # hatchling takes none from outside the folder
    assert licence == (ROOT / "LICENSE").read_bytes()
    readme = (toml.parent / project["readme"]).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", readme)
    assert [link for link in links if not link.startswith("https://")] == []
