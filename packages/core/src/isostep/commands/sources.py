"""The texts that a traced rule has: for ``isostep show RULE --source``."""

from __future__ import annotations

from collections.abc import Callable

from isostep.commands.common import UsageError
from isostep.program import Program


def _numba(program: Program, dtype: str) -> str:
    from isostep.lower.layout import Layout
    from isostep.lower.numba_source import source

    obstacle = Layout(program, dtype).obstacle
    if obstacle:
        message = f"{program.name} has no fused kernel: {obstacle}; see --source program"
        raise UsageError(message)
    return source(program, dtype)


#: name -> (program, dtype) -> text.
SOURCES: dict[str, Callable[[Program, str], str]] = {
    "program": lambda program, dtype: str(program),
    "numba": _numba,
}
