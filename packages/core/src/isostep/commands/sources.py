"""The texts that a traced rule has: for ``isostep show RULE --source``.

A package that generates source from programs offers ``show(program, dtype) -> str`` under the entry point group
``isostep.sources``, named after the language. Printing needs no compiler and no device.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from isostep.commands.common import UsageError
from isostep.extras import brought
from isostep.lower.layout import layout
from isostep.program import Program

#: The entry point group of generated texts, by language.
GROUP = "isostep.sources"


def names() -> list[str]:
    """The program itself, and what installed packages generate from it."""
    return ["program", *sorted({e.name for e in entry_points(group=GROUP)})]


def text(kind: str, program: Program, dtype: str) -> str:
    """One of these texts; a rule that is not fused has only its program."""
    if kind == "program":
        return str(program)
    if kind not in names():
        message = f"--source must be one of {', '.join(names())}, got {kind!r}{brought(kind)}"
        raise UsageError(message)
    obstacle = layout(program, dtype).obstacle
    if obstacle:
        message = f"{program.name} has no fused kernel: {obstacle}; see --source program"
        raise UsageError(message)
    found = next(e for e in entry_points(group=GROUP) if e.name == kind)
    return str(found.load()(program, dtype))
