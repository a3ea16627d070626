"""Pieces: changes of a gradient, an update or a parameter, to be composed with a rule.

The folder is the registry: each file declares one ``PIECE``, and ``isostep.pieces.NAME(...)`` binds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from isostep.registry import Folder
from isostep.rule import BoundPiece, Piece, RuleError

registry: Folder[Piece] = Folder(__name__, "PIECE", "piece")


def _constructor(piece: Piece) -> Callable[..., BoundPiece]:
    """``isostep.pieces.NAME``: binds the piece's hyperparameters, by position or by name."""

    def construct(*args: Any, **hyper: Any) -> BoundPiece:
        if len(args) > len(piece.hyper):
            message = f"{piece.name} takes {', '.join(piece.hyper) or 'no arguments'}; got {len(args)} by position"
            raise RuleError(message)
        return piece.bind(**dict(zip(piece.hyper, args, strict=False)), **hyper)

    construct.__name__ = construct.__qualname__ = piece.name
    construct.__doc__ = piece.doc
    construct.__signature__ = piece.signature  # type: ignore[attr-defined]
    return construct


if TYPE_CHECKING:  # the names are known only when the folder is read

    def __getattr__(name: str) -> Callable[..., BoundPiece]: ...


# At once rather than on demand: importing a submodule sets the module itself as the package's attribute.
for _name in registry.names():
    globals()[_name] = _constructor(registry[_name])
