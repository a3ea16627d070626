"""Backends by name, found through entry points.

A package offers a backend under the entry point group ``isostep.backends``: either a ``Family`` (several paths,
best first) or any callable that returns a backend. ``backend("torch")`` is the best path of that family which
runs here, ``backend("torch:loop")`` exactly that path or an error that says why not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

import numpy as np

from isostep.extras import PACKAGES, brought
from isostep.rule import BoundRule
from isostep.state import State

GROUP = "isostep.backends"


class BackendError(LookupError):
    """A backend that is unknown or cannot run here; the text says which ones can."""


class Unavailable(RuntimeError):
    """Raised by a path's factory when this machine lacks what it needs; the text says what."""


@runtime_checkable
class Backend(Protocol):
    """What a backend has to offer. ``isostep.ArrayBackend`` implements it for any array-API library."""

    name: str
    dtypes: tuple[str, ...]
    in_place: bool

    def asarray(self, array: np.ndarray, /) -> Any:
        """A framework array with the values of a NumPy array."""

    def to_numpy(self, array: Any, /) -> np.ndarray:
        """A NumPy copy of a framework array."""

    def init(self, rule: BoundRule, params: Any, /) -> State:
        """The state before the first step."""

    def step(
        self, rule: BoundRule, params: Any, grads: Any, state: State, /, **inputs: Any
    ) -> tuple[Any, State]:
        """Parameters and state after one step."""


@dataclass(frozen=True)
class Family:
    """The paths of one framework, best first: name -> factory. ``gaps`` are what a path does not do (support.py).

    ``by_name`` are paths that only run when they are named: for tests, never somebody's best path.
    """

    name: str
    paths: Mapping[str, Callable[[], Any]]
    needs: Mapping[str, str] = field(default_factory=dict)
    gaps: Callable[[], list[Any]] = list
    by_name: tuple[str, ...] = ()

    def make(self, path: str) -> Any:
        """The backend of one path; ``Unavailable`` if it cannot run here, ``BackendError`` if it fails to be made."""
        module = self.needs.get(path)
        if module is not None and importlib.util.find_spec(module) is None:
            how = brought(module, PACKAGES)
            message = (
                f"{self.name}:{path} needs the package {module!r}, which is not installed{how}"
            )
            raise Unavailable(message)
        try:
            return self.paths[path]()
        except Unavailable:
            raise
        except Exception as error:  # a package is its author's, and may do anything wrong
            message = f"{self.name}:{path} cannot be made: {type(error).__name__}: {error}; mend that package"
            raise BackendError(message) from error


def families() -> dict[str, Callable[[], Any]]:
    """The installed backend families: name -> a function that loads it."""
    return {e.name: e.load for e in sorted(entry_points(group=GROUP), key=lambda e: e.name)}


def family(name: str) -> Family:
    """A family by name; a bare factory becomes a family of one path, ``default``."""
    known = families()
    if name not in known:
        message = (
            f"unknown backend {name!r}; installed: {', '.join(known) or 'none'}{brought(name)}"
        )
        raise BackendError(message)
    try:
        found = known[name]()
    except Exception as error:
        message = (
            f"backend {name!r} is installed but cannot be loaded: {type(error).__name__}: {error}"
        )
        raise BackendError(message) from error
    return found if isinstance(found, Family) else Family(name, {"default": found})


def backend(name: str) -> Any:
    """A backend by name, ``"torch"`` for the best path that runs here or ``"torch:loop"`` for exactly one.

    Raises:
        BackendError: the name is unknown, or the path cannot run here (the text says why).
    """
    first, _, path = str(name).partition(":")
    found = family(first)
    if path:
        if path not in found.paths:
            message = f"{first} has no path {path!r}; it has {', '.join(found.paths)}"
            raise BackendError(message)
        try:
            return found.make(path)
        except Unavailable as error:
            raise BackendError(str(error)) from None
    reasons = []
    for each in (p for p in found.paths if p not in found.by_name):
        try:
            return found.make(each)
        except Unavailable as error:
            reasons.append(str(error))
    message = f"no path of {first!r} runs here: {'; '.join(reasons)}"
    raise BackendError(message)


def all_paths() -> dict[str, Callable[[], Any]]:
    """Every path of every installed family, ``"torch:loop"`` -> a function that makes it."""
    return {
        name if path == "default" else f"{name}:{path}": lambda f=found, p=path: f.make(p)  # type: ignore[misc]
        for name in families()
        for found in [family(name)]
        for path in found.paths
    }
