"""Optional packages: imported where they are needed, and asked for by the command that installs them."""

from __future__ import annotations

import importlib
from typing import Any


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
