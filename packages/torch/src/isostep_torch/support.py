"""What the torch paths do not do, as data: see ``isostep_conformance.gaps``."""

from __future__ import annotations

from typing import Any


def gaps() -> list[Any]:
    """No gaps: every rule runs on ``torch:loop`` in every dtype."""
    return []
