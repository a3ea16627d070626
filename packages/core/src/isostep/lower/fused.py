"""Fused steps for any framework whose arrays have addresses: plans over lists of arrays.

``FusedBackend`` checks, plans and keeps the plan from step to step. What runs is the subclass's ``launch``: Numba
kernels on the CPU (``lower.cpu``), kernels of a device (``lower.executor``). A framework's own backend adds how to
find its arrays' addresses.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any
from weakref import ref

import numpy as np

from isostep import telemetry
from isostep.lower.bins import Bin
from isostep.lower.layout import in_blocks, obstacle
from isostep.lower.overlap import SHARES
from isostep.lower.plan import Looks, Part, Plan, Plans, Slot, at, same
from isostep.lower.stacked import Stacked
from isostep.program import trace
from isostep.rule import BoundRule
from isostep.state import (
    State,
    StepError,
    aligned,
    as_list,
    check_inputs,
    check_rule,
    check_state,
    keyed,
)
from isostep.storage import FACTOR, PLAIN, SEED

#: How many plans a state keeps beside those of its last step.
OTHER_PLANS = 3


class _Elsewhere(Exception):
    """Some array lies where kernels cannot read it, or has no memory of its own."""


def _keep_only(state: State, plans: Sequence[Plan]) -> None:
    """The plans of this step, and a few others: steps of another kind (each k-th) come again."""
    known: dict[Any, Plan] = state.plan or {}
    others = [key for key, plan in known.items() if not any(plan is p for p in plans)]
    for key in others[:-OTHER_PLANS]:
        del known[key]


def _kind(rule: BoundRule, state: State) -> Any:
    """What a usual step's plan depends on beside arrays."""
    return rule.structure(), rule.phase(state.t[0] + 1), state.storage


