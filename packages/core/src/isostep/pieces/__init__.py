"""Pieces: changes of a gradient, an update or a parameter, to be composed with a rule.

The folder is the registry: each file declares one ``PIECE``, and ``isostep.pieces.NAME(...)`` binds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from isostep.registry import Folder, constructor
from isostep.rule import BoundPiece, Piece

registry: Folder[Piece] = Folder(__name__, "PIECE", "piece")


if TYPE_CHECKING:  # the names are known only when the folder is read

    def __getattr__(name: str) -> Callable[..., BoundPiece]: ...


# At once rather than on demand: importing a submodule sets the module itself as the package's attribute.
for _name in registry.names():
    globals()[_name] = constructor(registry[_name])
