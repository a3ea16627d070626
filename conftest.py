"""What all tests share: which of many like one another are run, where not all can be."""

from __future__ import annotations

import zlib

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of tests marked ``sampled(n)`` every n-th, by a hash of its name: always the same; with ``--full`` all."""
    if config.getoption("--full", default=False):
        return
    left = [item for item in items if not _drawn(item)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if _drawn(item)]


def _drawn(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("sampled")
    return mark is None or zlib.crc32(item.name.encode()) % mark.args[0] == 0
