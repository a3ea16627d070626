"""Figures of a transformation's steps: see ``isostep.telemetry`` for what they are.

>>> tx = isostep_jax.observe(isostep_jax.adamw(1e-3))
>>> updates, state = tx.update(grads, tx.init(params), params)
>>> isostep_jax.figures(state, params).rows()["group"]["gradient_norm"]

The sums are part of the state, so that they come out of jit and scan with it; XLA takes them in the passes that make
the updates. They have the dtype of the step: in float32 a norm above 1e19 is infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from isostep import sums, telemetry
from isostep.rule import RuleError
from isostep_jax import mesh
from isostep_jax.backend import JaxJit
from isostep_jax.dtypes import name_of
from isostep_jax.transform import Init, Transform, TransformState, build
from isostep_jax.trees import flattened


class Observed(NamedTuple):
    """The state of an observed transformation: what it is without, and the last step's sums, a row for each leaf.

    Before the first step they are zeros: of NaN, ``jax_debug_nans`` would let no state be made.
    """

    state: TransformState
    sums: jax.Array


@dataclass(frozen=True)
class ObservedInit:
    """``init(params) -> state``, and what the pair is made of."""

    inner: Init  # of an observed rule

    def __call__(self, params: Any) -> Observed:
        rule = self.inner.rule
        names = sums.names(rule.momentum is not None)
        leaves, _ = flattened(rule, params, together=False)
        nothing = jnp.zeros((len(leaves), len(names)), _dtype(leaves))
        return Observed(self.inner(params), mesh.met(nothing, leaves))

    def pair(self) -> Transform:
        """The transformation."""
        made = build(self.inner)

        def update(
            grads: Any, state: Observed, params: Any = None, **inputs: Any
        ) -> tuple[Any, Observed]:
            updates, both = made.update(grads, state.state, params, **inputs)
            after, seen = cast(Any, both)  # as an observed rule's update gives them
            return updates, Observed(after, state.sums if seen is None else seen)  # None: no leaves

        return Transform(self, update)


def observe(tx: Transform, *, momentum: str | None = None) -> Transform:
    """The same transformation, whose state holds the sums that ``figures`` reads.

    Args:
        tx: one of isostep_jax, not in flat mode.
        momentum: see ``isostep.observe``.

    Raises:
        RuleError: the transformation is not isostep's or is in flat mode, or the rule has no such state.
    """
    if not isinstance(tx.init, Init):
        message = (
            f"observe needs a transformation of isostep_jax, not in flat mode, got {tx.init!r}"
        )
        raise RuleError(message)
    rule = telemetry.observe(tx.init.rule, momentum=momentum)
    return ObservedInit(replace(tx.init, rule=rule)).pair()


def figures(state: Observed, params: Any) -> telemetry.Figures:
    """The figures of the last step, for parameters of the structure of ``params``; under jit too. Before it, NaN.

    Raises:
        TypeError: the state is not that of an observed transformation.
    """
    if not isinstance(state, Observed):
        message = f"figures needs the state of observe(tx), got {type(state).__name__}; in a chain, its part"
        raise TypeError(message)
    paths, _ = jax.tree_util.tree_flatten_with_path(params)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): p for path, p in paths}
    names = sums.names(state.sums.shape[1] > len(sums.BASIC))

    def whole() -> jax.Array:
        return jnp.where(state.state.count > 0, state.sums, jnp.nan)

    return telemetry.Figures(JaxJit(), names, named, [(range(len(named)), whole)])


def _dtype(leaves: Sequence[Any]) -> str:
    return "float64" if "float64" in map(name_of, leaves) else "float32"
