"""Dtypes as JAX has them."""

from __future__ import annotations

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp


def name_of(a: Any) -> str:
    """The name of an array's dtype when it gets to JAX: without x64 none is float64."""
    return str(jax.dtypes.canonicalize_dtype(a.dtype))


def widest(*dtypes: Any) -> Any:
    """The dtype that holds all of these, also where ``jax_numpy_dtype_promotion`` is strict: it is asked for here."""
    with jax.numpy_dtype_promotion("standard"):
        return reduce(jnp.promote_types, dtypes)
