"""A folder as a registry: each module in it declares one thing of the module's own name.

A file anywhere else declares such a thing too, and is known by its path, which ends in ``.py``: a rule of one's own is
shown, trained with and proved before it has a place in somebody's package.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any, Generic, TypeVar

from isostep.rule import Part, RuleError

P = TypeVar("P", bound=Part)

#: How the path of a file ends, and no name.
FILE = ".py"
#: Held while a file is executed, which another thread must not find half done; files may name other files.
_LOADING = RLock()


def module_of(file: str) -> ModuleType:
    """The module that a file is, made once in a process; it goes by its whole path, which no other module has."""
    # A link goes by its own name, which its target may not have.
    path = Path(file).parent.resolve() / Path(file).name
    with _LOADING:
        return sys.modules.get(str(path)) or _executed(file, path)


def _executed(file: str, path: Path) -> ModuleType:
    """The module that is made of a file now; nobody finds it if the file cannot be executed."""
    if not path.is_file():
        message = f"there is no file {file}; pass a rule's name or the path of its file"
        raise RuleError(message)
    spec = importlib.util.spec_from_file_location(str(path), path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[str(path)] = importlib.util.module_from_spec(spec)
    try:
        with _importing(file):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[str(path)]
        raise
    return module


@contextmanager
def _importing(file: str) -> Iterator[None]:
    """A file is its author's, and may do anything wrong: it is told in one line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        message = f"{file} cannot be imported: {type(error).__name__}: {error}; mend the file"
        raise RuleError(message) from error


class Folder(Generic[P]):
    """The declarations in a package's modules, found by looking, imported when asked for."""

    def __init__(self, package: str, attribute: str, kind: str) -> None:
        self._package, self._attribute, self._kind = package, attribute, kind

    def names(self) -> list[str]:
        """The known names, sorted. Looks at the folder each time: a new file is there at once."""
        package = importlib.import_module(self._package)
        return sorted(
            m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")
        )

    def named(self, name: str) -> tuple[P, Mapping[str, Any]]:
        """The declaration of this name and no setting, or the one that knows a setting by it, with that setting."""
        known = self.names()
        if name not in known:
            for part in self.sound():
                if name in part.known_as:
                    return part, part.known_as[name]
        return self[name], {}

    def sound(self) -> list[P]:
        """The declarations of all files that have one: a file half written must not stand in the way of others."""
        found = []
        for name in self.names():
            with suppress(RuleError):
                found.append(self[name])
        return found

    def place(self, part: Part) -> str | None:
        """By what name or path the registry has this very declaration; None if it has not."""
        if part.name in self.names() and self[part.name] is part:
            return part.name
        for name, module in list(sys.modules.items()):
            if name.endswith(FILE) and getattr(module, self._attribute, None) is part:
                return name
        return None

    def __getitem__(self, name: str) -> P:
        if str(name).endswith(FILE):
            return self._declared(name, Path(name).stem, module_of(name))
        known = self.names()
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ";"
            message = f"unknown {self._kind} {name!r}{hint} known: {', '.join(known)}"
            raise RuleError(message)
        file = f"{self._package}.{name}"
        with _importing(file):
            module = importlib.import_module(file)
        return self._declared(file, name, module)

    def _declared(self, file: str, name: str, module: ModuleType) -> P:
        """What a file declares, which has to be of the file's own name."""
        found = getattr(module, self._attribute, None)
        if not isinstance(found, Part):
            got = "nothing of that name" if found is None else type(found).__name__
            message = f"{file} must declare {self._attribute} = {self._kind.title()}(name={name!r}, ...), got {got}"
            raise RuleError(message)
        if found.name != name:
            message = (
                f"{file} must declare {self._attribute} with name={name!r}, got name={found.name!r}"
            )
            raise RuleError(message)
        return found  # type: ignore[return-value]


def constructor(part: Any) -> Callable[..., Any]:
    """``isostep.pieces.NAME`` and the like: binds a part's hyperparameters, by position or by name."""

    def construct(*args: Any, **hyper: Any) -> Any:
        if len(args) > len(part.hyper):
            message = f"{part.name} takes {', '.join(part.hyper) or 'no arguments'}; got {len(args)} by position"
            raise RuleError(message)
        return part.bind(**dict(zip(part.hyper, args, strict=False)), **hyper)

    construct.__name__ = construct.__qualname__ = part.name
    construct.__doc__ = part.doc
    construct.__signature__ = part.signature  # type: ignore[attr-defined]
    return construct
