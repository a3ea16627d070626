"""Solvers on trees of JAX arrays: ``isostep_jax.lbfgs(...)``.

The loop runs in Python and reads the loss and a few dot products from the device at each iteration, as torch's does;
what is compiled is the function that it calls. So a solver stands outside jit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

import isostep
from isostep.solver import BoundSolver
from isostep_jax.evaluate import products_of_users, whole_products
from isostep_jax.trees import as_jax


@dataclass(frozen=True)
class TreeSolver:
    """A bound solver for any tree of arrays of one dtype."""

    bound: BoundSolver

    def step(
        self, value_and_grad: Callable[[Any], tuple[Any, Any]], params: Any, state: Any = None
    ) -> tuple[float, Any, Any]:
        """The loss before the step, new parameters and the new state.

        ``value_and_grad(params) -> (loss, gradients)`` is best compiled once: ``jax.jit(jax.value_and_grad(loss))``.

        Raises:
            StepError: arrays that do not fit together, or a loss or gradient at the start that is not finite.
        """
        leaves, tree = jax.tree.flatten(jax.tree.map(as_jax, params))
        outside = products_of_users()

        def of_leaves(leaves: list[Any]) -> tuple[Any, list[Any]]:
            with jax.default_matmul_precision(outside):
                loss, grads = value_and_grad(jax.tree.unflatten(tree, leaves))
            return loss, jax.tree.leaves(grads)

        with whole_products():
            loss, leaves, state = self.bound.step(of_leaves, leaves, state)
        return loss, jax.tree.unflatten(tree, leaves), state


def constructor(name: str) -> Callable[..., TreeSolver]:
    """``isostep_jax.NAME`` of a solver: binds its hyperparameters."""
    definition = isostep.solvers.registry[name]

    def construct(**hyper: Any) -> TreeSolver:
        return TreeSolver(definition.bind(**hyper))

    construct.__name__ = construct.__qualname__ = name
    construct.__doc__ = definition.doc
    construct.__signature__ = definition.signature  # type: ignore[attr-defined]
    return construct
