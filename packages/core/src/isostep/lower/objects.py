"""Compiled functions kept between runs as object code, and loaded without Numba.

Importing Numba and setting it up takes 0.7 s of a process, most of it for what a compiled kernel does not need. So
Numba is imported to compile; its object code goes to the cache folder, and llvmlite links it into this process,
which takes some ten milliseconds. A function that is kept takes whole numbers (addresses, counts) and returns nothing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from ctypes import CFUNCTYPE, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from llvmlite import binding

from isostep.lower.cache import kept


@dataclass(frozen=True)
class Function:
    """A function of whole numbers that lies at ``address``; what is called is ``call``."""

    address: int
    call: Callable[..., Any]

    def __call__(self, *arguments: int) -> None:
        self.call(*arguments)


_ENGINES: list[Any] = []  # own the code
_NAMES = "outside"  # the file's entry with the names that its code takes from the process


@cache
def machine() -> str:
    """What object code depends on beside its source: who compiles it, how, and for which processor."""
    versions = [f"{n} {importlib.metadata.version(n)}" for n in ("numba", "llvmlite")]
    options = sorted(f"{n}={v}" for n, v in os.environ.items() if n.startswith("NUMBA_"))
    features = sorted(n for n, has in binding.get_host_cpu_features().items() if has)
    target = (binding.get_process_triple(), binding.get_host_cpu_name())
    return "\n".join((*versions, *options, *target, *features))


def functions(
    name: str, text: str, names: Sequence[str], arguments: int, module: Callable[[], ModuleType]
) -> list[Function]:
    """A module's functions of these names, each called with so many integers; the GIL is released meanwhile.

    ``text`` is all that they are made from, ``module()`` the module, which is asked for only if they are not kept yet.
    Its functions are declared with ``numba_support.KERNEL``.
    """
    digest = hashlib.sha256(f"{text}\n{machine()}".encode()).hexdigest()[:16]
    stem = "".join(c if c.isalnum() else "_" for c in name)[:60]
    file = f"{stem}_{digest}.zip"
    return _load(
        kept("object", file, lambda path: _compile(path, module(), names), _whole), arguments
    )


def _whole(path: Path) -> bool:
    """Whether a file is all there: its entries' check sums are right."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (zipfile.BadZipFile, RuntimeError):  # the latter: of what a spoiled header asks for
        return False


def _compile(path: Path, module: ModuleType, names: Sequence[str]) -> None:
    """Numba's own object code of each function, by its symbol and in this order."""
    outside: set[str] = set()
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            (made,) = getattr(module, name).overloads.values()
            code, _ = made.library.serialize_using_object_code()[-1]
            file.writestr(made.fndesc.llvm_func_name, code)
            declared = re.findall(
                r'^declare [^@\n]*@"?([^"(\n]+)', made.library.get_llvm_str(), re.MULTILINE
            )
            outside |= {n for n in declared if not n.startswith("llvm.")}
        file.writestr(_NAMES, "\n".join(sorted(outside)))


def _load(path: Path, arguments: int) -> list[Function]:
    with zipfile.ZipFile(path) as file:
        entries = {n: file.read(n) for n in file.namelist()}
    outside = entries.pop(_NAMES).decode().split()
    engine = _engine("")
    if any(binding.address_of_symbol(n) is None for n in outside):
        _with_numbas_own()
    for code in entries.values():
        engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    # Numba's convention: where to put a result and where an exception, of which there are none, then the arguments.
    made = CFUNCTYPE(None, c_void_p, c_void_p, *[c_int64] * arguments)
    places = [(c_int64 * 1)() for _ in range(2)]
    found = map(engine.get_function_address, entries)
    return [Function(at, partial(made(at), *places)) for at in found]


def compiled(text: str, name: str) -> int:
    """The address of a function of a module of LLVM's language."""
    engine = _engine(text)
    engine.finalize_object()
    found: int = engine.get_function_address(name)
    return found


def _engine(text: str) -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(text), target)
    _ENGINES.append(engine)
    return engine


def _with_numbas_own() -> None:
    """Functions that are not the C library's (Intel's vector functions) are there once Numba is set up."""
    from numba.core.registry import cpu_target

    _ = cpu_target.target_context
