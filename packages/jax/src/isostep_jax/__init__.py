"""isostep for JAX: every rule as an optax-style ``(init, update)`` pair, and the jitted path as a backend.

>>> import isostep_jax, jax.numpy as jnp
>>> tx = isostep_jax.addsign(1e-3)
>>> params = {"w": jnp.ones(3)}
>>> updates, state = tx.update({"w": jnp.ones(3)}, tx.init(params), params)

Hyperparameters may be callables of the steps done. ``transform`` takes a composed rule, ``step`` jits a step with
donation (``in_place`` has its compiler options, for steps of yours), ``grouped=True`` and ``flat`` are for many small
leaves, ``hutchinson``, ``sam_gradient``, ``looksam_gradient``, ``pcgrad`` and ``noise`` obtain what some rules need
beside a gradient, ``observe`` takes figures of every step, and ``fresh_batch_stats`` belongs to averaged weights.
``lbfgs`` is a solver: it calls the function that it minimises.
"""

from __future__ import annotations

from typing import Any

import isostep
from isostep.version import VERSION as __version__
from isostep_jax.backend import JaxGrouped, JaxJit
from isostep_jax.batch_stats import fresh_batch_stats
from isostep_jax.constructors import constructor
from isostep_jax.donated import in_place, step
from isostep_jax.extra import (
    hutchinson,
    looksam_gradient,
    noise,
    pcgrad,
    sam_gradient,
    task_gradients,
)
from isostep_jax.flat import FlatTransform, flat
from isostep_jax.observe import Observed, figures, observe
from isostep_jax.portable import from_portable, to_portable
from isostep_jax.solver import TreeSolver
from isostep_jax.solver import constructor as solver
from isostep_jax.transform import Transform, TransformState, transform

__all__ = [
    "FlatTransform", "JaxGrouped", "JaxJit", "Observed", "Transform", "TransformState", "TreeSolver", "__version__",
    "figures", "flat", "fresh_batch_stats", "from_portable", "hutchinson", "in_place", "looksam_gradient", "noise",
    "observe", "pcgrad", "sam_gradient", "step", "task_gradients", "to_portable", "transform",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in isostep.rules():
        return globals().setdefault(name, constructor(name))
    if name in isostep.solvers.names():
        return globals().setdefault(name, solver(name))
    known = f"rules: {', '.join(isostep.rules())}; solvers: {', '.join(isostep.solvers.names())}"
    message = f"module {__name__!r} has no attribute {name!r}; {known}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*__all__, *isostep.rules(), *isostep.solvers.names()})
