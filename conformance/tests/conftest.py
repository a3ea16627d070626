from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).parent)
)  # strict_backend and wrong_rules are modules of these tests


def pytest_isostep_paths() -> dict[str, Callable[[], Any]]:
    """array_api_strict is no entry point of any package: it is offered to the suite here."""
    from strict_backend import Strict

    return {"array_api_strict": Strict}
