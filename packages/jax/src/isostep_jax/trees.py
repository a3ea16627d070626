"""Trees that are handed to a transformation: their leaves, and what is said where they do not fit together."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from isostep.rule import BoundRule
from isostep.state import StepError, check_like, check_param


def like(rule: BoundRule, what: str, tree: Any, leaves: list[Any], values: Any) -> list[Any]:
    """The leaves of a tree that must have the parameters' structure (and, for gradients, shapes and dtypes)."""
    found, structure = jax.tree.flatten(values)
    label = "grads" if what == "g" else what
    if structure != tree:
        message = f"{rule.name}: {label} must have the structure of params, {tree}, got {structure}"
        raise StepError(message)
    if leaves:
        for i, (p, v) in enumerate(zip(leaves, found, strict=True)):
            own = (p.dtype.name, tuple(p.shape))
            if not hasattr(v, "shape") and not isinstance(v, float | int):
                message = (
                    f"{rule.name}: {label} of leaf {i} must be an array, got {type(v).__name__}"
                )
                raise StepError(message)
            if jnp.iscomplexobj(v):
                message = f"{rule.name}: {label} of leaf {i} must be real like the parameter, got {v.dtype.name}"
                raise StepError(message)
            check_like(rule, f"leaf {i} of params", label, own[0], tuple(jnp.shape(v)), own)
            _check_devices(rule, f"{label} of leaf {i}", p, v)
        found = [jnp.asarray(v) for v in found]
    return found


def _check_devices(rule: BoundRule, label: str, p: Any, v: Any) -> None:
    """Arrays that were put on devices must be on the parameter's; under jit JAX sees to it."""
    if all(isinstance(a, jax.Array) and not isinstance(a, jax.core.Tracer) for a in (p, v)):
        there, here = v.sharding.device_set, p.sharding.device_set
        if p.committed and v.committed and there != here:
            names = [", ".join(sorted(map(str, devices))) for devices in (here, there)]
            message = (
                f"{rule.name}: {label} must be on {names[0]} like the parameter, got {names[1]}; "
                "move it with jax.device_put"
            )
            raise StepError(message)


def flattened(rule: BoundRule, params: Any) -> tuple[list[Any], Any]:
    """The parameters' leaves and their structure, checked."""
    leaves, tree = jax.tree.flatten(params)
    for i, p in enumerate(leaves):
        if not hasattr(p, "dtype") or not hasattr(p, "shape"):
            message = f"{rule.name}: leaf {i} of params must be an array, got {type(p).__name__}; tree: {tree}"
            raise StepError(message)
        check_param(rule, f"leaf {i} of params", p.dtype.name, tuple(p.shape))
    return leaves, tree
