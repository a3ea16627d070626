"""Rules as optax-style transformations: pairs of pure functions, to be used inside jit, scan, grad and chains.

``init(params) -> state`` and ``update(grads, state, params, **inputs) -> (updates, state)``; ``updates`` are what
``optax.apply_updates`` adds. The step count lives on the device. Hyperparameters given as numbers are folded on
the host in float64; those given as callables of the steps done, or as arrays (``optax.inject_hyperparams``), are
traced, so that changing them does not recompile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import isostep.scalars as scalars
from isostep.calls import COUNT, RuleError, first_state
from isostep.domains import DomainError
from isostep.interpret import Task
from isostep.program import PARAMETER, UPDATE, Program, trace
from isostep.rule import BoundRule
from isostep.state import COMPUTE_DTYPE, StepError, check_inputs, check_rule
from isostep.storage import HALVES, OPTIONS, PLAIN, Storage
from isostep.values import Domain, Value
from isostep_jax import devices, mesh
from isostep_jax.layout import (
    Buffer,
    Flat,
    Run,
    Segments,
    Stack,
    Stacked,
    observed,
    singles,
    stacks,
)
from isostep_jax.pair import Transform
from isostep_jax.storage import Noise, asked_for, closed, first_beside, kept, opened
from isostep_jax.trees import flattened, like, with_gradients

#: What optax's protocol for extra arguments calls an input, where that is another name.
OPTAX = {"loss": "value"}
#: The last step that is counted, as in optax: those after it are taken as it is, for beyond int32 t would be negative.
MOST = 2**31 - 1
#: What helps if a state does not fit: the gradients that stand for parameters, those that are not None, the parameters.
ABSENT = "pass the parameters, or gradients like them"
LEFT_OUT = "a leaf with state needs a gradient, zeros if it has none"
FITTING = "make a new state with tx.init(params)"


class TransformState(NamedTuple):
    """The steps done (int32, 0-d), the rule's arrays (each a tree like the parameters) and its group's values."""

    count: jax.Array  # type: ignore[assignment]  # optax calls it so, tuple.count or not
    arrays: dict[str, Any]
    group: dict[str, jax.Array]


@dataclass(frozen=True)
class Init:
    """``init(params) -> state`` of a rule; what else is made of a transformation finds its rule here.

    It is data: a transformation is pickled as it, and made again of it.
    """

    rule: BoundRule
    grouped: bool = False
    exact_updates: bool = True
    storage: Storage = PLAIN
    seed: int = 0

    def __call__(self, params: Any) -> TransformState:
        rule = self.rule
        leaves, tree = flattened(rule, params, together=self.together)
        count = jnp.zeros((), jnp.int32)
        hyper = values_at(rule, count)
        made = [_init_leaf(rule, hyper, p, self.storage) for p in leaves]
        arrays = {n: self.keep(tree, leaves, [m[n] for m in made]) for n in self.names}
        wide = _group_dtype(leaves)
        made_of = _widened(hyper, wide)
        group = {n: jnp.array(v, wide) for n, v in rule.group_init(made_of).items()}
        return TransformState(count, arrays, self.met(group, leaves))

    def pair(self) -> Transform:
        """The transformation."""
        return build(self)

    @property
    def together(self) -> bool:
        """Whether leaves meet one another: in sums over the group, or in stacks."""
        return self.grouped or self.rule.reduces_group

    def met(self, group: dict[str, Any], leaves: list[Any]) -> dict[str, Any]:
        """The group's values, of the types that they have where sums of the leaves, or the caller, make them."""
        if not (self.rule.reduces_group or self.rule.group_input_names):
            return group
        return {n: mesh.met(v, leaves) for n, v in group.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """What the state's arrays are called: as the rule calls them, and what is kept beside these or parameters."""
        return (*self.rule.state_names, *self.storage.extra)

    def runs(self, leaves: list[Any]) -> list[Run]:
        """Which leaves are kept as one stack."""
        if not self.grouped:
            return singles(len(leaves))
        return stacks([(p.shape, p.dtype) for p in leaves], [p.size for p in leaves])

    def keep(self, tree: Any, leaves: list[Any], values: list[Any]) -> Any:
        """One state array of every leaf as it is kept: a tree like the parameters, or stacks."""
        runs = self.runs(leaves)
        each = [None if values[run.leaves[0]] is None else run.join(values) for run in runs]
        return jax.tree.unflatten(self.structure(tree, runs), each)

    def structure(self, tree: Any, runs: list[Run]) -> Any:
        """What a state array of all leaves is: a tree like the parameters, or a list of stacks.

        Of no leaves it is the tree in either case: ``optax.tree.map_params`` looks for an empty one that it gave.
        """
        return jax.tree.structure([0] * len(runs)) if self.grouped and runs else tree

    def held(
        self, state: TransformState, tree: Any, leaves: list[Any], model: str
    ) -> list[dict[str, Any]]:
        """The state's arrays of each run, by name; leaves of full precision have nothing beside them."""
        runs = self.runs(leaves)
        kept = self.structure(tree, runs)
        found: list[dict[str, Any]] = [{} for _ in runs]
        for n in self.names:
            own = [self._has(n, leaves[run.leaves[0]]) for run in runs]
            structure = kept
            if not all(own):
                nothing = [0 if has else None for has in own]
                structure = jax.tree.structure(jax.tree.unflatten(kept, nothing))
            values = iter(like(self.rule, f"state {n}", structure, [], state.arrays[n], model))
            for each, has in zip(found, own, strict=True):
                if has:
                    each[n] = jnp.asarray(next(values))
        return found

    def check(self, state: Any) -> None:
        """A state must be one that this made."""
        name, hint = self.rule.name, "make one with tx.init(params)"
        if not isinstance(state, TransformState):
            message = f"{name}: state must be a TransformState, got {type(state).__name__}; {hint}"
            raise StepError(message)
        for what, found, wanted in (
            ("arrays", state.arrays, self.names),
            ("group values", state.group, self.rule.group_names),
        ):
            if set(found) != set(wanted):
                message = f"{name}: state has the {what} {sorted(found)}, expected {sorted(wanted)}; {hint}"
                raise StepError(message)

    def numbers(self, state: TransformState, leaves: list[Any]) -> TransformState:
        """A state whose count and group values are arrays of JAX of their dtypes, whoever restored it; checked."""
        name, wide = self.rule.name, _group_dtype(leaves)
        for n, v in {"count": state.count, **state.group}.items():
            wanted = "whole" if n == "count" else wide
            if not (isinstance(v, int | float) or hasattr(v, "dtype")):
                message = f"{name}: state {n} must be one {wanted} number, got {v!r}; make one with tx.init(params)"
                raise StepError(message)
            dtype = jnp.result_type(v)
            if n == "count":
                fits = jnp.issubdtype(dtype, jnp.integer)
            else:  # a number of Python has every digit, whatever JAX takes it for
                fits = isinstance(v, float) or dtype.name == wide
            if jnp.shape(v) != () or not fits:
                message = (
                    f"{name}: state {n} must be one {wanted} number, got {dtype.name} {jnp.shape(v)}; "
                    "cast a state's arrays alone, or make one with tx.init(params)"
                )
                raise StepError(message)
        count = jnp.asarray(state.count, jnp.int32)
        return TransformState(
            count, state.arrays, {n: jnp.asarray(v, wide) for n, v in state.group.items()}
        )

    def check_arrays(self, leaf: _Leaf, program: Program) -> None:
        """A leaf's state arrays must fit it, or else they would be broadcast."""
        p, shapes = leaf.arrays["p"], _own_shapes(program)
        kept = self.storage.of(p.dtype.name)
        for n in self.names:
            if n not in leaf.arrays:
                continue
            stack = p.shape[: bool(leaf.run.stacked)]
            own = shapes.get(n, self.storage.shape_of(n, tuple(p.shape[len(stack) :])))
            shape = (*stack, *own)
            wanted, array = (kept.dtype_of(n, p.dtype.name), shape), leaf.arrays[n]
            which = ", ".join(map(str, leaf.run.leaves))
            if (array.dtype.name, tuple(array.shape)) != wanted:
                message = (
                    f"{self.rule.name}: state {n} of leaf {which} of params must be {wanted[0]} of shape {shape}, "
                    f"got {array.dtype.name} {tuple(array.shape)}; {leaf.hint}"
                )
                raise StepError(message)
            devices.check_like(self.rule.name, f"state {n} of leaf {which}", p, array)

    def stand_ins(self, state: TransformState, tree: Any, grads: list[Any]) -> list[Any]:
        """Gradients in the place of parameters, in the parameters' dtypes, which the state has unless told otherwise.

        Where stacks of the state are not those of the gradients' dtypes, nothing tells whose they are.
        """
        runs = self.runs(grads)
        own = [n for n in self.rule.state_names if self.storage.dtype_of(n, "own") == "own"]
        first = state.arrays[own[0]] if own else None
        if jax.tree.structure(first) != self.structure(tree, runs):
            return grads
        found = list(grads)
        for run, array in zip(runs, jax.tree.leaves(first), strict=True):
            if str(getattr(array, "dtype", None)) in COMPUTE_DTYPE:
                for i in run.leaves:
                    found[i] = grads[i].astype(array.dtype)
        return found

    def reads(self, leaves: list[Any]) -> bool:
        """Whether a step of leaves of these shapes and dtypes looks at the parameters' numbers."""
        halves = [self.storage.of(n) for p in leaves if (n := p.dtype.name) in HALVES]
        if any(ways.beside or ways.stochastic for ways in halves):
            return True
        shapes = {tuple(p.shape) for p in leaves}
        programs = (trace(self.rule, kind, s) for s in shapes for kind in self.rule.kinds())
        return any(
            PARAMETER in p.outputs or any(n.op == "input" and n.name == PARAMETER for n in p.live)
            for p in programs
        )

    def _has(self, name: str, p: Any) -> bool:
        return name in self.rule.state_names or name in self.storage.of(p.dtype.name).extra

    def packed(self, tree: Any, runs: list[Run], done: list[dict[str, Any]]) -> dict[str, Any]:
        """The arrays of every run as the state keeps them."""
        kept = self.structure(tree, runs)
        return {n: jax.tree.unflatten(kept, [a.get(n) for a in done]) for n in self.names}


#: What ``transform`` and the constructors take beside hyperparameters, with the defaults.
KEYWORDS: dict[str, Any] = {"grouped": False, "exact_updates": True, **OPTIONS}


def _count_dtype(count: Any) -> Any:
    """What a step leaves a count in: int32, but a restored one keeps its 64 bits, as the carry of a scan has to."""
    dtype = jnp.asarray(count).dtype if hasattr(count, "dtype") else None
    return dtype if dtype == jnp.int64 else jnp.int32


@cache
def _own_shapes(program: Program) -> dict[str, tuple[int, ...]]:
    """The shapes of a program's inputs that are not like the parameter."""
    return {n: node.attrs[1] for n, node in program.inputs().items() if node.attrs[1] is not None}


def transform(
    rule: BoundRule, *, grouped: bool = False, exact_updates: bool = True, **options: Any
) -> Transform:
    """A bound or composed rule as a transformation.

    ``grouped`` keeps the state of small leaves of one shape in stacks of twenty: with a thousand such leaves a
    step takes less than half of the time, and so does its compilation. Not for sharded leaves.

    ``exact_updates`` gives half-precision leaves updates in float32: p + u is rounded once, as on every backend, and
    what ``optax.chain`` has behind the rule gets every digit. But that is not the gradients' dtype, which
    ``optax.apply_if_finite``, ``optax.conditionally_mask`` and a running average behind the rule insist on: with False
    updates come in the leaf's dtype. That rounds each to 8 bits (11 in float16, where below 3e-8 all is zero) before
    p + u is rounded again; and where a number more than doubles or halves, p + u may miss by a rounding the value that
    master weights, Kahan's sums or stochastic rounding are about.

    Options for half-precision leaves, as those of torch's classes, with the same bits: ``master_weights`` (steps are
    taken with a float32 copy), ``kahan`` (a second half-precision array keeps what the leaf cannot hold),
    ``stochastic_rounding`` (of leaves and state, by ``rounding_seed``; see ``isostep.rounding``); and ``state_dtype``
    for the state of all leaves. The state has then a tree ``master_weight`` or ``kahan_compensation``, None for leaves
    of full precision; updates are what takes a leaf to the rounded value.

    ``state_dtype="mxfp8_e4m3"`` and ``"mxfp8_e5m2"`` keep averages in eight bits (see ``isostep.blocks``): arrays of
    uint8, each with a tree of its blocks' scales beside it, as ``exp_avg_scale``, of one axis whatever the leaf has.
    Shards of whole blocks stay where they are. Derivatives go through the update that a step gives, but not through
    such state to the next.

    Raises:
        StepError: this is no bound rule.
        RuleError: an option is unknown, or the rule takes parameters one after another.
        ValueError: an option's value is none that it has, or the rule has no state to keep in eight bits.
    """
    check_rule(rule)
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        message = f"{rule.name}: unknown option {unknown[0]!r}; it has {', '.join(KEYWORDS)}"
        raise RuleError(message)
    if rule.sequential:
        message = f"{rule.name}: a rule that takes parameters one after another has no transformation; see jax:jit"
        raise RuleError(message)
    storage, seed = asked_for(rule.name, options)
    return build(Init(rule, grouped, exact_updates, storage.of_rule(rule), seed))


def build(
    init: Init,
    segments: Sequence[Segments | None] | None = None,
    numbers: Sequence[Sequence[int]] | None = None,
) -> Transform:
    """The pair for an ``init``.

    ``segments`` say of each leaf, if it is a flat buffer, what lies in it; ``numbers`` which parameters these are.
    """
    rule = init.rule

    def update(
        grads: Any, state: TransformState, params: Any = None, **inputs: Any
    ) -> tuple[Any, TransformState]:
        # Of no gradients None is the tree of no parameters.
        absent = params is None and grads is not None
        own = grads if absent else with_gradients(params, grads)
        what = "params" if own is params else "grads"
        leaves, tree = flattened(rule, own, what, together=init.together)
        init.check(state)
        if absent:
            leaves = init.stand_ins(state, tree, leaves)
            if init.reads(leaves):
                message = f"{rule.name} needs the parameters: update(grads, state, params)"
                raise StepError(message)
        counted = _count_dtype(state.count)
        state = init.numbers(state, leaves)
        # Inputs that the rule does not name are another transformation's.
        names = (*rule.input_names, *rule.group_input_names)
        named = {
            ours: inputs[optaxs] for ours, optaxs in OPTAX.items() if optaxs in inputs
        } | inputs
        wanted = {n: named[n] for n in names if n in named}
        check_inputs(rule, wanted)
        shared = {f"state {n}": v for n, v in {"count": state.count, **state.group}.items()}
        for n, v in {**shared, **{n: wanted[n] for n in rule.group_input_names}}.items():
            devices.check_shared(rule.name, n, leaves, v)
        group = state.group | {
            n: jnp.asarray(wanted.pop(n), state.group[n].dtype) for n in rule.group_input_names
        }
        runs = init.runs(leaves)
        given = {n: like(rule, n, tree, leaves, v) for n, v in {"g": grads, **wanted}.items()}
        held = init.held(state, tree, leaves, what)
        hint = ABSENT if absent else FITTING if own is params else LEFT_OUT
        stacked = [
            _Leaf(
                {n: run.join(c) for n, c in {"p": leaves, **given}.items()} | held[k],
                run,
                segments[k] if segments else None,
                numbers[k] if numbers else run.leaves,
                hint,
            )
            for k, run in enumerate(runs)
        ]
        gathered = mesh.gathers(rule, [x.arrays for x in stacked])
        met = mesh.whole if gathered else mesh.alike
        taken = [x._replace(arrays=met(x.arrays)) for x in stacked]
        now = jnp.minimum(state.count, MOST - 1) + 1
        t = now.astype(jnp.float32)
        if _group_dtype(leaves) == "float64":
            t = t.astype(jnp.float64)

        hyper = values_at(rule, state.count)

        def step(phase: tuple[int, ...]) -> Any:
            return _outputs(init, phase, taken, group, hyper, t, now)

        found, arrays, new_group, seen = _by_phase(rule, now, step)
        if gathered:
            before = [x.arrays for x in stacked]
            found = [mesh.sharded(u, old["p"]) for u, old in zip(found, before, strict=True)]
            arrays = [
                {n: mesh.sharded(a, old[n]) for n, a in own.items()}
                for own, old in zip(arrays, before, strict=True)
            ]
        updates = dict(
            pair
            for run, u in zip(runs, found, strict=True)
            for pair in zip(run.leaves, run.split(u), strict=True)
        )
        # Copies: two values that are one number, as eager steps leave them, could not both be donated.
        values = {n: jnp.array(v) for n, v in new_group.items()}
        after: Any = TransformState(now.astype(counted), init.packed(tree, runs, arrays), values)
        if rule.observed:  # for ``isostep_jax.observe``, which keeps the two together
            after = (after, seen)
        return jax.tree.unflatten(tree, [updates[i] for i in range(len(leaves))]), after

    return Transform(init, update)


def _by_phase(rule: BoundRule, t: jax.Array, step: Callable[[tuple[int, ...]], Any]) -> Any:
    """Run the kind of step that t is; with several kinds, each is traced and the device chooses."""
    kinds = rule.kinds()
    if len(kinds) == 1:
        return step(kinds[0])
    # What tells a step's kind is plain Python, in which a comparison counts as 0 or 1, whatever JAX is set to.
    with jax.numpy_dtype_promotion("standard"):
        index = jnp.asarray(rule.kind(t), jnp.int32)
    return jax.lax.switch(index, [lambda kind=kind: step(kind) for kind in kinds])


class _Leaf(NamedTuple):
    """What is evaluated as one: arrays by name, of one leaf, a stack or a flat buffer."""

    arrays: dict[str, Any]
    run: Run
    segments: Segments | None
    numbers: Sequence[int]  # of the parameters in it
    hint: str  # where its state does not fit it


def _outputs(
    init: Init,
    phase: tuple[int, ...],
    leaves: list[_Leaf],
    group: Any,
    hyper: dict[str, Any],
    t: Any,
    count: jax.Array,
) -> tuple[list[Any], list[dict[str, Any]], dict[str, Any], Any]:
    """Updates in the compute dtype, state in its own; the group's new values; an observed rule's sums."""
    rule = init.rule
    tasks: list[Task] = []
    shared: dict[Value, Any] = {}
    known: dict[int, dict[Value, Any]] = {}
    for leaf in leaves:
        program = trace(rule, phase, tuple(leaf.arrays["p"].shape[bool(leaf.run.stacked) :]))
        init.check_arrays(leaf, program)
        if id(program) not in known:
            known[id(program)] = _scalars(program, hyper, t, "array")
            shared |= _scalars(program, hyper, t, "group")
        wide = COMPUTE_DTYPE[leaf.arrays["p"].dtype.name]
        arrays = opened(leaf.arrays, wide, init.storage, bool(leaf.run.stacked))
        given = (program, arrays, known[id(program)], wide)
        tasks.append(
            Stack(*given, count=leaf.run.stacked)
            if leaf.segments is None
            else Buffer(*given, segments=leaf.segments)
        )
    if not tasks:
        return [], [], group, None
    dtype = _group_dtype([x.arrays["p"] for x in leaves])
    kind = Stacked if all(x.segments is None for x in leaves) else Flat
    run = kind(tasks, group, shared, dtype, lambda a, d: jnp.asarray(a).astype(d))
    updates, states = [], []
    for each, leaf in zip(tasks, leaves, strict=True):
        found = run.raw_outputs(each)
        p, whole = leaf.arrays["p"], each.arrays["p"]
        ways = init.storage.of(p.dtype.name)
        noise = None
        if ways.noisy:
            where = (leaf.numbers, leaf.segments, bool(leaf.run.stacked))
            noise = Noise.of_leaves(init.seed, count, *where)
        u = found.pop(UPDATE) if UPDATE in found else found.pop(PARAMETER) - whole
        chance = noise if ways.stochastic and p.dtype.name in HALVES else None
        if ways.beside or chance:  # what takes p to what can be kept
            new = whole + u
            stored = closed(leaf.arrays, {"p": new, **found}, each.program, noise, ways)
            del stored["p"]
            u = kept(new, p.dtype, chance, 0) - p.astype(new.dtype)
        else:
            stored = closed(leaf.arrays, found, each.program, noise, ways)
        updates.append(u if init.exact_updates else u.astype(p.dtype))
        states.append(stored)
    sums = observed(run, tasks, [x.run for x in leaves], dtype)
    return updates, states, init.met(run.group_outputs(), [x.arrays["p"] for x in leaves]), sums


def values_at(rule: BoundRule, done: jax.Array) -> dict[str, Any]:
    """``rule.at`` where values may be traced: of schedules, which get the whole number of steps done, as arrays.

    Nobody looks at their numbers, so no domain is checked. Schedules are plain Python, which multiplies floats by whole
    numbers, whatever JAX is set to.
    """
    with jax.numpy_dtype_promotion("standard"):
        return rule.map_schedules(lambda schedule: _number(rule, schedule, done))


def _number(rule: BoundRule, schedule: Callable[[Any], Any], done: jax.Array) -> jax.Array:
    """What a schedule gives, which must be one number: others would be broadcast, and updates have other shapes."""
    given = schedule(done)
    try:
        found = jnp.asarray(given)
        got = f"{found.dtype.name} {found.shape}"
    except (TypeError, ValueError):  # JAX makes no array of it
        found, got = None, type(given).__name__
    number = (jnp.floating, jnp.integer)
    if (
        found is None
        or found.shape
        or not any(jnp.issubdtype(found.dtype, kind) for kind in number)
    ):
        own = ((n, v if isinstance(v, tuple) else (v,)) for n, v in rule.values.items())
        name = next(n for n, values in own if any(v is schedule for v in values))
        message = (
            f"{rule.name}: {name} must be one real number at every step, got {got} of its schedule"
        )
        raise DomainError(message)
    return found


def _scalars(program: Program, hyper: dict[str, Any], t: Any, scope: str) -> dict[Value, Any]:
    """Host values as Python floats, rounded once where they meet arrays; t and schedules as traced scalars."""
    found = scalars.evaluate(program, hyper, t, scope=scope, upto=Domain.HOST)
    given = scalars.flat(hyper)
    for node in program.live:
        if node.op == "input" and node.domain is Domain.STEP and node.scope == scope:
            name = node.attrs[0]
            found[node] = t if name == COUNT else given[name].astype(t.dtype)
    return {n: v for n, v in found.items() if n.scope == scope}


def _widened(hyper: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Hyperparameters with traced ones in this dtype, so that what is made of a float32 one has all the digits."""
    return jax.tree.map(lambda v: v.astype(dtype) if isinstance(v, jax.Array) else v, hyper)


def _group_dtype(leaves: list[Any]) -> str:
    return "float64" if any(p.dtype.name == "float64" for p in leaves) else "float32"


def _init_leaf(
    rule: BoundRule, hyper: dict[str, Any], p: jax.Array, storage: Storage
) -> dict[str, Any]:
    if isinstance(p, jax.ShapeDtypeStruct):  # what a state starts with of its numbers is unknown
        p = jnp.full_like(p, jnp.nan)
    made: dict[str, Any] = {}
    dtypes = {n: storage.dtype_of(n, p.dtype.name) for n in rule.state_names}
    hyper = _widened(hyper, COMPUTE_DTYPE[p.dtype.name])
    for c in rule.components:
        names = rule.state_of(c)
        if c.part.init is None:
            made |= {n: jnp.zeros_like(p, dtypes[n]) for n in names}
            continue
        wide = p.astype(COMPUTE_DTYPE[p.dtype.name])
        values = first_state(c, wide, names, rule.given_init(c, hyper))
        # Copies: a state that is the parameter itself could not be donated beside it.
        made |= {n: jnp.array(v, dtypes[n]) for n, v in zip(names, values, strict=True)}
    for n in storage.scales:
        made[n] = mesh.met(jnp.zeros(storage.shape_of(n, p.shape), jnp.uint8), [p])
    if storage.beside is not None:
        made[storage.beside] = first_beside(p, storage)
    return made


__all__ = [
    "Init",
    "Transform",
    "TransformState",
    "build",
    "transform",
]
