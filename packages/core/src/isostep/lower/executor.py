"""A step on a device: tables, launches and their order, whatever the device is.

``Device`` is all that a framework has to offer: buffers, uploads, and compiled kernels. ``DeviceBackend`` is the
backend's half: checks and plans are those of ``lower.fused``, what is launched is described in ``lower.device``.
Nothing here waits for the device. Once a plan is made, a step allocates nothing, uploads the scalars that have
changed (and addresses, if arrays have moved) and launches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from isostep import nm, scalars
from isostep.lower import device
from isostep.lower.axes import Axes, Pass
from isostep.lower.axes_device import PassLaunch, run
from isostep.lower.bins import Bin
from isostep.lower.device import Kernel, Kernels, kernels
from isostep.lower.fused import FusedBackend
from isostep.lower.layout import obstacle
from isostep.lower.plan import Part, Plan
from isostep.rule import BoundRule
from isostep.state import State, StepError, as_list
from isostep.values import Value

#: A compiled kernel: ``launch(blocks, arguments)``, arguments being buffers and integers in the kernel's order.
Launch = Callable[[int, Sequence[Any]], None]


class Device(ABC):
    """What the executor asks of a framework. All of it is asynchronous, in the order of the current stream."""

    @abstractmethod
    def buffer(self, count: int, dtype: str) -> Any:
        """A one-dimensional buffer of int64 or float64, contents undefined; ``buffer[a:b]`` must be a view of it."""

    @abstractmethod
    def upload(self, buffer: Any, values: np.ndarray) -> None:
        """Copy host values into a buffer of their size; the host array may be changed as soon as this returns."""

    def forgets(self) -> bool:
        """Whether a buffer may hold something else than was uploaded last: graphs repeat the uploads they captured."""
        return False

    def here(self) -> AbstractContextManager[Any]:
        """A context in which buffers are made and kernels launched on this device, whatever the current one is."""
        return nullcontext()

    @abstractmethod
    def compile(self, kernels: Kernels) -> Mapping[str, Launch]:
        """The kernels by name: one per stage (``Kernel.name``), ``reduce`` and ``commit``. Cached by the device.

        A stage's kernel is asked for one block per row of chunks, and may run on fewer; ``reduce`` gets exactly
        one block per array and one more, ``commit`` one.
        """

    @abstractmethod
    def address(self, buffer: Any) -> int:
        """Where a buffer lies."""

    @abstractmethod
    def passes(self, axes: Axes, dtype: str) -> Sequence[PassLaunch]:
        """The compiled passes (``lower.axes_device``), in order. Programs that differ in lengths share them."""


class DeviceBackend(FusedBackend):
    """A backend whose fused passes are a device's kernels."""

    device: Device
    blocks = True
    _held: list[Callable[[], None]] | None = None

    def device_of(self, array: Any) -> Device:
        """The device on which an array lies; checked to be one on which work can be asked for now."""
        return self.device

    def passes(
        self,
        axes: Axes,
        one: Pass,
        dtype: str,
        like: Any,
        count: int,
        *,
        columns: Any,
        **given: Any,
    ) -> dict[Value, Any]:
        device = self.device_of(like)
        with device.here():
            return run(device, axes, one, dtype, count, columns=device.address(columns), **given)

    def made_ready(self, axes: Axes, dtype: str, like: Any) -> None:
        device = self.device_of(like)
        with device.here():
            device.passes(axes, dtype)

    def columns(self, values: Sequence[Any], count: int, like: Any) -> Any:
        device = self.device_of(like)
        numbers = [v if isinstance(v, int | float) else 0.0 for v in values]
        with device.here():
            found = device.buffer(count * len(values), "float64")
            if values:
                device.upload(found, np.tile(np.array(numbers, np.float64), count))
                rows = found.reshape(count, len(values))
                for k, value in enumerate(values):
                    if not isinstance(value, int | float):
                        rows[:, k] = nm.reshape(value, (-1,))
        return found

    def prepared(
        self, rule: BoundRule, params: Any, grads: Any, state: State, **inputs: Any
    ) -> Launches:
        """All of a step but its launches, which a call of what is returned does: for capture in a graph.

        Counts and scalars are then those of the step, on the device; what is launched reads them there. As long as
        this returns an equal value, a graph that has captured it takes the step; every step is prepared, also where a
        graph is replayed.

        Raises:
            StepError: as ``step``; and for what has no kernels, and for strided arrays, which are copied in a step.
        """
        given = [params, grads, *inputs.values(), *state.arrays]
        arrays = [a for some in given for a in as_list(some) if a is not None]
        why = obstacle(rule)
        if why is None and not all(map(self.reachable, arrays)):
            why = "an array is elsewhere"
        if why is None and not all(map(self.addressable, arrays)):
            why = "an array is not contiguous"
        if why is not None:
            message = (
                f"{rule.name}: a step can only be prepared where kernels take all of it; {why}"
            )
            raise StepError(message)
        held = self._held = []
        try:
            self.step(rule, params, grads, state, **inputs)
        finally:
            self._held = None
        return Launches(tuple(held))

    def launch(
        self,
        plan: Plan,
        hypers: Sequence[tuple[int, Mapping[str, Any]]],
        group_hyper: tuple[int, Mapping[str, Any]],
        group: dict[str, Any],
    ) -> dict[str, Any]:
        if plan.runner is None:
            plan.runner = Runner(self.device, plan.parts, plan.group_dtype.name, len(hypers))
        names = plan.runner.group_names
        moved = {
            n: self.scalar(float(group[n]), plan.group_dtype.name, plan.params[0])
            for n in names
            if not self.addressable(group[n])  # a scalar that came from another backend
        }
        places = self.addresses([(group | moved)[n] for n in names])
        plan.runner.upload([part.table for part in plan.parts], hypers, group_hyper, places)
        plan.seen = plan.runner.seen()
        if self._held is None:
            plan.runner.launch()
        else:
            self._held.append(plan.runner.launch)
        return moved  # all other group state has been written where it is


