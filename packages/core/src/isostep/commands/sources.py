"""The texts that a traced rule has: for ``isostep show RULE --source``.

A package that generates source from programs offers ``show(program, dtype) -> str`` under the entry point group
``isostep.sources``, named after the language; of programs that are not fused one that gives None where it has no text
either, under ``isostep.sources.passes``. Printing needs no compiler and no device.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from isostep.commands.common import UsageError
from isostep.extras import brought
from isostep.lower.layout import layout
from isostep.program import Program

#: The entry point group of generated texts, by language.
GROUP = "isostep.sources"
#: The same, of rules that are not fused but done in passes.
PASSES = f"{GROUP}.passes"


def names() -> list[str]:
    """The program itself, and what installed packages generate from it."""
    return ["program", *sorted({e.name for e in entry_points(group=GROUP)})]


def text(kind: str, program: Program, dtype: str) -> str:
    """One of these texts; a rule that has no kernels has only its program."""
    if kind == "program":
        return str(program)
    if kind not in names():
        message = f"--source must be one of {', '.join(names())}, got {kind!r}{brought(kind)}"
        raise UsageError(message)
    why = layout(program, dtype).obstacle
    found = _shown(PASSES if why else GROUP, kind, program, dtype)
    if found is None:
        message = f"{program.name} has no fused kernel: {why}; see --source program"
        raise UsageError(message)
    return found


def _shown(group: str, kind: str, program: Program, dtype: str) -> str | None:
    made = next((e.load() for e in entry_points(group=group) if e.name == kind), None)
    return None if made is None else made(program, dtype)
