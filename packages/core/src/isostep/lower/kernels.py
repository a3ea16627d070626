"""Compiled kernels: source files in a cache folder, imported and compiled once, kept between runs."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

from isostep.lower.cache import module
from isostep.lower.numba_source import ARGUMENTS, source
from isostep.lower.objects import Function, functions
from isostep.program import Program
from isostep.storage import PLAIN, Storage

_LOCK = threading.Lock()
_LOADED: dict[tuple[int, str, Storage], tuple[Program, list[Function]]] = {}

#: what generated text is built from: a part of what is compiled
SUPPORT = Path(__file__).with_name("numba_support.py")


def kernels(program: Program, dtype: str, storage: Storage = PLAIN) -> list[Function]:
    """A program's compiled passes for arrays of ``dtype``, stage by stage."""
    key = (id(program), dtype, storage)
    with _LOCK:
        found = _LOADED.get(key)
        if found is None:  # the program is kept too, so that its id stays its own
            text, support = source(program, dtype, storage), SUPPORT.read_text()
            make = partial(module, "kernel", program.name, text, support)
            stages = [f"stage{k}" for k in range(program.stages)]
            passes = functions(program.name, text + support, stages, len(ARGUMENTS), make)
            found = _LOADED[key] = (program, passes)
        return found[1]