@dataclass(frozen=True)
class Launches:
    """What is left of a prepared step. Equal ones do the same, on the same arrays."""

    parts: tuple[Callable[[], None], ...]

    def __call__(self) -> None:
        for part in self.parts:
            part()


class Runner:
    """The tables of one list of arrays on a device, and the launches of a step over them."""

    def __init__(self, on: Device, parts: Sequence[Part], group_dtype: str, kinds: int) -> None:
        self.device = on
        self.bins = [part.bin for part in parts]
        self.kernels = [kernels(b.program, b.dtype, group_dtype, b.storage) for b in self.bins]
        compiled = [on.compile(k) for k in self.kernels]
        self.tables = _Tables(on, self.bins, self.kernels, kinds)
        self.launches: list[tuple[Launch, int, list[Any]]] = []
        self.figures: dict[int, Callable[[], Any]] = {}  # by bin: an observed rule's sums
        for stage in range(max(len(k.stages) for k in self.kernels)):
            self._plan_stage(stage, compiled)
        self.group_names = self.kernels[0].group_names
        if self.group_names:
            given = self.tables.buffers | {"values": len(self.group_names)}
            arguments = [given[n] for n in device.COMMIT]
            self.launches.append((compiled[0]["commit"], 1, arguments))

    def _plan_stage(self, stage: int, compiled: list[Mapping[str, Launch]]) -> None:
        tables = self.tables
        of_bin = [k.stages[stage] if stage < len(k.stages) else None for k in self.kernels]
        rows = _Rows(self.device, self.bins, self.kernels, of_bin, tables)
        for b, kernel in enumerate(of_bin):
            if kernel is not None and kernel.figures:
                self._plan_figures(b, kernel, rows, compiled[b]["reduce"])
            if kernel is not None and rows.counts[b]:
                arguments = tables.arguments(kernel, b, rows)
                self.launches.append((compiled[b][kernel.name], rows.counts[b], arguments))
        columns = max(len(k.sums) for k in of_bin if k is not None)
        if columns:
            given = tables.buffers | rows.buffers | tables.part(stage)
            given |= {"arrays": tables.arrays, "width": tables.width, "columns": columns}
            arguments = [given[n] for n in device.REDUCE]
            self.launches.append((compiled[0]["reduce"], tables.arrays + 1, arguments))

    def _plan_figures(self, b: int, kernel: Kernel, rows: _Rows, reduce: Launch) -> None:
        """Where an observed rule's sums go, and how they are added up when somebody asks: not in the step."""
        on, width, arrays = self.device, len(kernel.figures), len(self.bins[b].shapes)
        seen = self.tables.own[b]["seen"] = on.buffer(rows.counts[b] * width, "float64")
        numbers = rows.table[rows.first[b] : rows.first[b + 1], 0] - self.tables.first[b]
        spans = on.buffer(arrays + 1, "int64")
        on.upload(spans, np.searchsorted(numbers, np.arange(arrays + 1)).astype(np.int64))

        def added_up() -> Any:
            with on.here():
                return reduced()

        def reduced() -> Any:
            sums, totals = on.buffer(arrays * width, "float64"), on.buffer(width, "float64")
            given = {"partials": seen, "spans": spans, "sums": sums, "totals": totals}
            given |= {"arrays": arrays, "width": width, "columns": width}
            reduce(arrays + 1, [given[n] for n in device.REDUCE])
            return sums.reshape((arrays, width))

        self.figures[b] = added_up

    def upload(
        self,
        tables: Sequence[np.ndarray],
        hypers: Sequence[tuple[int, Mapping[str, Any]]],
        group_hyper: tuple[int, Mapping[str, Any]],
        group: np.ndarray,
    ) -> None:
        """Bring the tables up to date: addresses, the scalars of this step, where the group's state lies."""
        self.upload_addresses(tables, group)
        found = []
        for k in self.kernels:
            own = [scalars.evaluate(k.program, h, t) for t, h in hypers] if k.scalars else []
            found += [float(values[n]) for values in own for n in k.scalars]
        for k in self.kernels:
            if k.shared:
                t, hyper = group_hyper
                values = scalars.evaluate(k.program, hyper, t, scope="group")
                found += [float(values[n]) for n in k.shared]
        self.tables.write("numbers", np.array(found))

    def seen(self) -> list[Callable[[], Any]]:
        """What gives the sums of each bin, if the rule is observed."""
        return [self.figures[b] for b in sorted(self.figures)]

    def upload_addresses(self, tables: Sequence[np.ndarray], group: np.ndarray) -> None:
        """Where arrays lie, and where the group's state does."""
        layout = self.kernels[0].layout
        wide = len(layout.slots) - len(layout.storage.scales)  # scales are loaded byte by byte
        self.tables.write("table", _with_alignment(np.concatenate(tables), wide))
        self.tables.write("group", group)

    def launch(self) -> None:
        """All passes of a step, in order. No host value enters here: a stream may capture it."""
        for kernel, blocks, arguments in self.launches:
            kernel(blocks, arguments)


