"""What an optimizer keeps from step to step, and how it sees at a glance that nobody has touched it since.

A step over a thousand small tensors may not cost lines of Python for each of them: lists are compared as lists, by
identity, and the count of a step is one tensor for all parameters that share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_, itemgetter
from typing import Any

import torch

from isostep.state import State
from isostep.storage import Storage


def same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two lists hold the very same objects."""
    return len(a) == len(b) and all(map(is_, a, b))


class Entries:
    """Which entries ``optimizer.state`` had at the last look."""

    def __init__(self, state: Mapping[Any, Any]) -> None:
        self.keys, self.values = list(state), list(state.values())

    def unchanged(self, state: Mapping[Any, Any]) -> bool:
        return same(list(state), self.keys) and same(list(state.values()), self.values)


@dataclass
class Kept:
    """A group's state as backends take it, as long as parameters and ``optimizer.state`` are what the step left."""

    params: list[Any]
    owns: list[dict[str, Any]]  # the parameters' entries in ``optimizer.state``
    state: State
    names: tuple[str, ...]
    plain: bool
    backend: Any
    ways: tuple[Any, ...]  # the group's options that chose the backend
    #: how the tensors are stored, if the backend's kernels may load and store that
    storage: Storage | None = None
    opened_plan: Any = None  # the backend's own notes of steps whose tensors were opened
    #: name -> the entries that have it, and what they hold
    columns: dict[str, tuple[list[dict[str, Any]], list[Any]]] = field(init=False)
    counted: list[tuple[torch.Tensor, int]] | None = None  # each count, with one of its parameters

    def __post_init__(self) -> None:
        arrays, beside = self.state.arrays, {n for own in self.state.arrays for n in own}
        self.columns = {"step": (self.owns, [own["step"] for own in self.owns])}
        for n in sorted({*self.names} | beside):
            having = [i for i, own in enumerate(arrays) if n in own]
            self.columns[n] = [self.owns[i] for i in having], [arrays[i][n] for i in having]

    def unchanged(self, params: Sequence[Any], names: tuple[str, ...]) -> bool:
        """Whether these are still the parameters, and their entries hold what they did."""
        if names != self.names or not same(params, self.params):
            return False
        try:
            return all(
                all(map(is_, map(itemgetter(n), owns), column))
                for n, (owns, column) in self.columns.items()
            )
        except KeyError:
            return False

    def publish_counts(self, grads: Sequence[Any], steps: dict[Any, torch.Tensor]) -> None:
        """Write the counts where users and state dicts look for them; ``steps`` are the optimizer's own by parameter.

        A count is written in place once every parameter has one that was made here.
        """
        everywhere = type(None) not in set(map(type, grads))
        if everywhere and self.counted is not None:
            for count, i in self.counted:
                count.fill_(self.state.t[i])
            return
        made = {t: torch.tensor(float(t)) for t in set(self.state.t)}
        column = self.columns["step"][1]
        for i, (p, g, t) in enumerate(zip(self.params, grads, self.state.t, strict=True)):
            if g is not None:
                self.owns[i]["step"] = column[i] = steps[p] = made[t]
        first = {t: i for i, t in reversed(list(enumerate(self.state.t)))}
        self.counted = [(made[t], i) for t, i in first.items()] if everywhere else None
