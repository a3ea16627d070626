"""``torch:fused(cuda)`` with counts and hyperparameters on the device: ``capturable``, and what ``GradScaler`` says.

The kernels are those of ``fused_cuda``. What the host does there before each step, one small kernel does here: it
reads the counts (and those hyperparameters that are tensors) and fills the table of scalars, in float64. Gradients are
unscaled as they are loaded, and a step in which something was not finite stores nothing. Nothing is read back,
so that a CUDA graph can hold the whole step. What it captures is complete: a graph uploads the tables that it reads,
from memory that nobody else writes, for steps beside it, and other graphs, put tables of other gradients there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import triton.language as tl

from isostep import scalars
from isostep.lower.device import Kernels
from isostep.lower.executor import Launch, Runner
from isostep.lower.plan import Plan
from isostep.rule import BoundRule
from isostep.state import State, StepError, as_list
from isostep_torch import triton_modules
from isostep_torch.foreach import TracedForeach
from isostep_torch.fused_cuda import (
    ROWS,
    TorchInterpreter,
    TorchTriton,
    TritonDevice,
    capturing,
    launch,
    on,
    stage,
)
from isostep_torch.traced import Held
from isostep_torch.triton_numbers import hyper_names
from isostep_torch.triton_source import block

#: Counts that a block of the small kernels takes.
LANES = 128


class _Device(TritonDevice):
    """The device as one runner uses it, with ``amp``: what gradients are multiplied by, and whether to do nothing."""

    def __init__(self, place: torch.device) -> None:
        super().__init__(place)
        self.amp = torch.zeros(2, dtype=torch.float64, device=place)
        # By the kernel that fills it in a capture too, where it is too late to load one.
        self.amp[0].fill_(1.0)
        self._spare: dict[int, torch.Tensor] = {}  # by buffer: pinned memory for the next graph
        self._sources: dict[int, list[torch.Tensor]] = {}  # by buffer: what graphs upload from
        self._forgets = False

    def forgets(self) -> bool:
        self._forgets = self._forgets or capturing(self.place)
        return self._forgets

    def upload(self, buffer: torch.Tensor, values: np.ndarray) -> None:
        key = buffer.data_ptr()
        if capturing(self.place):
            buffer.copy_(self._source(key, torch.from_numpy(values)), non_blocking=True)
            return
        if key not in self._spare:
            self._spare[key] = self.pinned(values)
        super().upload(buffer, values)

    def _source(self, key: int, host: torch.Tensor) -> torch.Tensor:
        """These values in pinned memory that is never written again: the graph copies from it at every replay."""
        sources = self._sources.setdefault(key, [])
        found = next((s for s in sources if torch.equal(s, host)), None)
        if found is None:
            if key not in self._spare:  # memory cannot be pinned now
                message = (
                    "a graph captures a step of a new kind; take one like it before, "
                    "and keep the gradients' shapes"
                )
                raise StepError(message)
            found = self._spare.pop(key)
            found.copy_(host)
            sources.append(found)
        return found

    def compile(self, kernels: Kernels) -> Mapping[str, Launch]:
        own = triton_modules.module(kernels, interpreted=self.interpreted, traced=True)
        common = triton_modules.common(interpreted=self.interpreted)
        group, size = {"DTYPE": getattr(tl, kernels.group_dtype)}, block(kernels.dtype)
        return {
            **{
                k.name: partial(self._with_amp, partial(stage, getattr(own, k.name), k, size))
                for k in kernels.stages
            },
            "reduce": partial(launch, common.reduce, {"BLOCK": ROWS}),
            "commit": partial(self._with_amp, partial(launch, common.commit_if_taken, group)),
        }

    def _with_amp(self, call: Any, blocks: int, arguments: Sequence[Any]) -> None:
        call(blocks, arguments, self.amp)


class _Runner(Runner):
    """The launches of a step, those that find its scalars first, and that which counts it last."""

    def __init__(self, device: _Device, plan: Plan, counts: int) -> None:
        super().__init__(device, plan.parts, plan.group_dtype.name, counts)
        self.on, self.counts = device, counts
        self.names = max((hyper_names(k.program) for k in self.kernels), key=len)
        self.hypers = device.buffer(max(len(self.names), 1), "float64")
        self.times = device.buffer(counts + 1, "int64")  # the group's last
        self.tables.buffers |= {"hypers": self.hypers, "times": self.times}
        self.scaled = self.watched = False

    def prepare(
        self,
        tables: Sequence[np.ndarray],
        group: np.ndarray,
        times: np.ndarray,
        values: Mapping[str, Any],
    ) -> None:
        """Addresses and the hyperparameters that are numbers, as far as they have changed; tensors every time."""
        self.upload_addresses(tables, group)
        numbers = scalars.flat(values)
        given = [numbers[n] for n in self.names]
        host = np.array([0.0 if isinstance(v, Held) else float(v) for v in given])
        self.tables.write("times", times)
        self.tables.write("hypers", host)
        for k, v in enumerate(given):
            if isinstance(v, Held):
                self.hypers[k].copy_(v.tensor.detach().reshape(()))

    def guard(self, scale: torch.Tensor | None, found_inf: torch.Tensor | None) -> None:
        """What ``GradScaler`` says of this step, without a look at it."""
        unsure = self.on.forgets()
        if scale is not None:  # as GradScaler.unscale_ takes it
            self.on.amp[0].copy_(scale.double().reciprocal().float().reshape(()))
        elif self.scaled or unsure:
            self.on.amp[0].fill_(1.0)
        if found_inf is not None:
            self.on.amp[1].copy_(found_inf.reshape(()))
        elif self.watched or unsure:
            self.on.amp[1].fill_(0.0)
        self.scaled, self.watched = scale is not None, found_inf is not None

    def launch(self) -> None:
        interpreted = self.on.interpreted
        group_time = self.times[self.counts :]
        blocks = -(-(self.counts + 1) // LANES)
        for kernels, own in zip(self.kernels, self.tables.own, strict=True):
            module = triton_modules.module(kernels, interpreted=interpreted, traced=True)
            if kernels.scalars:
                given = (self.times, self.hypers, own["scalars"], self.counts)
                launch(module.numbers, {"LANES": LANES}, blocks, given)
            if kernels.shared:
                launch(module.shared_numbers, {}, 1, (group_time, self.hypers, own["shared"]))
        super().launch()
        common = triton_modules.common(interpreted=interpreted)
        counted = (self.times, self.counts + 1, self.on.amp)
        launch(common.advance, {"LANES": LANES}, blocks, counted)


class TracedTriton(TorchTriton):
    """Steps that read counts on the device. What has no kernels, or a schedule, takes ``torch:foreach`` likewise.

    ``grad_scale`` and ``found_inf`` are ``GradScaler``'s, or None.
    """

    def __init__(self) -> None:
        super().__init__()
        self.grad_scale: torch.Tensor | None = None
        self.found_inf: torch.Tensor | None = None
        self._times: list[torch.Tensor] = []
        #: plans whose tables are read for as long as graphs are replayed
        self._in_graphs: set[Plan] = set()

    def way(self, rule: BoundRule) -> str:
        return "generic"

    def path(self, rule: BoundRule) -> str:
        own = super().path(rule)
        other = self._obstacle(rule)
        return f"foreach: {other}" if own == "fused" and other else own

    def _obstacle(self, rule: BoundRule) -> str | None:
        if rule.sequential:
            return "parameters are stepped one after another"
        if len(rule.kinds()) > 1:
            return "it has several kinds of step"
        for name, value in scalars.flat(rule.values).items():
            if callable(value) and not isinstance(value, Held):
                return f"{name} is a schedule"
        return None

    def step(
        self, rule: BoundRule, params: Any, grads: Any, state: State, **inputs: Any
    ) -> tuple[Any, State]:
        arrays = as_list(params)
        times: list[Any] = [*state.t, state.group_t]
        here = arrays[0].device if arrays else None
        fits = all(getattr(t, "dtype", None) is torch.float32 and t.device == here for t in times)
        fits = fits and not (state.storage.packed and not self.takes_blocks(rule))
        if self._obstacle(rule) or not fits or super().path(rule) != "fused":
            return self._by_foreach(rule, params, grads, state, **inputs)
        # Every array has a count of its own; to the plan they are just different ones.
        counts = list(range(len(state.t)))
        inner = replace(state, t=counts, group_t=0, figures=None)
        self._times = times
        super().step(rule, params, grads, inner, **inputs)
        state.plan, state.figures = inner.plan, inner.figures
        return params, state

    def _by_foreach(
        self, rule: BoundRule, params: Any, grads: Any, state: State, **inputs: Any
    ) -> tuple[Any, State]:
        other = TracedForeach()
        other.found_inf = self.found_inf
        kept, factor = state.storage, state.handling.factor
        if self.grad_scale is not None:
            state.storage = replace(kept, scaled=True)
            state.handling.factor = factor * self.grad_scale.double().reciprocal().float()
        try:
            return other.step(rule, params, grads, state, **inputs)
        finally:
            state.storage, state.handling.factor = kept, factor

    def _at(self, rule: BoundRule, t: Any) -> tuple[Mapping[str, Any], tuple[int, ...]]:
        return rule.values, rule.phase(1)

    def launch(
        self,
        plan: Plan,
        hypers: Sequence[tuple[int, Mapping[str, Any]]],
        group_hyper: tuple[int, Mapping[str, Any]],
        group: dict[str, Any],
    ) -> dict[str, Any]:
        with on(plan.params[0].device):  # type: ignore[arg-type]
            if plan.runner is None:
                plan.runner = _Runner(_Device(plan.params[0].device), plan, len(hypers))  # type: ignore[arg-type]
            runner = plan.runner
            moving = [self._times[t - 1] for t, _ in hypers]  # in the order of the kinds
            places = self.addresses([group[n] for n in runner.group_names])
            times = self.addresses([*moving, self._times[-1]])
            runner.prepare([part.table for part in plan.parts], places, times, group_hyper[1])
            runner.guard(self.grad_scale, self.found_inf)
            runner.launch()
            if runner.on.forgets():
                self._in_graphs.add(plan)
        plan.seen = runner.seen()
        return {}


class TracedInterpreter(TracedTriton, TorchInterpreter):
    """The same in Triton's interpreter, on tensors of the CPU."""
