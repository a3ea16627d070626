"""Trees that are handed to a transformation: their leaves, and what is said where they do not fit together."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isostep.rule import BoundRule
from isostep.state import StepError, check_like, check_param
from isostep_jax import devices

#: What becomes a parameter's dtype: not complex numbers, nor text, objects, random keys, or ``float0``.
REAL = (jnp.floating, jnp.integer, jnp.bool_)


def like(
    rule: BoundRule, what: str, tree: Any, leaves: list[Any], values: Any, model: str = "params"
) -> list[Any]:
    """The leaves of a tree that must have the parameters' structure (and, for gradients, shapes and dtypes).

    ``model``: where that structure comes from.
    """
    found, structure = jax.tree.flatten(values)
    label = "grads" if what == "g" else what
    if structure != tree:
        message = (
            f"{rule.name}: {label} must have the structure of {model}, {tree}, got {structure}"
        )
        # optax masks gradients and parameters by itself
        if what in rule.input_names and "MaskedNode" in str(tree):
            message += "; optax masks inputs with mask_compatible_extra_args=True"
        raise StepError(message)
    if leaves:
        for i, (p, v) in enumerate(zip(leaves, found, strict=True)):
            own = (p.dtype.name, tuple(p.shape))
            if not hasattr(v, "shape") and not isinstance(v, float | int):
                message = (
                    f"{rule.name}: {label} of leaf {i} must be an array, got {type(v).__name__}"
                )
                raise StepError(message)
            if hasattr(v, "dtype") and not any(jnp.issubdtype(v.dtype, kind) for kind in REAL):
                message = f"{rule.name}: {label} of leaf {i} must be real like the parameter, got {v.dtype.name}"
                raise StepError(message)
            check_like(rule, f"leaf {i} of params", label, own[0], tuple(jnp.shape(v)), own)
            devices.check_like(rule.name, f"{label} of leaf {i}", p, v)
        found = [jnp.asarray(v) for v in found]
    return found


def as_jax(p: Any) -> Any:
    """A leaf as JAX has it: NumPy's, and a float of Python, are arrays of its own dtypes, as they are to jit."""
    return jnp.asarray(p) if isinstance(p, float | np.ndarray | np.generic) else p


def with_gradients(params: Any, grads: Any) -> Any:
    """Parameters without what has None for a gradient: a model of equinox is given whole, its functions too."""
    wanted: Any = jax.tree.structure(params)
    if wanted == jax.tree.structure(grads):
        return params
    try:
        return jax.tree.map(
            lambda g, p: None if g is None else p, grads, params, is_leaf=lambda x: x is None
        )
    except (ValueError, TypeError):  # other trees, which is said where the two meet
        return params


def flattened(
    rule: BoundRule, params: Any, what: str = "params", *, together: bool
) -> tuple[list[Any], Any]:
    """The parameters' leaves and their structure, checked; NumPy's as JAX has them: without x64 none is float64.

    A float of Python is an array without axes, as it is to jit. ``what``: which they are, or stand for the parameters.
    ``together``: whether the leaves meet one another.
    """
    leaves, tree = jax.tree.flatten(params)
    for i, p in enumerate(leaves):
        if type(p) is float:
            leaves[i] = p = jnp.asarray(p, jnp.result_type(float))
        if not hasattr(p, "dtype") or not hasattr(p, "shape"):
            message = f"{rule.name}: leaf {i} of {what} must be an array, got {type(p).__name__}; tree: {tree}"
            raise StepError(message)
        if jnp.issubdtype(p.dtype, jnp.complexfloating):
            message = (
                f"{rule.name}: leaf {i} of {what} must be real, got {p.dtype.name}; "
                "step its real and imaginary parts, as with optax.contrib.split_real_and_imaginary(tx)"
            )
            raise StepError(message)
        check_param(rule, f"leaf {i} of {what}", p.dtype.name, tuple(p.shape))
        if isinstance(p, np.ndarray | np.generic):
            leaves[i] = jnp.asarray(p)
    if together:
        devices.check_together(rule.name, leaves)
    return leaves, tree