class _Tables:
    """The buffers that all stages share. Numbers of arrays are those of the whole step, bin after bin."""

    def __init__(
        self, on: Device, bins: Sequence[Bin], kernels: Sequence[Kernels], kinds: int
    ) -> None:
        self.device = on
        counts = [len(b.shapes) for b in bins]
        self.arrays = sum(counts)
        self.first = [0, *np.cumsum(counts).tolist()]
        self.stages = max(len(k.stages) for k in kernels)
        self.width = max(k.width for k in kernels)
        facts = [_facts(b, k.axis) for b, k in zip(bins, kernels, strict=True)]
        self.units = [
            int(f[:, 3].sum()) if k.unit_sums else 0 for f, k in zip(facts, kernels, strict=True)
        ]
        self.kept: dict[str, np.ndarray] = {}
        self.buffers: dict[str, Any] = {}
        sizes = {
            "table": self.arrays * (kernels[0].layout.width + 1),
            "facts": self.arrays * len(device.FACT_COLUMNS),
            "group": len(kernels[0].group_names),
            "group_new": len(kernels[0].group_names),
            "sums": self.stages * self.arrays * self.width,
            "totals": self.stages * self.width,
            "numbers": sum(kinds * len(k.scalars) + len(k.shared) for k in kernels),
        }
        for name, size in sizes.items():
            self.buffers[name] = on.buffer(size, device.DTYPES.get(name, "float64"))
        self.write("facts", np.concatenate(facts))
        # Scalars of every bin, then the group's of every bin; sums over units bin by bin.
        numbers, place = self.buffers["numbers"], 0
        self.own: list[dict[str, Any]] = [{} for _ in kernels]
        for name, rows in (("scalars", kinds), ("shared", 1)):
            for own, k in zip(self.own, kernels, strict=True):
                size = rows * len(getattr(k, name))
                own[name] = numbers[place : place + size]
                place += size
        for own, k, units in zip(self.own, kernels, self.units, strict=True):
            own["unit_sums"] = on.buffer(units * len(k.unit_sums), "float64")
        for b, own in enumerate(self.own):
            own["lead"] = int(b == 0)

    def write(self, name: str, values: np.ndarray) -> None:
        """Upload a table unless the device has these values already."""
        known = self.kept.get(name)
        values = np.ascontiguousarray(values).ravel()
        new = known is None or known.tobytes() != values.tobytes()
        if len(values) and (new or self.device.forgets()):
            self.device.upload(self.buffers[name], values)
            self.kept[name] = values

    def part(self, stage: int) -> dict[str, Any]:
        """Where a stage's own sums and totals go."""
        size = self.arrays * self.width
        return {
            "sums": self.buffers["sums"][stage * size : (stage + 1) * size],
            "totals": self.buffers["totals"][stage * self.width : (stage + 1) * self.width],
        }

    def arguments(self, kernel: Kernel, b: int, rows: _Rows) -> list[Any]:
        """The arguments of one launch."""
        first, last = rows.first[b], rows.first[b + 1]
        given = self.buffers | self.own[b]
        given["chunks"] = rows.buffers["chunks"][first * 4 : last * 4]
        given["partials"] = rows.buffers["partials"][first * self.width : last * self.width]
        given |= {"count": last - first, "arrays": self.arrays, "width": self.width}
        return [given[n] for n in kernel.arguments]


