"""``optimizer.state``, which notices when somebody writes to it.

A step over a thousand small tensors may not look each one's state up again: that alone would cost as much as the
kernel. So ``optimizer.state`` and its entries are dicts that count what is written to them. Nothing is different for
their users; copies, pickles and state dicts hold ordinary dicts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

#: What changes a dict.
WRITERS = (
    "__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update",
)  # fmt: skip


class Writes:
    """How often the entries of one optimizer were written to."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


def _counting(name: str) -> Callable[..., Any]:
    write = getattr(dict, name)

    def counted(self: Any, *given: Any, **named: Any) -> Any:
        self.writes.count += 1
        return write(self, *given, **named)

    return counted


class Entry(dict[str, Any]):
    """A parameter's entry."""

    __slots__ = ("writes",)
    writes: Writes

    def __init__(self, own: dict[str, Any], writes: Writes) -> None:
        super().__init__(own)
        self.writes = writes

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class Entries(defaultdict[Any, Any]):
    """``optimizer.state``: an ``Entry`` for each parameter."""

    def __init__(self, state: dict[Any, Any]) -> None:
        super().__init__(dict)
        self.writes = Writes()
        self.update(state)

    def __reduce__(self) -> tuple[Any, ...]:
        return defaultdict, (dict,), None, None, iter(self.items())

    def _own(self, value: Any) -> Any:
        own = isinstance(value, Entry) and value.writes is self.writes
        return Entry(value, self.writes) if isinstance(value, dict) and not own else value

    def __missing__(self, key: Any) -> Any:
        self[key] = {}
        return self[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.writes.count += 1
        super().__setitem__(key, self._own(value))

    def setdefault(self, key: Any, value: Any = None) -> Any:
        if key not in self:
            self[key] = value
        return self[key]

    def update(self, *given: Any, **named: Any) -> None:
        for key, value in dict(*given, **named).items():
            self[key] = value

    def __ior__(self, other: Any) -> Entries:
        self.update(other)
        return self

    def copy(self) -> Any:
        return defaultdict(dict, self)

    __copy__ = copy

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()


for _name in WRITERS:
    setattr(Entry, _name, _counting(_name))
for _name in ("__delitem__", "clear", "pop", "popitem"):
    setattr(Entries, _name, _counting(_name))
