"""Backends that take rules with axes or matrices by stacks of arrays: what is stacked with what, and a step of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isostep import nm, scalars
from isostep.execute import ArrayBackend
from isostep.flow import Item
from isostep.lower.axes import Axes, axes, in_passes
from isostep.lower.layout import obstacle
from isostep.lower.overlap import SHARES, Spread, Written, spread
from isostep.lower.stacks import Arrays, Stack, Stacks
from isostep.program import UPDATE, Program, shaped
from isostep.rule import BoundRule
from isostep.state import StepError
from isostep.values import Domain, Value

#: Elements of a stack of several arrays: it fits into a cache. An array that is larger is a stack of its own, without
#: a copy.
ROOM = 1 << 18


class Stacked(ArrayBackend):
    """A backend with ``passes`` does rules with axes or matrices on stacks, and what passes can do in passes."""

    #: the interpreter of this framework's stacks
    stacks: type[Stacks] = Stacks
    #: ``passes(axes, one, dtype, like, count, table=, scalars=, columns=, at=)`` does one pass over ``count`` arrays on
    #: the device of ``like``: its sums and maxima in float64, a row an array (``lower.axes_run``, ``axes_device``)
    passes: Callable[..., dict[Value, Any]] | None = None
    #: where arrays lie, as int64; of a backend to which some are reachable
    addresses: Callable[[Sequence[Any]], np.ndarray]

    def way(self, rule: BoundRule) -> str:
        """A word for how a rule is run that has no kernels of its own."""
        return "passes" if self.passes is not None and in_passes(rule) else "stacked"

    def all_reachable(self, arrays: Sequence[Any]) -> bool:
        """Whether all arrays lie where compiled code can read them, or at least at known ``addresses``."""
        return False

    def made_ready(self, axes: Axes, dtype: str, like: Any) -> None:
        """Compile passes, for arrays on the device of ``like``."""

    def lies_flat(self, array: Any) -> bool:
        """Whether its elements lie in memory as they are, one after another."""
        return bool(array.flags.c_contiguous)

    def flat(self, array: Any) -> Any:
        """The array itself if it lies flat, else a copy that does."""
        return array if self.lies_flat(array) else array.copy()

    def copy_all(self, targets: Sequence[Any], values: Sequence[Any]) -> None:
        """Write values of their own dtype and shape to arrays."""
        for target, value in zip(targets, values, strict=True):
            target[...] = value

    def columns(self, values: Sequence[Any], count: int, like: Any) -> Any:
        """Numbers and arrays, of one element or one for each of ``count``, as passes take them: a row an array."""
        found = np.zeros((count, len(values)))
        for k, value in enumerate(values):
            found[:, k] = np.reshape(np.asarray(value), -1)
        return found

    def _run(self, rule: BoundRule, items: list[Item], group: dict[str, Any], t: int) -> Any:
        if obstacle(rule) is None or self.passes is None:
            return super()._run(rule, items, group, t)
        return stepped(self, rule, items, group, t)


@dataclass
class Places:
    """Where arrays lie that a step writes, or only reads: those that lie flat with their bytes, and others."""

    at: list[np.ndarray] = field(default_factory=list)
    size: list[np.ndarray] = field(default_factory=list)
    others: list[Spread] = field(default_factory=list)

    def add(self, addresses: np.ndarray, size: int) -> None:
        """Arrays of one size."""
        self.at.append(np.asarray(addresses, np.int64))
        self.size.append(np.full(len(addresses), size, np.int64))


def _together(every: Iterable[Places]) -> tuple[np.ndarray, np.ndarray]:
    """All addresses and sizes."""
    none, some = np.zeros(0, np.int64), list(every)
    at, size = ([x for places in some for x in getattr(places, n)] for n in ("at", "size"))
    return np.concatenate([none, *at]), np.concatenate([none, *size])


@dataclass(eq=False)
class Part:
    """Arrays of one shape that take the same step: what is known of them whatever their numbers are.

    Stacks of them are small, but where nothing but passes meets all elements of an array: then there is a single one.
    """

    backend: Stacked
    program: Program
    axes: Axes | None
    written: Places
    read: Places
    arrays: dict[str, list[Any]]
    dtype: str

    @property
    def step(self) -> int:
        """How many arrays a stack has."""
        p = self.arrays["p"]
        alone = self.axes is not None and self.axes.alone
        return len(p) if alone else max(1, ROOM // max(nm.size(p[0]), 1))

    def stacks(
        self, known: Mapping[Value, Any], more: Mapping[str, list[Any]] | None = None
    ) -> Iterator[Stack]:
        """The tasks of a step whose scalars are known; ``more`` arrays are the step's own."""
        count, step, flat = len(self.arrays["p"]), self.step, self.backend.flat
        given = self.arrays | dict(more or {})
        arrays = (
            given if self.axes is None else {n: list(map(flat, some)) for n, some in given.items()}
        )
        for k in range(0, count, step):
            own = Arrays({n: every[k : k + step] for n, every in arrays.items()})
            size = min(step, count - k)
            to = {n: every[k : k + step] for n, every in given.items()}
            yield Stack(
                self.program, own, dict(known), self.dtype, count=size, axes=self.axes, given=to
            )


