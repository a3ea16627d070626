"""What of a fused step stays the same from step to step: arrays by program and dtype, and where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import numpy as np

from isostep.lower.bins import Bin
from isostep.lower.overlap import Written, spread

if TYPE_CHECKING:
    from isostep.lower.fused import FusedBackend


def same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two lists hold the very same objects."""
    return len(a) == len(b) and all(map(is_, a, b))


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two vectors of whole numbers are the same: ``np.array_equal`` without its lines of Python."""
    return a.tobytes() == b.tobytes()


def at(places: Sequence[int], values: list[Any]) -> list[Any]:
    """The values at these places, which ascend: all of them, most of the time, and then the list itself."""
    return values if len(places) == len(values) else [values[i] for i in places]


class Looks(NamedTuple):
    """Of some arrays: a number each of all that a plan depends on, and where their elements lie; both int64."""

    numbers: np.ndarray
    addresses: np.ndarray

    def of(self, places: Sequence[int], among: Sequence[int], turn: int) -> np.ndarray:
        """The addresses of some, where there are several turns of arrays, each with one ``among`` all others."""
        own = self.addresses[turn * len(among) : (turn + 1) * len(among)]
        return own if len(places) == len(among) else own[np.searchsorted(among, places)]


class Slot:
    """The arrays of one name in a bin: where they lie, and contiguous stand-ins for those that are strided."""

    def __init__(self, arrays: list[Any], backend: FusedBackend | None) -> None:
        self.arrays, self.backend, self.used = arrays, backend, list(arrays)
        self.strided: list[int] = []
        self.places: np.ndarray | None = None  # of ``arrays``, where arrays may move
        self.find: Callable[[], np.ndarray] | None = None  # and what finds them again
        if backend is not None:
            self.strided = backend.strided(arrays)
            for i in self.strided:
                self.used[i] = backend.stand_in(arrays[i])
        self.copied = bool(self.strided)

    def fetch(self) -> None:
        for i in self.strided:
            self.used[i][...] = self.arrays[i]

    def store(self) -> None:
        for i in self.strided:
            self.arrays[i][...] = self.used[i]


@dataclass(eq=False)
class Part:
    """A bin with its arrays: slot k of the pointer table holds ``slots[k]``."""

    bin: Bin
    members: list[int]
    slots: list[Slot]
    table: np.ndarray
    axes: dict[int, Sequence[int]] = field(default_factory=dict)  # see ``in_memory``
    written: Written | None = None  # where the arrays lie that are written, as long as they stay

    def in_memory(self, name: str, arrays: list[Any], backend: FusedBackend) -> list[Any]:
        """The arrays with their axes in the order in which the parameter's lie in memory, where that is another.

        A kernel that knows no units and adds no noise takes elements in any order, if only it is one for all arrays of
        a parameter: those of a convolution in torch's ``channels_last``, or of a transposed matrix, need not be copied.
        """
        if name == "p" and not self.bin.ordered:
            self.axes = {}
            for i in backend.strided(arrays):
                strides = backend.strides(arrays[i])
                axes = sorted(range(len(strides)), key=lambda a: -strides[a])
                if backend.addressable(backend.turned(arrays[i], axes)):
                    self.axes[i] = axes
        found = list(arrays)
        for i, order in self.axes.items():
            if len(backend.strides(arrays[i])) == len(order):  # else it is about to be refused
                found[i] = backend.turned(arrays[i], order)
        return found

    def place(
        self,
        name: str,
        arrays: list[Any],
        backend: FusedBackend,
        known: bool,
        there: np.ndarray | None = None,
    ) -> bool:
        """Put arrays into a slot; whether any lies elsewhere than before. ``known``: they are the last step's.

        ``there``: the addresses of arrays that look like the last step's.
        """
        k = self.bin.layout.slots.index(name)
        moved = self._place(k, name, arrays, backend, known, there)
        if moved and name in self.bin.layout.written:
            self.written = None
        return moved

    def _place(
        self,
        k: int,
        name: str,
        arrays: list[Any],
        backend: FusedBackend,
        known: bool,
        there: np.ndarray | None,
    ) -> bool:
        slot, now, find = self.slots[k], None, None
        if there is not None and not slot.copied:
            return self._write(k, there)
        if not backend.stays_put:
            find = slot.find if known else backend.finder(arrays)
            now = backend.places(arrays) if find is None else find()
            if known and slot.places is not None and equal(now, slot.places):
                return False
        elif known:
            return False
        # What lies there now lies otherwise than the last step's, if at the same address: in another dtype, it may be.
        turned = known and slot.places is not None
        slot = self.slots[k] = Slot(self.in_memory(name, arrays, backend), backend)
        slot.places, slot.find = now, find
        own = backend.addresses(slot.used) if now is None or slot.strided else now[0]
        return self._write(k, own) or turned

    def _write(self, k: int, addresses: np.ndarray) -> bool:
        moved = not equal(addresses, self.table[:, k])
        if moved:
            self.table[:, k] = addresses
        return moved

    def stayed(self, backend: FusedBackend) -> bool:
        """Whether all but gradients lie where they did. The arrays are those of the last step."""
        for k, name in enumerate(self.bin.layout.slots):
            slot = self.slots[k]
            if name == "g" or name not in self.bin.layout.filled:
                continue
            now = backend.places(slot.arrays) if slot.find is None else slot.find()
            if slot.places is None or not equal(now, slot.places):
                return False
        return True

    def take(self, gradients: np.ndarray) -> bool:
        """Put the addresses of gradients, which look like the last step's, into their slot; whether any moved."""
        return self._write(self.bin.layout.slots.index("g"), gradients)

    def shares_memory(self, backend: FusedBackend) -> bool:
        written = [k for k, n in enumerate(self.bin.layout.slots) if n in self.bin.layout.written]
        read = [k for k in range(len(self.slots)) if k not in written]
        pick = lambda ks: (self.table[:, ks].ravel(), self.bin.bytes[:, ks].ravel())  # noqa: E731
        if self.written is None:
            slots = [self.slots[k] for k in written]
            others = [s.arrays[i] for s in slots for i in s.strided]
            spreads = map(spread, others, backend.addresses(others).tolist())
            self.written = Written(*pick(written), [*spreads])
        return self.written.overlap or self.written.meets(*pick(read))


