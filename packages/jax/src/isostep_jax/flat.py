"""Flat mode: parameters and state in one buffer per dtype, of which the model sees views.

>>> flat = isostep_jax.flat(isostep_jax.adamw(1e-3), params)
>>> buffers = flat.flatten(params)
>>> state = flat.init(buffers)
>>> grads = jax.grad(lambda b: loss(flat.unflatten(b)))(buffers)   # flat as well
>>> updates, state = flat.update(grads, state, buffers)
>>> buffers = optax.apply_updates(buffers, updates)

An update then costs what one array costs, however many leaves there are; views cost a copy each, and on a CPU a
compiled kernel for each shape. What the model does with its leaves stays: many small products are as slow as they
were. So a model of many equal parts takes ``flat.stacked(b)`` instead: there a list of equal subtrees (of layers, of
members) is one subtree, whose leaves have an axis more in front, for ``lax.scan`` or ``vmap``; that is one view,
however many there are. A leaf that is sharded over several devices keeps a buffer, and its sharding, of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isostep.program import trace
from isostep.rule import BoundRule, RuleError
from isostep.state import StepError
from isostep_jax.layout import Segments, views
from isostep_jax.stacked import Leaf, stacked
from isostep_jax.transform import Init, Transform, TransformState, build
from isostep_jax.trees import flattened

Buffers = dict[str, jax.Array]


class FlatTransform(NamedTuple):
    """An optax-style pair whose parameters are buffers by name, and the ways from a tree to them and back."""

    init: Callable[[Buffers], TransformState]
    update: Callable[..., tuple[Buffers, TransformState]]
    flatten: Callable[[Any], Buffers]
    unflatten: Callable[[Buffers], Any]
    stacked: Callable[[Buffers], Any]


def flat(tx: Transform, params: Any) -> FlatTransform:
    """The transformation on flat buffers, laid out for trees like ``params`` (arrays or their shapes).

    Raises:
        RuleError: the rule looks at the shape of its arrays (matrices, factored state), or is not isostep's.
    """
    if not isinstance(tx.init, Init):
        message = (
            f"flat needs a transformation of isostep_jax that is not observed, got {tx.init!r}"
        )
        raise RuleError(message)
    rule = tx.init.rule
    leaves, tree = flattened(rule, params)
    places: dict[str, list[int]] = {}
    for i, p in enumerate(leaves):
        places.setdefault(f"leaf{i}" if _sharded(p) else p.dtype.name, []).append(i)
    _check_rule(rule, leaves)
    segments = {
        name: Segments(tuple(tuple(leaves[i].shape) for i in own))
        for name, own in places.items()
        if not name.startswith("leaf")
    }

    def flatten(values: Any) -> Buffers:
        found, structure = jax.tree.flatten(values)
        if structure != tree:
            message = f"{rule.name}: flatten needs the structure of params, {tree}, got {structure}"
            raise StepError(message)
        return {n: _joined([found[i] for i in own], n in segments) for n, own in places.items()}

    def unflatten(buffers: Buffers) -> Any:
        found: dict[int, jax.Array] = {}
        for n, own in places.items():
            parts = views(buffers[n], segments[n]) if n in segments else [buffers[n]]
            found |= dict(zip(own, parts, strict=True))
        return jax.tree.unflatten(tree, [found[i] for i in range(len(leaves))])

    names = sorted(places)
    made = build(
        replace(tx.init, grouped=False),
        [segments.get(n) for n in names],
        [places[n] for n in names],
    )
    where = {i: n for n, own in places.items() for i in own}
    lie = [Leaf(where[i], tuple(p.shape), where[i] not in segments) for i, p in enumerate(leaves)]
    return FlatTransform(made.init, made.update, flatten, unflatten, stacked(tree, lie))


def _joined(values: Sequence[jax.Array], together: bool) -> jax.Array:
    return jnp.concatenate([jnp.ravel(v) for v in values]) if together else values[0]


def _sharded(p: Any) -> bool:
    sharding = getattr(p, "sharding", None)  # a tracer or a shape has none
    return sharding is not None and not sharding.is_fully_replicated


def _check_rule(rule: BoundRule, leaves: list[Any]) -> None:
    shapes = {tuple(p.shape) for p in leaves} or {()}
    for part in (c.part for c in rule.components):
        if getattr(part, "ndim", None) is not None:
            message = (
                f"{rule.name}: {part.name} takes arrays of some ranks only, so it has no flat mode"
            )
            raise RuleError(message)
    programs = [trace(rule, phase, shape) for shape in shapes for phase in rule.kinds()]
    if any(p.shape is not None or p.generic for p in programs):
        message = f"{rule.name} looks at the shapes of its arrays, so it has no flat mode; use it without flat()"
        raise RuleError(message)
