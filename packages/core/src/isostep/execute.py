"""The generic path: a rule's own functions run on a framework's arrays.

``ArrayBackend`` needs only a few methods of a framework (see ``isostep.backends.numpy`` for the shortest). It is
the reference on NumPy, and on any array-API library the path that always works.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from isostep import blocks, evaluation, nm, rounding, sums, telemetry
from isostep.calls import first_state
from isostep.flow import Group, Item, flow
from isostep.program import trace
from isostep.rule import BoundRule
from isostep.state import (
    COMPUTE_DTYPE,
    State,
    StepError,
    aligned,
    arranged,
    as_list,
    check_inputs,
    check_like,
    check_param,
    check_rule,
    check_state,
    keyed,
    labels,
)
from isostep.storage import HALVES, LOST, MASTER, PLAIN, Handling, Storage, whole


class ArrayBackend(ABC):
    """Runs rules on the arrays of one framework; subclasses say how to convert, cast and write.

    A step is checked whole before anything is computed, and written only once everything is: an error leaves
    parameters and state as they were.
    """

    name = "generic"
    #: dtypes that this backend's arrays can have
    dtypes: tuple[str, ...] = tuple(COMPUTE_DTYPE)
    #: whether ``step`` changes the arrays it is given (else it returns new ones)
    in_place = True
    #: a path with the same arithmetic, only other arrays or another arrangement of them, if there is one
    twin = ""

    # What a framework has to say.

    @abstractmethod
    def asarray(self, array: np.ndarray) -> Any:
        """A framework array with the values of a NumPy array (a copy), of the same dtype."""

    @abstractmethod
    def to_numpy(self, array: Any) -> np.ndarray:
        """A NumPy copy of a framework array, of the same dtype (ml_dtypes for bfloat16)."""

    def dtype(self, array: Any) -> str:
        """The plain name of an array's dtype, ``"float32"``."""
        return str(array.dtype).rpartition(".")[2]

    def cast(self, array: Any, dtype: str) -> Any:
        """The array in another dtype, rounded to nearest even; the same array if it has it already."""
        xp = nm.namespace(array)
        return xp.astype(array, getattr(xp, dtype), copy=False)

    def zeros_like(self, array: Any, dtype: str | None = None) -> Any:
        """Zeros of an array's shape, dtype and device."""
        xp = nm.namespace(array)
        return (
            xp.zeros_like(array)
            if dtype is None
            else xp.zeros_like(array, dtype=getattr(xp, dtype))
        )

    def scalar(self, number: float, dtype: str, like: Any) -> Any:
        """A 0-d array on the device of ``like``."""
        xp = nm.namespace(like)
        return xp.asarray(number, dtype=getattr(xp, dtype), device=nm.device(like))

    def write(self, target: Any, value: Any) -> Any:
        """Store ``value`` (of the compute dtype) as ``target`` (rounded once); return what replaces it."""
        target[...] = self.cast(value, self.dtype(target))
        return target

    def writable(self, array: Any) -> bool:
        """Whether ``write`` may change this array."""
        return True

    def folded(self, array: Any) -> bool:
        """Whether elements of it share memory, so that none can be written alone."""
        return False

    def views(self, value: Any, array: Any) -> bool:
        """Whether a value that a rule returned is an array, or a view of it, which changes with the array."""
        return value is array

    def quiet(self) -> AbstractContextManager[Any]:
        """A context in which NaN and infinity pass without warnings: they are values here."""
        return nullcontext()

    def call(self, op: str, *args: Any) -> Any:
        """An elementwise operation on arrays and numbers."""
        return nm.call(op, *args)

    def around(self, array: Any) -> AbstractContextManager[Any]:
        """A context in which arrays like this one are computed with outside a step."""
        return self.quiet()

    def sum_dtype(self, array: Any) -> str:
        """The dtype that an observed rule's sums are added up in."""
        return "float64"

    def path(self, rule: BoundRule) -> str:
        """Which way this rule runs here."""
        return "generic"

    def forget(self) -> None:
        """Let go of what was compiled, where it piles up: a process that tests thousands of rules needs that."""
        return None

    def value_and_grad(self, function: Any) -> Any:
        """``(params, *args) -> (value, gradients)`` of a scalar function of params; None if the framework has none.

        No step needs it: it is what networks are trained with (``isostep.train``).
        """
        return None

    # What follows from it.

    def compute_dtype(self, array: Any) -> str:
        """The dtype that a parameter's step is computed in."""
        return COMPUTE_DTYPE[self.dtype(array)]

    def init(
        self, rule: BoundRule, params: Any, *, storage: Storage = PLAIN, seed: int = 0
    ) -> State:
        """The state before the first step, for a list or dict of parameters.

        ``storage``: how it is kept, see ``isostep.low_precision``; ``seed``: of the noise of stochastic rounding.
        """
        check_rule(rule)
        arrays = self._checked_params(rule, params)
        storage = self._storage(rule, storage)
        hyper = self._at(rule, 1)[0]
        with self.quiet():
            made = [self._kept(p, self._init_one(rule, hyper, p, storage), storage) for p in arrays]
        group = {}
        if rule.group_names:
            if not arrays:
                message = (
                    f"{rule.name}: needs at least one parameter to place its group state, got none"
                )
                raise StepError(message)
            dtype = self._group_dtype(arrays)
            group = {n: self.scalar(v, dtype, arrays[0]) for n, v in rule.group_init(hyper).items()}
        handling = Handling(seed, range(len(arrays)))
        keys = tuple(params) if isinstance(params, Mapping) else None
        counts = [0] * len(arrays)
        return State(rule.name, counts, made, group, keys=keys, storage=storage, handling=handling)

    def _storage(self, rule: BoundRule, storage: Storage) -> Storage:
        """How this rule's state is kept."""
        if storage.state is not None and storage.state not in (*self.dtypes, *blocks.FORMATS):
            message = f"{rule.name}: {self.name} has no state of {storage.state}, only of {', '.join(self.dtypes)}"
            raise StepError(message)
        try:
            return storage.of_rule(rule)
        except ValueError as error:
            raise StepError(str(error)) from None

    def _kept(self, p: Any, made: dict[str, Any], storage: Storage) -> dict[str, Any]:
        """A parameter's first state arrays, with what is kept beside them."""
        beside = storage.of(self.dtype(p)).beside
        if beside == LOST:
            made[beside] = self.zeros_like(p)
        elif beside == MASTER:
            made[beside] = self.write(self.zeros_like(p, "float32"), self.cast(p, "float32"))
        for n in (*storage.packed, *storage.scales):
            made[n] = self.bytes(storage.shape_of(n, tuple(p.shape)), p)
        return made

    def _checked_params(self, rule: BoundRule, params: Any) -> list[Any]:
        arrays = as_list(params)
        for label, p in zip(labels(params), arrays, strict=True):
            if not hasattr(p, "dtype") or not hasattr(p, "shape"):
                message = f"{rule.name}: {label} must be an array, got {type(p).__name__}"
                raise StepError(message)
            check_param(rule, label, self.dtype(p), tuple(p.shape))
            if not self.writable(p):
                message = f"{rule.name}: {label} is read-only; pass a writable copy"
                raise StepError(message)
            if self.folded(p):
                message = f"{rule.name}: {label} has elements that share memory; pass a copy"
                raise StepError(message)
        return arrays

    def _group_dtype(self, arrays: Sequence[Any]) -> str:
        return max(
            (self.compute_dtype(a) for a in arrays), key=lambda d: d == "float64", default="float32"
        )

    def _dtype_of_group(self, group: dict[str, Any], arrays: Sequence[Any]) -> str:
        """That of the group's state; it does not change when some parameters have no gradient."""
        return self.dtype(next(iter(group.values()))) if group else self._group_dtype(arrays)

    def _init_one(
        self, rule: BoundRule, hyper: Mapping[str, Any], p: Any, storage: Storage
    ) -> dict[str, Any]:
        made: dict[str, Any] = {}
        dtype = self.dtype(p) if storage.form else storage.state or self.dtype(p)
        for c in rule.components:
            names = rule.state_of(c)
            if c.part.init is None:
                own = [n for n in names if n not in storage.packed]
                made |= {n: self.zeros_like(p, dtype) for n in own}
                continue
            wide = self.cast(p, self.compute_dtype(p))
            values = first_state(c, wide, names, rule.given_init(c, hyper))
            for n, v in zip(names, values, strict=True):
                made[n] = self.write(self.zeros_like(v, dtype), v)
        return made

    def step(
        self, rule: BoundRule, params: Any, grads: Any, state: State, **inputs: Any
    ) -> tuple[Any, State]:
        """One step: ``(params, state)`` after it.

        ``grads`` has the structure of ``params``; an entry of None leaves its parameter alone and its step
        count where it is. Extra inputs are given by name: in the same structure (a Hessian diagonal), or as
        a number or a 0-d array if they are the group's (the loss).
        """
        params = keyed(rule, params, state)
        work = self.prepare(rule, params, grads, state, inputs)
        active = [i for i, item in enumerate(work) if item is not None]
        given = [None if item is None else {"p": item.p, **item.state} for item in work]
        with self.quiet():
            runs = [[i] for i in active] if rule.sequential else [active] if active else []
            group = self.group_values(rule, state, inputs) if runs else dict(state.group)
            for run in runs:
                items = [item for i in run if (item := work[i]) is not None]
                group = self._run(rule, items, group, state.group_t + 1)
            found = self._figures(rule, params, work)
            done = self._commit(rule, params, state, work, given, group, bool(active))
            done[1].figures = found
            return done

    def _figures(
        self, rule: BoundRule, params: Any, work: Sequence[Item | None]
    ) -> telemetry.Figures | None:
        """An observed rule's figures, of the sums that ``_run`` has left with the items."""
        if not rule.observed:
            return None
        seen = {i: item.seen for i, item in enumerate(work) if item is not None}
        rows = list(seen.values())
        parts = [(list(seen), lambda: nm.namespace(rows[0]).stack(rows))] if seen else []
        return telemetry.figures(self, rule, params, parts)

    def _see(self, rule: BoundRule, item: Item, g: Any, u: Any, state: Mapping[str, Any]) -> None:
        """Leave an observed rule's sums with the item; ``g`` as it was given, ``state`` the new one."""
        if rule.observed:
            p = item.p
            m = None if rule.momentum is None else state[rule.momentum]
            wide = self.sum_dtype(p)
            update = u.value - p if isinstance(u, nm.Overwrite) else u
            item.seen = sums.of_arrays(p, g, update, m, lambda a: self.cast(a, wide), self.call)

    def evaluation_point(self, rule: BoundRule, params: Any, state: State) -> Any:
        """The parameters to evaluate the model with, in new arrays, in the structure of ``params``.

        For most rules a copy of ``params``; for a schedule-free rule or ASGD the averaged point. Training goes on
        with ``params``, which are left alone.
        """
        params = keyed(rule, params, state)
        with self.quiet():
            return arranged(params, evaluation.points(self, rule, params, state))

    def group_values(
        self, rule: BoundRule, state: State, inputs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The group's values that a step starts from: its state, and copies of what the step is given."""
        group = dict(state.group)
        for n in rule.group_input_names:
            kept, value = group[n], inputs[n]
            number = value if isinstance(value, int | float) else 0.0
            group[n] = self.scalar(number, self.dtype(kept), kept)
            if number is not value:
                group[n] = self.write(group[n], value)
        return group

    def prepare(
        self, rule: BoundRule, params: Any, grads: Any, state: State, inputs: dict[str, Any]
    ) -> list[Item | None]:
        """Check everything and widen it to the compute dtype; None where there is no gradient."""
        check_rule(rule)
        arrays = self._checked_params(rule, params)
        check_state(rule, state, len(arrays))
        self._check_state_arrays(rule, arrays, state)
        check_inputs(rule, inputs)
        all_grads = aligned(rule, "grads", params, grads)
        all_inputs = {n: aligned(rule, n, params, inputs[n]) for n in rule.input_names}
        active = [i for i, g in enumerate(all_grads) if g is not None]
        self._check_given(rule, params, [all_grads, *all_inputs.values()], active)
        hypers: dict[Any, tuple[Mapping[str, Any], tuple[int, ...]]] = {}
        work: list[Item | None] = []
        for i, p in enumerate(arrays):
            if all_grads[i] is None:
                work.append(None)
                continue
            t = state.t[i] + 1
            if t not in hypers:
                hypers[t] = self._at(rule, t)
            wide = self.compute_dtype(p)
            own = self.opened(state.arrays[i], state.storage, wide)
            g, stored = self.cast(all_grads[i], wide), self.cast(p, wide)
            if state.storage.beside is not None:
                held, choose = partial(self._narrowed, p), partial(self.call, "where")
                stored = whole(stored, own, held, choose)
            work.append(
                Item(
                    t=t,
                    p=stored,
                    g=self.scaled(g, state.handling.factor) if state.storage.scaled else g,
                    inputs={n: self.cast(v[i], wide) for n, v in all_inputs.items()},
                    state=own,
                    hyper=hypers[t][0],
                    phase=hypers[t][1],
                )
            )
        return work

    def opened(self, own: Mapping[str, Any], storage: Storage, wide: str) -> dict[str, Any]:
        """A parameter's state, and what is beside it, in the compute dtype."""
        form = str(storage.form)
        found = {
            n: self.unpacked(a, own[n + blocks.SCALE], form) if n in storage.packed else a
            for n, a in own.items()
            if n not in storage.scales
        }
        return {n: self.cast(a, wide) for n, a in found.items()}

    def _at(self, rule: BoundRule, t: Any) -> tuple[Mapping[str, Any], tuple[int, ...]]:
        """The hyperparameters and the phase of step t."""
        return rule.at(t), rule.phase(t)

    def _check_state_arrays(self, rule: BoundRule, arrays: list[Any], state: State) -> None:
        """State arrays must fit their parameters; those that a rule's init makes have shapes of their own."""
        free = {n for c in rule.components if c.part.init is not None for n in rule.state_of(c)}
        for i, (p, own) in enumerate(zip(arrays, state.arrays, strict=True)):
            self._check_beside(rule, i, p, own, state.storage)
            mine = self.dtype(p)
            ways = state.storage.of(mine)
            for n, a in own.items():
                shape, dtype = tuple(a.shape), self.dtype(a)
                kept, wanted = ways.dtype_of(n, mine), ways.shape_of(n, tuple(p.shape))
                if dtype != kept or (n not in free and shape != wanted):
                    message = (
                        f"{rule.name}: state {n} of params[{i}] must be a {kept} array of shape "
                        f"{wanted}, got {dtype} {shape}; make a new state"
                    )
                    raise StepError(message)
                if self.in_place and not self.writable(a):
                    message = (
                        f"{rule.name}: state {n} of params[{i}] is read-only; pass a writable copy"
                    )
                    raise StepError(message)

    def _check_beside(
        self, rule: BoundRule, i: int, p: Any, own: Mapping[str, Any], storage: Storage
    ) -> None:
        """A parameter has beside its state what its dtype needs, no more and no less."""
        if not storage.extra and own.keys() <= {*rule.state_names}:
            return
        wanted = {*storage.of(self.dtype(p)).extra}
        if {*own} - {*rule.state_names} != wanted:
            found, needs = sorted({*own} - {*rule.state_names}), sorted(map(str, wanted))
            message = f"{rule.name}: params[{i}] of {self.dtype(p)} needs {needs} beside its state, got {found}"
            raise StepError(message)

    def _check_given(
        self, rule: BoundRule, params: Any, given: list[list[Any]], active: Sequence[int]
    ) -> None:
        """Gradients and extra inputs (``given``, in the rule's order) must fit their parameters."""
        arrays, named = as_list(params), labels(params)
        for i in active:
            own = (self.dtype(arrays[i]), tuple(arrays[i].shape))
            for what, values in zip(("gradient", *rule.input_names), given, strict=True):
                v = values[i]
                if v is None or not hasattr(v, "dtype") or not hasattr(v, "shape"):
                    message = f"{rule.name}: {what} of {named[i]} must be an array, got {type(v).__name__}"
                    raise StepError(message)
                check_like(rule, named[i], what, self.dtype(v), tuple(v.shape), own)

    def _run(
        self, rule: BoundRule, items: list[Item], group: dict[str, Any], t: int
    ) -> dict[str, Any]:
        like = items[0].p
        dtype = self._dtype_of_group(group, [item.p for item in items])
        for phase, shape in {(item.phase, tuple(item.p.shape)) for item in items}:
            trace(rule, phase, shape)  # raises: what has no one meaning on all paths has none here

        def keep(value: Any) -> Any:
            number = isinstance(value, int | float) and not hasattr(value, "dtype")
            return self.scalar(value, dtype, like) if number else self.cast(value, dtype)

        def total(name: str, members: Sequence[Item], values: Sequence[Any]) -> Any:
            result = keep(nm.sum(values[0]))
            for v in values[1:]:
                result = result + keep(nm.sum(v))
            return result

        shared = Group(
            t=t,
            state=group,
            hyper=rule.at(t),
            total=total,
            fit=lambda value, item: self.cast(value, self.dtype(item.p)),
            keep=keep,
        )
        grads = [item.g for item in items]  # as they are before pieces
        flow(rule, items, shared)
        for item, g in zip(items, grads, strict=True):
            self._see(rule, item, g, item.u, item.state)
        return shared.state

    def _commit(
        self,
        rule: BoundRule,
        params: Any,
        state: State,
        work: list[Item | None],
        given: list[dict[str, Any] | None],
        group: dict[str, Any],
        stepped: bool,
    ) -> tuple[Any, State]:
        """Round and store: the only place where p + u happens on this path."""
        arrays, ways = as_list(params), state.storage
        new_params, new_state = list(arrays), [dict(a) for a in state.arrays]
        for i, (item, old) in enumerate(zip(work, given, strict=True)):
            if item is None or old is None:
                continue
            if item.written and self._as_computed(arrays[i], state.storage):
                continue
            p = item.u.value if isinstance(item.u, nm.Overwrite) else item.p + item.u
            new = {"p": p, **item.state}
            for n, v in new.items():
                # What came in and goes out under another name is read before it is written.
                if self.in_place and any(n != m and self.views(v, a) for m, a in old.items()):
                    new[n] = self.write(self.zeros_like(v), v)
            noise = (state.handling.seed, item.t, state.handling.places[i]) if ways.noisy else None
            chance = noise if ways.stochastic else None
            store = partial(self._store, noise=chance, written=item.written)
            new_params[i] = store(arrays[i], p := new.pop("p"), place=0)
            new_state[i] |= self._beside(state.arrays[i], new_params[i], p)
            # Of what was written where it lies, a new value is the old array.
            stored = trace(rule, item.phase, tuple(item.p.shape)).stored if item.written else ()
            for n, v in new.items():
                place, own = ways.number(n, rule.state_names), state.arrays[i]
                if n not in ways.packed:
                    new_state[i][n] = store(own[n], v, place=place)
                    continue
                if v is old[n] and (not item.written or n not in stored):
                    continue  # it rests: packed again its scale may be another
                narrow = _spread(self.cast(v, "float32"), tuple(own[n].shape))
                both = self.packed(narrow, str(ways.form), noise, place)
                for each, kept in zip((n, n + blocks.SCALE), both, strict=True):
                    new_state[i][each] = self.write(own[each], kept)
        moved = [item is not None for item in work]
        if not self.in_place:
            counts = [t + m for t, m in zip(state.t, moved, strict=True)]
            after = state.after(counts, new_state, group, state.group_t + stepped)
            return arranged(params, new_params), after
        self._count(state, moved, group)
        return params, state

    def _as_computed(self, p: Any, storage: Storage) -> bool:
        """Whether a parameter and its state are kept as they are computed with: in that dtype, with nothing beside."""
        dtype = self.dtype(p)
        return COMPUTE_DTYPE[dtype] == dtype and storage.of(dtype) == PLAIN

    def _store(
        self,
        target: Any,
        value: Any,
        *,
        noise: tuple[int, int, int] | None,
        place: int,
        written: bool,
    ) -> Any:
        """Round and store a parameter's ``place``-th array, with noise of (seed, step, parameter) if given."""
        dtype = self.dtype(target)
        if written and dtype == self.dtype(value):
            return target
        if noise is not None and dtype in HALVES:
            narrow = _spread(self.cast(value, "float32"), tuple(target.shape))
            value = self.stochastic(narrow, dtype, noise, place)
        return self.write(target, value)

    def _narrowed(self, p: Any, value: Any) -> Any:
        """What an array like ``p`` holds of a value, in the value's dtype."""
        return self.cast(self.cast(value, self.dtype(p)), self.dtype(value))

    def scaled(self, gradient: Any, factor: Any) -> Any:
        """A gradient in the compute dtype times a number, or a 0-d array."""
        return gradient * factor

    def stochastic(self, value: Any, dtype: str, noise: tuple[int, int, int], place: int) -> Any:
        """float32 values, rounded by chance to those of a half-precision dtype; see ``isostep.rounding``."""
        xp = nm.namespace(value)
        low, high = map(xp.asarray, rounding.numbered(tuple(value.shape)))
        key = rounding.key_of(xp, *noise)
        return rounding.rounded(xp, value, dtype, key, place, low, high)

    def bytes(self, shape: tuple[int, ...], like: Any) -> Any:
        """Zeros of one byte each, on the device of ``like``."""
        xp = nm.namespace(like)
        return xp.zeros(shape, dtype=xp.uint8, device=nm.device(like))

    def packed(
        self, value: Any, form: str, noise: tuple[int, int, int] | None, place: int
    ) -> tuple[Any, Any]:
        """float32 values in blocks of eight bits, and the blocks' scales; see ``isostep.blocks``."""
        assert noise is not None
        xp = nm.namespace(value)
        low, high = map(xp.asarray, rounding.numbered(tuple(value.shape)))
        key = rounding.key_of(xp, *noise)
        return blocks.packed(xp, value, form, rounding.noise_of(xp, key, place, low, high))

    def unpacked(self, codes: Any, scales: Any, form: str) -> Any:
        """float32 values of such blocks."""
        return blocks.unpacked(nm.namespace(codes), codes, scales, form)

    def _beside(self, own: Mapping[str, Any], stored: Any, whole: Any) -> dict[str, Any]:
        """What is kept beside a parameter of which ``stored`` is what its dtype can hold of ``whole``."""
        if LOST in own:
            lost = whole - self.cast(stored, self.dtype(whole))
            kept = self.call("where", self.call("isfinite", lost), lost, self.zeros_like(lost))
            return {LOST: self.write(own[LOST], kept)}
        return {MASTER: self.write(own[MASTER], whole)} if MASTER in own else {}

    def _count(self, state: State, moved: Sequence[bool], group: dict[str, Any]) -> None:
        """Write what a step in place did to the counts and to the group's values."""
        state.t[:] = [t + m for t, m in zip(state.t, moved, strict=True)]
        state.group.update(group)
        state.group_t += any(moved)


def _spread(value: Any, shape: tuple[int, ...]) -> Any:
    """A value that may be one number for all elements, each of which is rounded by a chance of its own."""
    return value if tuple(value.shape) == shape else nm.namespace(value).broadcast_to(value, shape)
