"""A step in place: parameters and state are donated, and XLA writes the new ones where they were."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax

from isostep_jax.dtypes import widest
from isostep_jax.mesh import multiplies
from isostep_jax.pair import Transform
from isostep_jax.transform import TransformState

_IN_PLACE = {"xla_cpu_copy_insertion_use_region_analysis": True}
#: XLA's default order begins all leaves side by side, each with memory of its own, which helps products of matrices.
_LEAF_BY_LEAF = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def step(tx: Transform) -> Callable[..., tuple[Any, TransformState]]:
    """``step(params, grads, state, **inputs) -> (params, state)``, jitted, in place by donation.

    The parameters and the state that go in are used up: XLA writes the new ones where they were, compiled with
    ``in_place``'s options and, if the rule multiplies no matrices, leaf by leaf, so that all leaves share the memory
    for what is neither parameter nor state.
    """

    def run(params: Any, grads: Any, state: Any, inputs: dict[str, Any]) -> Any:
        updates, state = tx.update(grads, state, params, **inputs)
        return jax.tree.map(_added, params, updates), state

    # Only the outermost jit may have options; a jit is made where it is first needed, when the device is known.
    @cache
    def jitted(outermost: bool) -> Callable[..., Any]:
        options = in_place() if outermost else None
        rule = getattr(tx.init, "rule", None)
        if options and rule is not None and not multiplies(rule):
            options = options | _LEAF_BY_LEAF
        return jax.jit(run, donate_argnums=(0, 2), compiler_options=options)

    def stepped(params: Any, grads: Any, state: Any, **inputs: Any) -> tuple[Any, TransformState]:
        arguments = params, grads, state, inputs
        done: tuple[Any, TransformState] = jitted(not _traced(arguments))(*arguments)
        return done

    return stepped


def in_place() -> dict[str, Any] | None:
    """``compiler_options`` for ``jax.jit``, with which donated arrays are written over without a copy; or None.

    XLA's CPU compiler copies what it writes over if two of its kernels read it (Lion's momentum, Rprop's signs,
    optax's as well), unless it is told to look in which order they can run, as its compilers for other devices do by
    themselves. None if JAX's default device is no CPU, or this XLA does not know the options.
    """
    return dict(_IN_PLACE) if jax.default_backend() == "cpu" and _known() else None


@cache
def _known() -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=_IN_PLACE | _LEAF_BY_LEAF).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _traced(arguments: Any) -> bool:
    """Whether a call with these arguments is part of another jit, or of a derivative."""
    kinds = {type(x) for x in jax.tree.leaves(arguments)}
    # What is made inside of a jit is traced even if nothing that it is made of is.
    return any(issubclass(k, jax.core.Tracer) for k in (*kinds, type(jax.lax.iota("int32", 1))))


def _added(p: jax.Array, u: jax.Array | None) -> jax.Array:
    """The parameter after an update, added in the wider dtype and rounded once; where there is none, as it was."""
    if u is None:
        return p
    wide = widest(p.dtype, u.dtype)
    return (p.astype(wide) + u.astype(wide)).astype(p.dtype)