class FusedBackend(Stacked):
    """Fused kernels where the program allows it, passes or the generic path where it does not; ``path`` says why."""

    #: the exact type of ordinary arrays, for a quick look at gradients
    array_type: type = np.ndarray
    #: whether an array's elements stay at one address as long as the array object lives
    stays_put = True
    #: whether kernels know blocks of eight bits
    blocks = False
    #: what gradients and moved parameters are looked at for: they must be what the plan was made for
    shape_of = staticmethod(attrgetter("dtype", "shape"))

    def reachable(self, array: Any) -> bool:
        """Whether the array lies in memory that this process's threads can read."""
        return True

    def all_reachable(self, arrays: Sequence[Any]) -> bool:
        """Whether all are; a framework may have a faster way than asking one by one."""
        return all(map(self.reachable, arrays))

    def strided(self, arrays: Sequence[Any]) -> list[int]:
        """Which of them are not addressable."""
        return [i for i, a in enumerate(arrays) if not self.addressable(a)]

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

    def strides(self, array: Any) -> Sequence[int]:
        """How far apart neighbours along each axis lie."""
        found: Sequence[int] = array.strides
        return found

    def turned(self, array: Any, axes: Sequence[int]) -> Any:
        """The same memory with the axes in this order."""
        return array.transpose(axes)

    @abstractmethod
    def stand_in(self, array: Any) -> Any:
        """An addressable array of the same shape and dtype, its contents undefined."""

    @abstractmethod
    def addresses(self, arrays: Sequence[Any]) -> np.ndarray:
        """The address of the first element of each array, as int64."""

    def places(self, arrays: Sequence[Any]) -> np.ndarray:
        """Where arrays that may move lie: a row of addresses, and what tells how the elements lie there."""
        return self.addresses(arrays)[None]

    def finder(self, arrays: Sequence[Any]) -> Callable[[], np.ndarray] | None:
        """What finds these very arrays' places faster than ``places``, now and later, and holds none of them."""
        return None

    def looks(self, arrays: list[Any]) -> Looks | None:
        """What these arrays look like; None if only a look at each can tell."""
        return None

    def takes_blocks(self, rule: BoundRule) -> bool:
        """Whether kernels of this rule take state in blocks of eight bits (``isostep.blocks``) as it is."""
        return self.blocks and obstacle(rule) is None and in_blocks(rule)

    def path(self, rule: BoundRule) -> str:
        why = obstacle(rule)
        return f"{self.way(rule)}: {why}" if why else "fused"

    def step(
        self, rule: BoundRule, params: Any, grads: Any, state: State, **inputs: Any
    ) -> tuple[Any, State]:
        check_rule(rule)
        params = keyed(rule, params, state)
        usual = None if inputs else self._usual(rule, params, grads, state)
        if usual is not None:
            found: Any = ([usual], range(len(state.t)))
        else:
            found = self._plans(rule, params, grads, state, inputs)
            if found is None:
                return super().step(rule, params, grads, state, **inputs)
        plans, active = found
        with self.quiet():
            group = self.group_values(rule, state, inputs) if active else dict(state.group)
            state.group |= {n: group[n] for n in rule.group_input_names}
            now = (state.group_t + 1, self._numbers(rule, state, state.group_t + 1))
            for plan in plans:
                group |= self._step(rule, plan, state, group, now)
            for n, value in group.items():
                if value is not state.group[n]:
                    dtype = plans[0].group_dtype.name
                    state.group[n] = self.scalar(float(value), dtype, state.group[n])
        if len(active) == len(state.t):
            one = len(plans) == 1 and len(plans[0].counts) == 1
            state.t[:] = plans[0].counts * len(active) if one else [t + 1 for t in state.t]
        else:
            for i in active:
                state.t[i] += 1
        state.group_t += bool(active)
        state.figures = self._seen(rule, params, plans) if rule.observed else None
        return params, state

    def _usual(self, rule: BoundRule, params: Any, grads: Any, state: State) -> Plan | None:
        """The last step's plan, if this step is like it but for numbers and for where its gradients lie.

        A short look at what ``_plans`` looks at in full, for those who answer for their state (``State.sealed``). None
        says only that a full look is needed.
        """
        known = state.plan if isinstance(state, State) and state.sealed else None
        plan = known.usual if known else None
        if plan is None or type(params) is not list or type(grads) is not list:
            return None
        t, kind = state.t, _kind(rule, state)
        if not (len(grads) == t.count(t[0]) == len(t) and kind == plan.kind):
            return None
        looks = self.looks(grads) if same(plan.params, params) else None
        if looks is None or not plan.looks_like(looks):
            return None
        if not all(part.stayed(self) for part in plan.parts):
            return None
        own = range(len(t))
        moved = [part for part in plan.parts if part.take(looks.of(part.members, own, 0))]
        self._check_apart(rule, state, moved)
        plan.counts = [t[0] + 1]
        return plan

    def _plans(
        self, rule: BoundRule, params: Any, grads: Any, state: State, inputs: Mapping[str, Any]
    ) -> tuple[list[Plan], Sequence[int]] | None:
        """The plans of a step, one for each of its runs, and which parameters are stepped; None if it is not fused."""
        arrays = as_list(params)
        made = (state.plan or {}).values() if isinstance(state, State) else ()
        known = next((plan for plan in made if same(plan.params, arrays)), None)
        if obstacle(rule) or not (known or self.all_reachable(arrays)):
            return None
        if isinstance(state, State) and state.storage.packed and not self.takes_blocks(rule):
            return None
        seen = known if known and (state.sealed or known.has_states(state.arrays)) else None
        names_too = seen is None or seen.states.keys() != {
            *rule.state_names,
            *state.storage.scales,
        }
        check_state(rule, state, len(arrays), names_too)
        check_inputs(rule, inputs)
        given = [aligned(rule, "grads", params, grads)]
        given += [aligned(rule, n, params, inputs[n]) for n in rule.input_names]
        active: Sequence[int] = range(len(arrays))
        if type(None) in set(map(type, given[0])):
            active = [i for i in active if given[0][i] is not None]
        runs = [[i] for i in active] if rule.sequential else [active] if active else []
        try:
            plans = [self._plan(rule, params, arrays, state, run, given, seen) for run in runs]
        except _Elsewhere:
            state.plan = None
            return None
        _keep_only(state, plans)
        if runs:
            usual = len(active) == len(arrays) and not (rule.sequential or inputs)
            usual = usual and len(plans[0].counts) == 1 and not plans[0].copies
            state.plan.usual = plans[0] if usual else None
            plans[0].kind = _kind(rule, state) if usual else None
        return plans, active

    def _seen(
        self, rule: BoundRule, params: Any, plans: Sequence[Plan]
    ) -> telemetry.Figures | None:
        parts = [
            (part.members, seen)
            for plan in plans
            for part, seen in zip(plan.parts, plan.seen, strict=True)
        ]
        return telemetry.figures(self, rule, params, parts)

    def _step(
        self, rule: BoundRule, plan: Plan, state: State, group: dict[str, Any], now: Any
    ) -> dict[str, Any]:
        plan.fetch()
        hypers = [now if t == now[0] else (t, self._numbers(rule, state, t)) for t in plan.counts]
        new = self.launch(plan, hypers, now, group)
        plan.store()
        plan.let_go()
        return new

    def _numbers(self, rule: BoundRule, state: State, t: int) -> Mapping[str, Any]:
        """What step t's scalars are made of: hyperparameters, and what is no rule's."""
        found = self._at(rule, t)[0]
        if state.storage == PLAIN:
            return found
        # Of the seed as much as the noise takes: a kernel's scalars are float64, which hold no more than 53 bits.
        seed = state.handling.seed % (1 << 32)
        return {**found, SEED: seed, FACTOR: state.handling.factor}

    def _plan(
        self,
        rule: BoundRule,
        params: Any,
        arrays: list[Any],
        state: State,
        active: Sequence[int],
        given: list[list[Any]],
        seen: Plan | None,
    ) -> Plan:
        """The plan for these arrays, from the last step if nothing that it depends on has changed.

        ``seen``: the plan that parameters and state are already known to be those of.
        """
        counts = at(active, state.t)  # of steps before this one
        kinds = {t + 1: k for k, t in enumerate(sorted(set(counts)))}
        phases = {t: rule.phase(t) for t in kinds}
        pattern = tuple(kinds[t + 1] for t in counts) if len(kinds) > 1 else ()
        places = active if isinstance(active, range) else tuple(active)
        key = (rule.structure(), places, pattern, tuple(phases.values()), state.storage)
        known = state.plan or Plans()
        plan, made = known.get(key), False
        now = at(active, given[0]) if len(given) == 1 else [v[i] for v in given for i in active]
        looks = self.looks(now)
        alike = plan is not None and plan.looks_like(looks)
        again = plan is not None and looks is None and plan.was_given(now)
        if not (again or alike) and (
            rule.input_names or not {*map(type, now)} <= {self.array_type}
        ):
            if not self.all_reachable([a for a in now if hasattr(a, "dtype")]):
                raise _Elsewhere
        if plan is not None and not (
            (plan is seen or same(plan.params, arrays))
            and (plan is seen or state.sealed or plan.has_states(state.arrays))
            and (again or alike or self._alike(rule, plan, params, given, active, now))
        ):
            plan = None
        stepped = at(active, arrays)
        if plan is None:
            self._check(rule, params, grads=given, state=state)
            kept = (a for i in active for a in state.arrays[i].values())
            if not self.all_reachable([*stepped, *now, *kept]):
                raise _Elsewhere
            parts = self._parts(
                rule,
                arrays,
                active,
                state,
                [kinds[t + 1] for t in counts],
                [phases[t + 1] for t in counts],
            )
            dtype = np.dtype(self._dtype_of_group(state.group, stepped))
            lasting = (*rule.state_names, *state.storage.scales)
            states = {n: [own[n] for own in state.arrays] for n in lasting}
            shapes = list(map(self.shape_of, stepped))
            plan, made = Plan(list(arrays), states, shapes, parts, dtype), True
            again = alike = False
            known[key] = plan
            state.plan = known
        plan.counts = sorted(kinds)
        if again and self.stays_put:
            return plan  # nothing is anywhere else
        moved, elsewhere = [], False  # which parts, and whether parameters of an earlier plan
        for part in plan.parts:
            given_names = ("p", "g", *rule.input_names)
            # Where an array may move under its own name, its state may as well.
            names = part.bin.layout.filled if made or not self.stays_put else given_names
            own = {
                n: self._arrays_of(rule, n, part.members, arrays, plan, state, given) for n in names
            }
            axes = part.axes
            there = {
                n: looks.of(part.members, active, k)
                for k, n in enumerate(given_names[1:])
                if alike and looks is not None
            }
            new = [
                n
                for n, a in own.items()
                if part.place(
                    n, a, self, not made and (again or n not in given_names[1:]), there.get(n)
                )
            ]
            if new:
                moved.append(part)
            if not made and (part.axes != axes or not {*new} <= {*given_names}):
                # Its state lies in another order, or somewhere else: it is checked anew.
                del known[key]
                return self._plan(rule, params, arrays, state, active, given, None)
            elsewhere = elsewhere or ("p" in new and not made)
        if elsewhere and not self.all_reachable(stepped):
            raise _Elsewhere
        if elsewhere and list(map(self.shape_of, stepped)) != plan.shapes:
            del known[key]  # something of another shape has taken a parameter's place
            return self._plan(rule, params, arrays, state, active, given, None)
        self._check_apart(rule, state, moved)
        plan.looks = None if looks is None else looks.numbers
        if not again:  # a NumPy scalar in a 0-d array's place cannot be kept sight of
            in_sight = looks is None and set(map(type, now)) == {self.array_type}
            plan.given = list(map(ref, now)) if in_sight else []
        return plan

    def _check_apart(self, rule: BoundRule, state: State, parts: Sequence[Part]) -> None:
        if any(part.shares_memory(self) for part in parts):
            state.plan = None
            message = f"{rule.name}: {SHARES}"
            raise StepError(message)

    def _alike(
        self,
        rule: BoundRule,
        plan: Plan,
        params: Any,
        given: list[list[Any]],
        active: Sequence[int],
        now: list[Any],
    ) -> bool:
        """Whether gradients and extra inputs have the shapes and dtypes that the plan was made for."""
        if set(map(type, now)) != {self.array_type}:
            self._check_given(rule, params, given, active)
        return list(map(self.shape_of, now)) == plan.shapes * len(given)

    def _check(self, rule: BoundRule, params: Any, grads: list[list[Any]], state: State) -> None:
        arrays = self._checked_params(rule, params)
        self._check_given(rule, params, grads, [i for i, g in enumerate(grads[0]) if g is not None])
        for i, (p, own) in enumerate(zip(arrays, state.arrays, strict=True)):
            kept = state.storage.of(self.dtype(p))
            self._check_beside(rule, i, p, own, state.storage)
            for n, a in own.items():
                dtype, shape = kept.dtype_of(n, self.dtype(p)), kept.shape_of(n, tuple(p.shape))
                if tuple(a.shape) != shape or self.dtype(a) != dtype or not self.writable(a):
                    message = (
                        f"{rule.name}: state {n} of params[{i}] must be a writable {dtype} array of shape "
                        f"{shape}, got {self.dtype(a)} {tuple(a.shape)}; make a new state"
                    )
                    raise StepError(message)

    @staticmethod
    def _arrays_of(
        rule: BoundRule,
        name: str,
        members: list[int],
        arrays: list[Any],
        plan: Plan,
        state: State,
        given: list[list[Any]],
    ) -> list[np.ndarray]:
        if name == "p":
            return at(members, arrays)
        if name == "g" or name in rule.input_names:
            return at(members, given[0 if name == "g" else 1 + rule.input_names.index(name)])
        if name in plan.states:
            return at(members, plan.states[name])
        return [state.arrays[i][name] for i in members]  # what is beside some parameters

    def _parts(
        self,
        rule: BoundRule,
        arrays: list[Any],
        active: Sequence[int],
        state: State,
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
            program = trace(rule, phase, kept=state.storage.of(dtype))
            numbers = np.array([kinds[w] for w in places], np.int64)
            bin = Bin(program, dtype, shapes, numbers, state.storage)
            count = len(bin.layout.slots)
            table = np.zeros((len(members), bin.layout.width), np.int64)
            if state.storage.noisy:
                table[:, -1] = [state.handling.places[i] for i in members]
            parts.append(Part(bin, members, [Slot([], None) for _ in range(count)], table))
        return parts
