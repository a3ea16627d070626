"""A transformation's run in the form of every backend: a rule, parameters and state, out of a state and into one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

import isostep
from isostep.rule import BoundRule, RuleError
from isostep.state import State, StepError, check_state, reordered
from isostep.storage import Handling
from isostep_jax.flat import FlatInit
from isostep_jax.pair import Transform
from isostep_jax.transform import Init, TransformState
from isostep_jax.trees import flattened


def to_portable(tx: Transform, params: Any, state: TransformState) -> tuple[BoundRule, Any, State]:
    """``(rule, params, state)``: what ``isostep.save`` writes, and any backend goes on with (``isostep.move``).

    An optimizer of torch does by ``isostep_torch.from_portable``. ``params`` is a list where the tree is one (or a
    tuple) of arrays, else a dict by path, ``"decoder/0/kernel"``.

    Raises:
        RuleError: the transformation is not isostep's, or observed.
        StepError: the state is not this transformation's.
    """
    init, layout = _made(tx)
    if layout is not None:
        params, arrays = layout.unflatten(params), state.arrays
        state = state._replace(arrays={n: layout.unflatten(a) for n, a in arrays.items()})
    init.check(state)
    leaves, tree = flattened(init.rule, params, together=init.together)
    owns: list[dict[str, Any]] = [{} for _ in leaves]
    runs = init.runs(leaves)
    for run, held in zip(runs, init.held(state, tree, leaves, "params"), strict=True):
        for n, array in held.items():
            for i, each in zip(run.leaves, run.split(array), strict=True):
                owns[i][n] = each
    count = int(state.count)
    found = State(init.rule.name, [count] * len(leaves), owns, dict(state.group), count)
    found.storage = init.storage
    found.handling = Handling(seed=init.seed, places=list(range(len(leaves))))
    names = _names(params)
    if names is None:
        return init.rule, leaves, found
    found.keys = tuple(names)
    return init.rule, dict(zip(names, leaves, strict=True)), found


def from_portable(tx: Transform, params: Any, state: State, *, names: Any = None) -> TransformState:
    """Go on with a run: a state of any backend, or of an optimizer of torch, as the transformation's for ``params``.

    Args:
        tx: the transformation, of the state's rule (``isostep_jax.transform(rule)``), with its options of storage.
        params: the parameters that it is for; a state's keys must be the paths of their leaves, ``"decoder/0/kernel"``.
        state: what ``isostep_torch.to_portable``, ``isostep.load`` or ``backend.step`` gave.
        names: a tree like ``params`` with the state's key of each leaf, where the paths are others.

    Raises:
        RuleError: the transformation is not isostep's, or observed.
        StepError: the state is another rule's, for other parameters, or counts steps of its own for each.
    """
    init, layout = _made(tx)
    rule = init.rule
    own = params if layout is None else layout.unflatten(params)
    leaves, tree = flattened(rule, own, together=init.together)
    check_state(rule, state, len(leaves))
    keys = _names(own) if names is None else tree.flatten_up_to(names)
    places = _places(rule, keys, state, len(leaves))
    counts = {*state.t, state.group_t} if rule.group_names else {*state.t}
    if len(counts) > 1:
        message = f"{rule.name}: a transformation counts steps once for all leaves, the state has {sorted(counts)}"
        raise StepError(message)
    for dtype in {p.dtype.name for p in leaves}:
        mine, theirs = (replace(x.of(dtype), scaled=False) for x in (init.storage, state.storage))
        if mine != theirs:
            message = f"{rule.name}: state is kept as {theirs}, the transformation's {mine}; give it the same options"
            raise StepError(message)
    order = sorted(range(len(leaves)), key=places.__getitem__)
    _, moved = isostep.move(rule, [leaves[i] for i in order], state, "jax:jit")
    owns = [moved.arrays[place] for place in places]
    arrays = {n: init.keep(tree, leaves, [each.get(n) for each in owns]) for n in init.names}
    if layout is not None:
        arrays = {n: layout.flatten(a) for n, a in arrays.items()}
    count = jnp.asarray(max(counts, default=0), jnp.int32)
    group: dict[str, Any] = {n: float(v) for n, v in moved.group.items()}  # of any dtype
    made = TransformState(count, arrays, group)
    return init.numbers(made, leaves)


def _places(rule: BoundRule, keys: list[Any] | None, state: State, count: int) -> list[int]:
    """Where in the state each leaf's arrays stand: by name, where both have names."""
    if keys is None or state.keys is None:
        return list(range(count))
    reordered(rule.name, dict.fromkeys(keys), state.keys, "say with names= which leaf is which")
    return [state.keys.index(key) for key in keys]


def _made(tx: Any) -> tuple[Init, Any]:
    """What a transformation is made of, and the layout of its flat buffers."""
    init = getattr(tx, "init", None)
    if isinstance(init, FlatInit):
        return init.inner, init.layout
    if isinstance(init, Init):
        return init, None
    message = f"expected a transformation of isostep_jax that is not observed, got {init!r}"
    raise RuleError(message)


def _names(params: Any) -> list[str] | None:
    """The paths of the leaves; None if there is nothing but a list of them."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    if isinstance(params, list | tuple) and all(len(path) == 1 for path in paths):
        return None
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