class _Rows:
    """How one stage is cut into rows, over all bins; and the spans of rows of each array, for ``reduce``."""

    def __init__(
        self,
        on: Device,
        bins: Sequence[Bin],
        kernels: Sequence[Kernels],
        of_bin: Sequence[Kernel | None],
        tables: _Tables,
    ) -> None:
        rows = [
            _rows(b, k.axis, kernel.grid, first) if kernel else np.zeros((0, 4), np.int64)
            for b, k, kernel, first in zip(bins, kernels, of_bin, tables.first, strict=False)
        ]
        self.counts = [len(r) for r in rows]
        self.first = [0, *np.cumsum(self.counts).tolist()]
        self.table = every = np.concatenate(rows)
        self.buffers = {"chunks": on.buffer(every.size, "int64")}
        on.upload(self.buffers["chunks"], every.ravel())
        sums = any(k.sums for k in of_bin if k)
        self.buffers["partials"] = on.buffer(len(every) * tables.width if sums else 0, "float64")
        if sums:
            spans = np.searchsorted(every[:, 0], np.arange(tables.arrays + 1)).astype(np.int64)
            self.buffers["spans"] = on.buffer(len(spans), "int64")
            on.upload(self.buffers["spans"], spans)


def _facts(bin: Bin, axis: int | None) -> np.ndarray:
    """What is known of each array, in the order of ``FACT_COLUMNS``."""
    sizes = [int(np.prod(s, dtype=np.int64)) for s in bin.shapes]
    own = np.array([(n, len(s)) for n, s in zip(sizes, bin.shapes, strict=True)], np.int64)
    units = bin.facts.units(axis) if axis is not None else np.zeros((len(sizes), 3), np.int64)
    return np.concatenate([own.reshape(-1, 2), units], axis=1)


def _rows(bin: Bin, axis: int | None, grid: str, first: int) -> np.ndarray:
    """The rows of one bin's launch: (array, start, stop, kind). An array's rows depend on its shape alone."""
    found = []
    for array, (size, _, inner, count, _) in enumerate(_facts(bin, axis).tolist()):
        if grid == "units":
            length = max(size // count, 1) if count else 1
            # Neighbours belong to different units where inner is 1: rows wide enough for whole cache lines.
            step, end = max(device.CHUNK // length, 1 if inner > 1 else 32), count
        else:
            step, end = device.CHUNK * max(1, -(-size // (device.CHUNK * device.MOST))), size
        starts = range(0, end, step) if end else (0,)
        found += [(first + array, i, min(i + step, end), bin.kinds[array]) for i in starts]
    return np.array(found, np.int64).reshape(-1, 4)


def _with_alignment(table: np.ndarray, slots: int) -> np.ndarray:
    """The table of addresses with a last column: whether all of a row's are multiples of 16."""
    aligned = (table[:, :slots] % 16 == 0).all(axis=1, keepdims=True)
    return np.concatenate([table, aligned], axis=1)