@dataclass(eq=False)
class Plan:
    """What stays the same from step to step; a state keeps some by a key that says when it does."""

    params: list[np.ndarray]
    states: dict[str, list[np.ndarray]]
    shapes: list[Any]  # and dtypes, of the parameters that are stepped
    parts: list[Part]
    group_dtype: np.dtype
    given: list[ref[Any]] = field(default_factory=list)
    looks: np.ndarray | None = None  # of gradients and inputs, in place of ``given``
    counts: list[int] = field(default_factory=list)  # of steps, this one included, each once
    runner: Any = None  # what ``launch`` has made for these arrays and wants to keep
    seen: list[Callable[[], Any]] = field(
        default_factory=list
    )  # a part's sums, of an observed rule
    kind: Any = None  # of the last step, if it was a usual one; see ``Plans``

    def has_states(self, states: list[dict[str, Any]]) -> bool:
        """Whether these are the very state arrays that it was made for, and no others."""
        try:
            return sum(map(len, states)) == len(self.states) * len(states) and all(
                all(map(is_, map(itemgetter(n), states), own)) for n, own in self.states.items()
            )
        except KeyError:
            return False

    def was_given(self, arrays: list[Any]) -> bool:
        """Whether the last step had these very gradients and inputs."""
        return len(self.given) == len(arrays) and all(
            map(is_, map(ref.__call__, self.given), arrays)
        )

    def looks_like(self, looks: Looks | None) -> bool:
        """Whether the last step's gradients and inputs looked like these."""
        return looks is not None and self.looks is not None and equal(looks.numbers, self.looks)

    def fetch(self) -> None:
        """Copy strided arrays to their stand-ins."""
        for part in self.parts:
            for slot in part.slots:
                if slot.strided:
                    slot.fetch()

    def store(self) -> None:
        """Copy what was written to stand-ins back."""
        for part in self.parts:
            for name, slot in zip(part.bin.layout.slots, part.slots, strict=True):
                if slot.strided and name in part.bin.layout.written:
                    slot.store()

    @property
    def copies(self) -> bool:
        """Whether any array has a stand-in."""
        return any(slot.copied for part in self.parts for slot in part.slots)

    def let_go(self) -> None:
        """Hold on to no gradient: it is freed when its owner wants it to be."""
        for part in self.parts:
            for name, slot in zip(part.bin.layout.slots, part.slots, strict=True):
                if name not in part.bin.layout.lasting:
                    if slot.strided:  # it will be copied from again
                        self.given = []
                    slot.arrays, slot.used, slot.strided = [], [], []


class Plans(dict[Any, Plan]):
    """The plans of a state, by what says when they hold.

    ``usual`` is the last step's if that was of the usual kind: of all parameters at once, each with a gradient and the
    same count of steps, and nothing copied. Most often the next step is like it.
    """

    usual: Plan | None = None
