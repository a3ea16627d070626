"""Optional packages: imported where they are needed, and asked for by the command that installs them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

#: What pip installs for a backend or a language that is not there.
BROUGHT_BY = {
    "numba": "'isostep[fused]'",
    "torch": "isostep-torch",
    "triton": "isostep-torch",
    "jax": "isostep-jax",
    "cupy": "isostep-cupy",
    "cuda": "isostep-cupy",
}
#: What it installs for a package that is not there, although the backend that asks for it is.
PACKAGES = {"numba": "'isostep[fused]'", "triton": "triton"}


def brought(name: str, by: Mapping[str, str] = BROUGHT_BY) -> str:
    """How to get what is not installed, as the end of an error; empty if this project does not know."""
    package = by.get(name.partition(":")[0])
    return f"; pip install {package}" if package else ""


class MissingExtra(ImportError):
    """A package that core does not depend on is needed and not installed; the text says how to get it."""


def need(module: str, extra: str, what: str) -> Any:
    """The module, or ``MissingExtra`` naming the install command.

    Args:
        module: what to import, such as ``"matplotlib.pyplot"``.
        extra: isostep's extra that brings it.
        what: what needs it, as the error's first word.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise  # it is installed, and broken: that error says more
        message = f"{what} needs the package {top!r}; pip install 'isostep[{extra}]'"
        raise MissingExtra(message) from None
