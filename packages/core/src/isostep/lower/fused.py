"""Fused steps for any framework whose arrays have addresses: plans over lists of arrays.

``FusedBackend`` checks, plans and keeps the plan from step to step. What runs is the subclass's ``launch``: Numba
kernels on the CPU (``lower.cpu``), kernels of a device (``lower.executor``). A framework's own backend adds how to
find its arrays' addresses.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any

import numpy as np

from isostep.execute import ArrayBackend
from isostep.lower.bins import Bin
from isostep.lower.layout import layout
from isostep.lower.overlap import overlap
from isostep.program import trace
from isostep.rule import BoundRule
from isostep.state import State, StepError, aligned, as_list, check_inputs, check_rule, check_state

#: How many plans a state keeps beside those of its last step.
OTHER_PLANS = 3


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(map(is_, a, b))


class Slot:
    """The arrays of one name in a bin: where they lie, and contiguous stand-ins for those that are strided."""

    def __init__(self, arrays: list[Any], backend: FusedBackend | None) -> None:
        self.arrays, self.backend, self.used = arrays, backend, list(arrays)
        self.strided: list[int] = []
        self.addresses: np.ndarray | None = None  # of ``arrays``, where arrays may move
        if backend is not None:
            self.strided = [i for i, a in enumerate(arrays) if not backend.addressable(a)]
            for i in self.strided:
                self.used[i] = backend.stand_in(arrays[i])

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

    def place(self, k: int, arrays: list[Any], backend: FusedBackend) -> None:
        """Put these arrays into slot k, unless they are known to be there already."""
        slot = self.slots[k]
        if _same(arrays, slot.arrays):
            own = self.bin.layout.slots[k] in self.bin.program.state_names
            if own or backend.stays_put or (backend.addresses(arrays) == slot.addresses).all():
                return
        slot = self.slots[k] = Slot(arrays, backend)
        slot.addresses = backend.addresses(arrays) if not backend.stays_put else None
        self.table[:, k] = backend.addresses(slot.used)

    def shares_memory(self) -> bool:
        written = [k for k, n in enumerate(self.bin.layout.slots) if n in self.bin.layout.written]
        read = [k for k in range(len(self.slots)) if k not in written]
        sizes = np.array([[a.nbytes for a in s.used] for s in self.slots], np.int64).T
        pick = lambda ks: (self.table[:, ks].ravel(), sizes[:, ks].ravel())  # noqa: E731
        return overlap(*pick(written), *pick(read))


@dataclass(eq=False)
class Plan:
    """What stays the same from step to step; a state keeps some by a key that says when it does."""

    params: list[np.ndarray]
    states: list[np.ndarray]
    parts: list[Part]
    group_dtype: np.dtype
    given: list[np.ndarray] = field(default_factory=list)
    runner: Any = None  # what ``launch`` has made for these arrays and wants to keep

    def let_go(self) -> None:
        """Forget the gradients, which live no longer than their step."""
        self.given = []
        for part in self.parts:
            for k, name in enumerate(part.bin.layout.slots):
                if name != "p" and name not in part.bin.program.state_names:
                    part.slots[k] = Slot([], None)


def _keep_only(state: State, plans: Sequence[Plan]) -> None:
    """The plans of this step, and a few others: steps of another kind (each k-th) come again."""
    known: dict[Any, Plan] = state.plan or {}
    others = [key for key, plan in known.items() if not any(plan is p for p in plans)]
    for key in others[:-OTHER_PLANS]:
        del known[key]
    for key in others[-OTHER_PLANS:]:
        known[key].let_go()


class FusedBackend(ArrayBackend):
    """Fused passes where the program allows it, the generic path where it does not; ``path`` says which and why."""

    #: the exact type of ordinary arrays, for a quick look at gradients
    array_type: type = np.ndarray
    #: whether an array's elements stay at one address as long as the array object lives
    stays_put = True

    def reachable(self, array: Any) -> bool:
        """Whether the array lies in memory that this process's threads can read."""
        return True

    @abstractmethod
    def launch(
        self,
        plan: Plan,
        hypers: Sequence[tuple[int, Mapping[str, Any]]],
        group_hyper: tuple[int, Mapping[str, Any]],
        group: dict[str, Any],
    ) -> dict[str, Any]:
        """All passes of one step over a plan's arrays; the new group values that are not yet in place.

        ``hypers[kind]`` = (t, values) for every step count there is, ``group_hyper`` the group's own.
        """

    @abstractmethod
    def addressable(self, array: Any) -> bool:
        """Whether the array's elements lie in memory row by row, so that an address is all a kernel needs."""

    @abstractmethod
    def stand_in(self, array: Any) -> Any:
        """An addressable array of the same shape and dtype, its contents undefined."""

    @abstractmethod
    def addresses(self, arrays: Sequence[Any]) -> np.ndarray:
        """The address of the first element of each array, as int64."""

    def path(self, rule: BoundRule) -> str:
        obstacle = layout(trace(rule), "float32").obstacle
        return f"generic: {obstacle}" if obstacle else "fused"

    def step(
        self, rule: BoundRule, params: Any, grads: Any, state: State, **inputs: Any
    ) -> tuple[Any, State]:
        check_rule(rule)
        arrays = as_list(params)
        if layout(trace(rule), "float32").obstacle or not all(map(self.reachable, arrays)):
            return super().step(rule, params, grads, state, **inputs)
        check_state(rule, state, len(arrays))
        check_inputs(rule, inputs)
        given = [aligned(rule, "grads", params, grads)]
        given += [aligned(rule, n, params, inputs[n]) for n in rule.input_names]
        active = [i for i, g in enumerate(given[0]) if g is not None]
        runs = [[i] for i in active] if rule.sequential else [active] if active else []
        plans = [self._plan(rule, params, arrays, state, run, given) for run in runs]
        _keep_only(state, plans)
        with self.quiet():
            group = self.group_values(rule, state, inputs) if runs else dict(state.group)
        state.group |= {n: group[n] for n in rule.group_input_names}
        now = (state.group_t + 1, self._at(rule, state.group_t + 1)[0])
        with self.quiet():
            for plan in plans:
                group |= self._step(rule, plan, state, group, now)
            for n, value in group.items():
                if value is not state.group[n]:
                    dtype = plans[0].group_dtype.name
                    state.group[n] = self.scalar(float(value), dtype, state.group[n])
        for i in active:
            state.t[i] += 1
        state.group_t += bool(active)
        return params, state

    def _step(
        self, rule: BoundRule, plan: Plan, state: State, group: dict[str, Any], now: Any
    ) -> dict[str, Any]:
        counts = sorted({state.t[i] + 1 for part in plan.parts for i in part.members})
        for part in plan.parts:
            for slot in part.slots:
                slot.fetch()
        new = self.launch(plan, [(t, self._at(rule, t)[0]) for t in counts], now, group)
        for part in plan.parts:
            for name in part.bin.layout.written:
                part.slots[part.bin.layout.slots.index(name)].store()
        return new

    def _plan(
        self,
        rule: BoundRule,
        params: Any,
        arrays: list[Any],
        state: State,
        active: list[int],
        given: list[list[Any]],
    ) -> Plan:
        """The plan for these arrays, from the last step if nothing that it depends on has changed."""
        counts = [state.t[i] + 1 for i in active]
        kinds = {t: k for k, t in enumerate(sorted(set(counts)))}
        phases = {t: rule.phase(t) for t in kinds}
        pattern = tuple(kinds[t] for t in counts) if len(kinds) > 1 else ()
        key = (rule.structure(), tuple(active), pattern, tuple(phases.values()))
        states = [a for d in state.arrays for a in d.values()]
        known: dict[Any, Plan] = state.plan or {}
        plan = known.get(key)
        now = [v[i] for v in given for i in active]
        if plan is None or not _same(plan.params, arrays) or not _same(plan.states, states):
            self._check(rule, params, grads=given, state=state)
            parts = self._parts(
                rule, arrays, active, [kinds[t] for t in counts], [phases[t] for t in counts]
            )
            dtype = np.dtype(self._dtype_of_group(state.group, [arrays[i] for i in active]))
            plan = known[key] = Plan(list(arrays), states, parts, dtype)
            state.plan = known
        elif not _same(plan.given, now):
            self._check_given(rule, params, given, active)
        elif self.stays_put:
            return plan
        for part in plan.parts:
            before = part.table.copy()
            for k, name in enumerate(part.bin.layout.slots):
                part.place(k, self._arrays_of(rule, name, part.members, arrays, state, given), self)
            if (before != part.table).any() and part.shares_memory():
                state.plan = None
                message = f"{rule.name}: a parameter or state array shares memory with another array; pass copies"
                raise StepError(message)
        plan.given = now
        return plan

    def _check(self, rule: BoundRule, params: Any, grads: list[list[Any]], state: State) -> None:
        arrays = self._checked_params(rule, params)
        self._check_given(rule, params, grads, [i for i, g in enumerate(grads[0]) if g is not None])
        for i, (p, own) in enumerate(zip(arrays, state.arrays, strict=True)):
            for n, a in own.items():
                if a.shape != p.shape or a.dtype != p.dtype or not self.writable(a):
                    message = (
                        f"{rule.name}: state {n} of params[{i}] must be a writable {p.dtype} array of shape {p.shape}, "
                        f"got {a.dtype} {a.shape}; make a new state"
                    )
                    raise StepError(message)

    def _check_given(
        self, rule: BoundRule, params: Any, given: list[list[Any]], active: list[int]
    ) -> None:
        arrays: list[Any] = as_list(params)
        for values in given:  # the usual case at a glance; the slow way words the error
            for i in active:
                v, p = values[i], arrays[i]
                plain: Any = type(v) is self.array_type
                if not (plain and v.dtype == p.dtype and v.shape == p.shape):
                    return super()._check_given(rule, params, given, active)

    @staticmethod
    def _arrays_of(
        rule: BoundRule,
        name: str,
        members: list[int],
        arrays: list[Any],
        state: State,
        given: list[list[Any]],
    ) -> list[np.ndarray]:
        if name == "p":
            return [arrays[i] for i in members]
        if name in rule.state_names:
            return [state.arrays[i][name] for i in members]
        source = given[0] if name == "g" else given[1 + rule.input_names.index(name)]
        return [source[i] for i in members]

    def _parts(
        self,
        rule: BoundRule,
        arrays: list[Any],
        active: list[int],
        kinds: list[int],
        phases: list[Any],
    ) -> list[Part]:
        by_program: dict[Any, list[int]] = defaultdict(list)
        for where, i in enumerate(active):
            by_program[phases[where], self.dtype(arrays[i])].append(where)
        parts = []
        for (phase, dtype), places in by_program.items():
            members = [active[w] for w in places]
            shapes = tuple(tuple(arrays[i].shape) for i in members)
            bin = Bin(
                trace(rule, phase), dtype, shapes, np.array([kinds[w] for w in places], np.int64)
            )
            count = len(bin.layout.slots)
            table = np.zeros((len(members), count), np.int64)
            parts.append(Part(bin, members, [Slot([], None) for _ in range(count)], table))
        return parts
