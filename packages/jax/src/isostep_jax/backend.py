"""JAX as a backend: the program evaluated under ``jax.jit``, over all leaves at once.

What depends on hyperparameters alone is computed on the host in float64 and passed in as scalars, so a changed
learning rate does not recompile. What depends on t is computed on the device in forms that stay within a few
float32 ulp (``expm1`` of a logarithm taken in float64, where ``1 - beta**t`` in float32 is off by 1e-5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import isostep.scalars as scalars
from isostep import ArrayBackend, Family, rounding, telemetry
from isostep.program import Program, trace
from isostep.rule import BoundRule
from isostep.state import (
    State,
    aligned,
    arranged,
    as_list,
    check_inputs,
    check_rule,
    check_state,
    keyed,
)
from isostep.storage import PLAIN, Storage
from isostep.values import Domain, Value
from isostep_jax.layout import Run, Stack, Stacked, observed, singles, stacks
from isostep_jax.storage import Noise, closed, opened
from isostep_jax.support import gaps


@dataclass(frozen=True)
class _Spec:
    """What a compiled step depends on beside shapes and dtypes; ``kinds`` numbers the leaves' step counts.

    It says which leaves are stacked, not which path asked: where nothing is stacked, both share what is compiled.
    """

    programs: tuple[Program, ...]
    kinds: tuple[int, ...]
    group_dtype: str
    runs: tuple[Run, ...]
    storage: Storage


class JaxJit(ArrayBackend):
    """Every rule under jit; arrays are never changed, new ones are returned.

    float64 parameters work whether or not x64 is enabled for the process: their steps run with it enabled.
    """

    name = "jax:jit"
    in_place = False
    #: whether small leaves of one shape are evaluated as stacks
    grouped = False

    def asarray(self, array: np.ndarray) -> jax.Array:
        with _x64(array.dtype == np.float64):
            return jnp.array(array)

    def to_numpy(self, array: jax.Array) -> np.ndarray:
        return np.array(array)

    def cast(self, array: Any, dtype: str) -> jax.Array:
        with _x64(dtype == "float64"):
            return jnp.asarray(array, dtype=dtype)

    def zeros_like(self, array: jax.Array, dtype: str | None = None) -> jax.Array:
        with _x64(dtype == "float64" or array.dtype == np.float64):
            return jnp.zeros_like(array, dtype=dtype)

    def scalar(self, number: float, dtype: str, like: jax.Array) -> jax.Array:
        with _x64(dtype == "float64"):
            return jnp.asarray(number, dtype=dtype)

    def write(self, target: jax.Array, value: jax.Array) -> jax.Array:
        return self.cast(value, self.dtype(target))

    def around(self, array: Any) -> Any:
        return _x64(array.dtype == np.float64)

    def init(
        self, rule: BoundRule, params: Any, *, storage: Storage = PLAIN, seed: int = 0
    ) -> State:
        wide = storage.state == "float64"
        with _x64(wide or any(getattr(p, "dtype", None) == np.float64 for p in as_list(params))):
            return super().init(rule, params, storage=storage, seed=seed)

    def evaluation_point(self, rule: BoundRule, params: Any, state: State) -> Any:
        with _x64(any(getattr(p, "dtype", None) == np.float64 for p in as_list(params))):
            return super().evaluation_point(rule, params, state)

    def path(self, rule: BoundRule) -> str:
        return "jit"

    def value_and_grad(self, function: Any) -> Any:
        differentiated = jax.jit(jax.value_and_grad(function))

        def both(params: Any, *args: Any) -> tuple[jax.Array, list[jax.Array]]:
            wide = any(p.dtype == np.float64 for p in params)
            # On a GPU JAX would otherwise multiply float32 matrices in TF32, with 10 bits of mantissa.
            with _x64(wide), jax.default_matmul_precision("highest"):
                return differentiated(list(params), *args)

        return both

    def forget(self) -> None:
        # Every compiled step holds memory maps, and Linux allows a process 65,530: then XLA's compiler crashes.
        jax.clear_caches()

    def compilations(self) -> int:
        """How many steps have been compiled in this process, for tests that nothing recompiles."""
        return int(_step._cache_size())  # type: ignore[attr-defined]

    def step(
        self, rule: BoundRule, params: Any, grads: Any, state: State, **inputs: Any
    ) -> tuple[Any, State]:
        check_rule(rule)
        params = keyed(rule, params, state)
        arrays = self._checked_params(rule, params)
        check_state(rule, state, len(arrays))
        self._check_state_arrays(rule, arrays, state)
        check_inputs(rule, inputs)
        given = [aligned(rule, "grads", params, grads)]
        given += [aligned(rule, n, params, inputs[n]) for n in rule.input_names]
        active = [i for i, g in enumerate(given[0]) if g is not None]
        self._check_given(rule, params, given, active)
        if not rule.sequential:
            # The same arrays in another order are then the same compiled step, sums over the group included.
            active.sort(key=lambda i: (arrays[i].shape, arrays[i].dtype.name, state.t[i]))
        new_arrays, new_state = list(arrays), list(state.arrays)
        group = self.group_values(rule, state, inputs) if active else dict(state.group)
        seen: list[Any] = []
        for run in [[i] for i in active] if rule.sequential else [active] if active else []:
            leaves = [self._leaf(rule, i, arrays, given, state) for i in run]
            done, group, sums = self._jitted(rule, run, leaves, group, state)
            seen.append((run, partial(_same, sums)))
            for i, new in zip(run, done, strict=True):
                new_arrays[i] = new.pop("p")
                new_state[i] = new
        moved = set(active)
        counts = [t + (i in moved) for i, t in enumerate(state.t)]
        after = state.after(counts, new_state, group, state.group_t + bool(active))
        if rule.observed:
            after.figures = telemetry.figures(self, rule, params, seen)
        return arranged(params, new_arrays), after

    @staticmethod
    def _leaf(
        rule: BoundRule, i: int, arrays: list[Any], given: list[list[Any]], state: State
    ) -> dict[str, Any]:
        named = {"p": arrays[i], "g": given[0][i], **state.arrays[i]}
        return named | {n: v[i] for n, v in zip(rule.input_names, given[1:], strict=True)}

    def _jitted(
        self,
        rule: BoundRule,
        members: list[int],
        leaves: list[dict[str, Any]],
        group: dict[str, Any],
        state: State,
    ) -> tuple[list[dict[str, Any]], dict[str, Any], Any]:
        ts, group_t = [state.t[i] + 1 for i in members], state.group_t + 1
        kinds = sorted(set(ts))
        programs = tuple(
            trace(rule, rule.phase(t), tuple(x["p"].shape)) for t, x in zip(ts, leaves, strict=True)
        )
        dtype = self._dtype_of_group(group, [x["p"] for x in leaves])
        own = tuple(kinds.index(t) for t in ts)
        runs = _stacked(programs, own, leaves) if self.grouped else singles(len(leaves))
        spec = _Spec(programs, own, dtype, tuple(runs), state.storage)
        hypers = {t: rule.at(t) for t in {*kinds, group_t}}
        numbers = [_arguments(p, hypers[t], t, "array") for p, t in _distinct(programs, ts)]
        shared = [_arguments(p, hypers[group_t], group_t, "group") for p, _ in _distinct(programs)]
        wide = dtype == "float64" or any(
            "float64" in {self.dtype(x["p"]), state.storage.state} for x in leaves
        )
        handling = None if state.storage == PLAIN else _handling(state, members, kinds)
        with _x64(wide):
            return _step(spec, leaves, group, numbers, shared, handling)


class JaxGrouped(JaxJit):
    """As ``jax:jit``, with small leaves of one shape evaluated as stacks: what ``transform(grouped=True)`` runs."""

    name = "jax:grouped"
    twin = "jax:jit"
    grouped = True

    def path(self, rule: BoundRule) -> str:
        return "grouped"


def _scalar_inputs(program: Program, scope: str) -> list[Value]:
    """The scalars that a compiled step takes as arguments: t, and what others read of those that do not depend on it.

    A schedule's value is not rounded before 1 - value is taken: that is known on the host as well.
    """
    after_t: set[Value] = set()
    known = []
    for n in (n for n in program.live if n.domain <= Domain.STEP):
        if (n.op == "input" and n.attrs[0] == "t") or after_t.intersection(n.args):
            after_t.add(n)
        elif n.scope in (None, scope):
            known.append(n)
    steps = [n for n in program.live if n in after_t and n.op == "input" and n.scope == scope]
    return [n for n in scalars.used_outside(program, known) if n.scope == scope] + steps


def _arguments(program: Program, hyper: Mapping[str, Any], t: int, scope: str) -> list[Any]:
    values = scalars.evaluate(program, hyper, t, scope=scope)
    found = [values[n] for n in _scalar_inputs(program, scope)]
    return [v if isinstance(v, bool) else float(v) for v in found]


@partial(jax.jit, static_argnums=0)
def _step(
    spec: _Spec,
    leaves: list[dict[str, Any]],
    group: dict[str, Any],
    numbers: list[list[Any]],
    shared: list[list[Any]],
    handling: Any,
) -> tuple[list[dict[str, Any]], dict[str, Any], Any]:
    """The compiled step: arrays by name in, the new parameter and state out, rounded once to their dtypes.

    ``handling`` is what a ``Storage`` goes by: the seed and the counts of steps, the leaves' numbers, the factor of
    gradients. The last result is an observed rule's sums, a row for each leaf; else None.
    """
    known = {
        (id(program), kind): dict(zip(_scalar_inputs(program, "array"), values, strict=True))
        for (program, kind), values in zip(
            _distinct(spec.programs, spec.kinds), numbers, strict=True
        )
    }
    tasks, stored = [], []
    for run in spec.runs:
        at = run.leaves[0]
        program, kind, first = spec.programs[at], spec.kinds[at], leaves[at]
        wide = "float64" if first["p"].dtype == jnp.float64 else "float32"
        kept = {n: run.join([x.get(n) for x in leaves]) for n in first}
        arrays = opened(kept, wide, spec.storage, bool(run.stacked))
        if spec.storage.scaled:
            arrays["g"] = arrays["g"] * jnp.asarray(handling[2], wide)
        stored.append(kept)
        tasks.append(Stack(program, arrays, known[id(program), kind], wide, count=run.stacked))
    group_scalars = {
        n: v
        for (program, _), values in zip(_distinct(spec.programs), shared, strict=True)
        for n, v in zip(_scalar_inputs(program, "group"), values, strict=True)
    }
    done = Stacked(
        tasks, group, group_scalars, spec.group_dtype, lambda a, d: jnp.asarray(a).astype(d)
    )
    new: list[dict[str, Any]] = [{} for _ in leaves]
    for task, run, kept in zip(tasks, spec.runs, stored, strict=True):
        noise = _noise(spec, run, handling) if spec.storage.noisy else None
        after = closed(kept, done.outputs(task), task.program, noise, spec.storage)
        for n, own in after.items():
            for i, each in zip(run.leaves, run.split(own), strict=True):
                new[i][n] = each
    return new, done.group_outputs(), observed(done, tasks, spec.runs, spec.group_dtype)


def _handling(state: State, members: list[int], kinds: list[int]) -> Any:
    """The numbers that a state's storage goes by: the seed and the counts of steps, the leaves' own, the factor."""
    numbered = [rounding.word(np, x) for x in (state.handling.seed, *kinds)]
    noisy = state.storage.noisy
    places = [state.handling.places[i] if noisy else 0 for i in members]
    return numbered, np.array(places, np.uint32), state.handling.factor


def _noise(spec: _Spec, run: Run, handling: Any) -> Noise:
    (seed, *steps), places, _ = handling
    own = places[np.array(run.leaves)]
    return Noise.of_leaves(seed, steps[spec.kinds[run.leaves[0]]], own, None, bool(run.stacked))


def _same(value: Any) -> Any:
    return value


def _stacked(
    programs: Sequence[Program], kinds: Sequence[int], leaves: list[dict[str, Any]]
) -> list[Run]:
    """Which leaves are evaluated together: small ones of one shape, dtype, program and step count."""
    keys = [
        (id(program), kind, leaf["p"].shape, leaf["p"].dtype)
        for program, kind, leaf in zip(programs, kinds, leaves, strict=True)
    ]
    return stacks(keys, [leaf["p"].size for leaf in leaves])


def _distinct(
    programs: Sequence[Program], kinds: Sequence[int] | None = None
) -> list[tuple[Program, int]]:
    """The different pairs of program and kind (or t), in order of first appearance."""
    pairs = zip(programs, kinds if kinds is not None else [0] * len(programs), strict=True)
    return list({(id(p), k): (p, k) for p, k in pairs}.values())


def _x64(needed: bool) -> Any:
    return jax.enable_x64(bool(needed) or bool(jax.config.read("jax_enable_x64")))


family = Family("jax", {"jit": JaxJit, "grouped": JaxGrouped}, gaps=gaps)
