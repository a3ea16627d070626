"""What all tests share: which of many like one another are run, where not all can be."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: the paths that are not the reference; what they need is installed where marked ``whole`` tests run
OTHER_PATHS = (
    *("numpy:fused", "torch:loop", "torch:foreach", "torch:fused", "torch:triton(interpreter)"),
    *("jax:jit", "jax:grouped", "cupy:raw(host)"),
)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """The suite's options by their short names, which its plugin has only where it is named."""
    config: Any = pluginmanager.get_plugin("pytestconfig")
    named = any("isostep_conformance" in str(word) for word in config.invocation_params.args)
    if named and pluginmanager.has_plugin("isostep_conformance"):
        return
    group = parser.getgroup("isostep")
    group.addoption("--backend", action="append", default=[], dest="isostep_backend")
    group.addoption("--full", action="store_true", dest="isostep_full")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``other_path`` is run on every path but the reference, with ``each_path`` on that too."""
    others = [pytest.param(name, marks=pytest.mark.whole) for name in OTHER_PATHS]
    for name, paths in (("other_path", others), ("each_path", ["numpy:reference", *others])):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, paths)


@pytest.fixture
def two_processes(tmp_path: Path) -> Callable[..., None]:
    """Run a script in two processes, which are given their rank and a file to find each other; both must end well."""

    def run(script: str, timeout: float = 900) -> None:
        command = [sys.executable, "-W", "ignore", "-c", script]
        store = str(tmp_path / "store")
        processes = [
            subprocess.Popen([*command, str(rank), store], stderr=subprocess.PIPE, text=True)
            for rank in range(2)
        ]
        try:
            errors = [process.communicate(timeout=timeout)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)

    return run


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of tests marked ``sampled(n)`` every n-th, by a hash of its name: always the same; with ``--full`` all."""
    if config.getoption("--full"):
        return
    left = [item for item in items if not _drawn(item)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if _drawn(item)]


def _drawn(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("sampled")
    return mark is None or zlib.crc32(item.name.encode()) % mark.args[0] == 0
