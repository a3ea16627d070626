"""What an optimizer keeps from step to step, and how it sees at a glance that nobody has touched it since.

A step over a thousand small tensors may not cost lines of Python for each of them: entries are looked up only when
somebody has written to one (``isostep_torch.entries``), and the counts of steps are the elements of one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import is_, itemgetter
from typing import Any

import numpy as np
import torch

from isostep.lower.plan import same
from isostep.state import State
from isostep.storage import PLAIN, Storage
from isostep_torch.addresses import finder, in_python
from isostep_torch.entries import Entries
from isostep_torch.storage import local


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
    #: how the tensors are stored, if they may be stepped as they are
    storage: Storage | None = None
    #: how the options have them stored
    how: Storage = PLAIN
    mixed: bool = False  # whether there were gradients of other dtypes than their parameters
    opened_plan: Any = None  # the backend's own notes of steps whose tensors were opened
    #: name -> the entries that have it, and what they hold
    columns: dict[str, tuple[list[dict[str, Any]], list[Any]]] = field(init=False)
    #: how often entries had been written to when they were last looked at
    looked_at: int | None = None
    counts: torch.Tensor | None = (
        None  # of steps: the entries of the columns "step" are its elements
    )
    written: np.ndarray | None = None  # what they were when they were last written
    #: whether the counts lie in memory of several processes, each of which advances them
    shared: bool = False
    _numbers: np.ndarray = field(default_factory=lambda: np.empty(0))
    #: what finds the counts, and where they lay when they were last written
    _find: Callable[[], np.ndarray] | None = None
    _places: bytes = b""

    def __post_init__(self) -> None:
        self.dtypes = [p.dtype for p in self.params]
        arrays, beside = self.state.arrays, {n for own in self.state.arrays for n in own}
        self.columns = {"step": (self.owns, [own["step"] for own in self.owns])}
        for n in sorted({*self.names} | beside):
            having = [i for i, own in enumerate(arrays) if n in own]
            self.columns[n] = [self.owns[i] for i in having], [self.owns[i][n] for i in having]

    def unchanged(self, params: Sequence[Any], names: tuple[str, ...], entries: Entries) -> bool:
        """Whether these are still the parameters, and their entries hold what they did."""
        if names != self.names or not same(params, self.params):
            return False
        if not self.plain and [p.dtype for p in params] != self.dtypes:
            return False  # what is kept beside a parameter depends on its dtype
        if self.looked_at != entries.writes.count:
            try:
                found = same(list(map(entries.get, params)), self.owns) and all(
                    all(map(is_, map(itemgetter(n), owns), column))
                    for n, (owns, column) in self.columns.items()
                )
            except KeyError:
                return False
            self.looked_at = entries.writes.count if found else None
        return self.looked_at is not None

    def shares(self, found: Any) -> bool:
        """Whether ``found``, what the group shares, is what the last step has left there."""
        group, t = self.state.group, self.state.group_t
        if not group:
            return True
        known = found if isinstance(found, dict) else {}
        step = known.get("step")
        same_step = step is t or (type(t) is int and step == t)
        return same_step and all(known.get(n) is v for n, v in group.items())

    def holds_shards(self) -> bool:
        """Whether what is stepped of distributed state is still what lies here of it."""
        pairs = zip(self.owns, self.state.arrays, strict=True)
        return all(local(own[n]) is a for own, arrays in pairs for n, a in arrays.items())

    def read_counts(self) -> None:
        """Take the counts as they are in ``optimizer.state``, if somebody has changed them there."""
        if self.shared:
            self.state.t[:] = [int(count) for count in self.columns["step"][1]]
        if self.written is None:  # none yet, or fakes without values
            return
        column = self.columns["step"][1]
        moved = self._find is None or self._find().tobytes() != self._places  # ``step.data = ...``
        if moved or self._numbers.tobytes() != self.written.tobytes():
            self.state.t[:] = [int(count) for count in column]
            self.counts = self.written = None

    def publish_counts(self) -> None:
        """Write the counts where users and state dicts look for them, each parameter having one of its own."""
        t, column = self.state.t, self.columns["step"][1]
        if self.counts is None and not self.shared:
            self.shared = any(count.is_shared() for count in column if count.is_cpu)
        if self.shared:
            for count, number in zip(column, t, strict=True):
                count.fill_(number)
        elif self.counts is None:
            self.counts = torch.tensor(t, dtype=torch.float32, device="cpu")
            for i, (own, count) in enumerate(zip(self.owns, self.counts.unbind(), strict=True)):
                own["step"] = column[i] = count
            self.written = None
            if type(self.counts) is torch.Tensor:
                # Their memory as NumPy sees it, to which a number is written in fewer steps than through torch.
                self._numbers = self.counts.numpy()
                self.written = self._numbers.copy()
                self._find = finder(column) or partial(in_python, column)
                self._places = self._find().tobytes()
        elif self.written is None:
            self.counts.copy_(torch.tensor(t, dtype=torch.float32, device="cpu"))
        else:
            self._numbers[:] = self.written[:] = t[0] if t.count(t[0]) == len(t) else t