def part_of(
    backend: Stacked, rule: BoundRule, phase: tuple[int, ...], arrays: dict[str, list[Any]]
) -> Part:
    """The part of arrays of one shape, by name. Its passes are compiled: nothing has been written yet.

    Raises:
        StepError: state of another shape.
    """
    first = arrays["p"][0]
    program = shaped(rule, phase, tuple(first.shape))
    _check_states(rule, program, arrays)
    dtype, by = backend.dtype(first), None
    written, read = Places(), Places()
    if all(map(backend.all_reachable, arrays.values())):
        stored = {"p", *program.stored}
        for n, some in arrays.items():
            # Of others a copy is made first, so that a step gives the same bits however its arrays lie.
            own = list(filter(backend.lies_flat, some))
            if own:
                (written if n in stored else read).add(backend.addresses(own), own[0].nbytes)
            if n in stored and len(own) < len(some):
                others = [a for a in some if not backend.lies_flat(a)]
                written.others += map(spread, others, backend.addresses(others).tolist())
        by = axes(program) if backend.passes is not None and axes(program).fits else None
    if by is not None:
        backend.made_ready(by, dtype, first)
    return Part(backend, program, by, written, read, arrays, dtype)


def written_by(rule: BoundRule, parts: Sequence[Part]) -> Written:
    """Where arrays lie that a step writes.

    Raises:
        StepError: one shares memory with another.
    """
    others = [s for part in parts for s in part.written.others]
    written = Written(*_together(part.written for part in parts), others)
    check_apart(rule, written, *_together(part.read for part in parts))
    return written


def run(
    backend: Stacked,
    rule: BoundRule,
    tasks: Sequence[Stack],
    group: dict[str, Any],
    t: Any,
    see: Callable[[int, Mapping[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Do a step's arithmetic and write parameters and state; the group's new state.

    ``see(k, outputs)`` is called for each task before anything of it is written.
    """
    shared = scalars.of_group((k.program for k in tasks), backend._at(rule, t)[0], t)
    dtype = backend._dtype_of_group(group, [p for k in tasks for p in k.own("p")])
    stacks = backend.stacks(tasks, backend, group, shared, dtype)
    new = stacks.group_outputs()
    stacks.total_all()
    for k, task in enumerate(tasks):
        if see is not None:
            see(k, stacks.raw_outputs(task))
        stacks.write(task)
    return new


def stepped(
    backend: Stacked, rule: BoundRule, items: list[Any], group: dict[str, Any], t: Any
) -> dict[str, Any]:
    """``run`` over items: sets every one's ``u``."""
    bins: dict[Any, list[Any]] = defaultdict(list)
    for item in items:
        key = (item.t, item.phase, item.p.dtype, nm.device(item.p), tuple(item.p.shape))
        bins[key].append(item)
    parts: list[Part] = []
    for same in bins.values():
        first = same[0]
        arrays = {"p": [item.p for item in same], "g": [item.g for item in same]}
        arrays |= {n: [item.inputs[n] for item in same] for n in rule.input_names}
        arrays |= {n: [item.state[n] for item in same] for n in rule.state_names}
        parts.append(part_of(backend, rule, first.phase, arrays))
    written_by(rule, parts)
    tasks: list[Stack] = []
    members: list[list[Any]] = []
    for part, same in zip(parts, bins.values(), strict=True):
        tasks += part.stacks(scalars.evaluate(part.program, same[0].hyper, same[0].t))
        members += [same[k : k + part.step] for k in range(0, len(same), part.step)]

    def see(k: int, found: Mapping[str, Any]) -> None:
        for i, item in enumerate(members[k]):
            u = found[UPDATE][i] if UPDATE in found else nm.overwrite(found["p"][i])
            backend._see(rule, item, item.g, u, {n: found[n][i] for n in rule.state_names})

    new = run(backend, rule, tasks, group, t, see if rule.observed else None)
    for item in items:
        item.u, item.written = nm.overwrite(item.p), True
    return new


def check_apart(rule: BoundRule, written: Written, read: np.ndarray, sizes: np.ndarray) -> None:
    """Nothing that is written shares memory with anything else."""
    if written.overlap or written.meets(read, sizes):
        message = f"{rule.name}: {SHARES}"
        raise StepError(message)


def _check_states(rule: BoundRule, program: Program, arrays: Mapping[str, list[Any]]) -> None:
    """State arrays have the shapes that the program was made for."""
    inputs, shape = program.inputs(), tuple(arrays["p"][0].shape)
    for n in rule.state_names:
        wanted = shape if inputs[n].domain is Domain.ELEMENT else tuple(inputs[n].shape)
        wrong = next((a for a in arrays[n] if tuple(a.shape) != wanted), None)
        if wrong is not None:
            message = (
                f"{rule.name}: state {n} of a parameter of shape {shape} must have shape {wanted}, "
                f"got {tuple(wrong.shape)}; make a new state"
            )
            raise StepError(message)
