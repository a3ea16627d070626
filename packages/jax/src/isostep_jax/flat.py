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

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax

from isostep.program import trace
from isostep.rule import BoundRule, RuleError
from isostep_jax.buffers import Buffers, Layout
from isostep_jax.pair import Transform
from isostep_jax.stacked import Leaf
from isostep_jax.transform import Init, TransformState, build
from isostep_jax.trees import flattened


@dataclass(frozen=True)
class FlatInit:
    """``init(buffers) -> state``, and what the pair is made of."""

    inner: Init
    layout: Layout

    def __call__(self, buffers: Buffers) -> TransformState:
        self.layout.check(buffers, params=True)
        return self.inner(buffers)

    def pair(self) -> FlatTransform:
        """The transformation."""
        layout = self.layout
        made = build(self.inner, list(layout.segments.values()), list(layout.places.values()))

        def update(
            grads: Any, state: TransformState, params: Any = None, **inputs: Any
        ) -> tuple[Buffers, TransformState]:
            layout.check(grads if params is None else params, params=params is not None)
            return made.update(grads, state, params, **inputs)

        return FlatTransform(self, update)


class FlatTransform(Transform):
    """An optax-style pair whose parameters are buffers by name, and the ways from a tree to them and back."""

    flatten: Callable[[Any], Buffers]
    unflatten: Callable[[Buffers], Any]
    stacked: Callable[[Buffers], Any]

    def __init__(self, init: FlatInit, update: Callable[..., tuple[Any, Any]]) -> None:
        layout = init.layout
        self.flatten, self.unflatten, self.stacked = (
            layout.flatten,
            layout.unflatten,
            layout.stacked,
        )


def flat(tx: Transform, params: Any) -> FlatTransform:
    """The transformation on flat buffers, laid out for trees like ``params`` (arrays or their shapes).

    Raises:
        RuleError: the rule looks at the shape of its arrays (matrices, factored state), its state is kept in blocks,
            or it is not isostep's.
        StepError: the leaves are on several devices, and not each of them on all.
    """
    if not isinstance(tx.init, Init):
        message = f"flat needs a transformation of isostep_jax that is neither observed nor flat, got {tx.init!r}"
        raise RuleError(message)
    rule = tx.init.rule
    if tx.init.storage.form is not None:
        message = (
            f"{rule.name}: state_dtype {tx.init.storage.form} has no flat mode, as blocks are of one leaf; use it "
            "without flat(), small leaves with grouped=True"
        )
        raise RuleError(message)
    leaves, tree = flattened(rule, params, together=True)
    _check_rule(rule, leaves)
    layout = Layout(
        rule.name,
        jax.tree.unflatten(tree, range(len(leaves))),
        tuple(_leaf(i, p) for i, p in enumerate(leaves)),
    )
    return FlatInit(replace(tx.init, grouped=False), layout).pair()


def _leaf(number: int, p: Any) -> Leaf:
    alone, dtype = _sharded(p), p.dtype.name
    return Leaf(f"leaf{number}" if alone else dtype, tuple(p.shape), dtype, alone)


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
