"""The pair that a transformation is, for optax, for pickle and for whoever unpacks it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple


class _Pair(NamedTuple):
    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]


class Transform(_Pair):
    """The pair ``init``, ``update``, which is optax's GradientTransformationExtraArgs to whoever asks ``isinstance``.

    ``optax.chain`` hands extra inputs to that type only; optax may be loaded after the pair was made, or never.
    ``init`` makes the whole pair, by its method ``pair``.
    """

    __slots__ = ()

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        library = sys.modules.get("optax")
        return getattr(library, "GradientTransformationExtraArgs", Transform)

    def __reduce__(self) -> Any:
        # By itself pickle would make optax's type, and of ``update``, a closure, nothing. What ``init`` knows is data.
        return _pair_of, (self.init,)


def _pair_of(init: Any) -> Transform:
    made: Transform = init.pair()
    return made
