"""How half-precision leaves and their state are kept: master weights, Kahan's sums, stochastic rounding.

A step opens its arrays to the compute dtype and closes them again; XLA does both in the passes that make the update.
The noise is ``isostep.rounding``'s, so that a step leaves the bits that it leaves on every other backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from isostep import rounding
from isostep.rule import RuleError
from isostep.state import StepError
from isostep.storage import HALVES, LOST, MASTER, Storage, taken, whole
from isostep_jax.layout import Segments


def asked_for(name: str, options: Mapping[str, Any]) -> tuple[Storage, int]:
    """The storage that options ask for, and the noise's seed; ``name`` is the rule's.

    Raises:
        RuleError: state in float64 where JAX has none.
    """
    dtype = options.get("state_dtype")
    found = taken(name, {**options, "state_dtype": None if dtype is None else _name(dtype)})
    if found[0].state == "float64" and not jax.config.read("jax_enable_x64"):
        message = f"{name}: state_dtype float64 needs JAX's x64: jax.config.update('jax_enable_x64', True)"
        raise RuleError(message)
    return found


def _name(dtype: Any) -> str:
    try:
        return str(jnp.dtype(dtype).name)
    except TypeError:
        return repr(dtype)


class Noise(NamedTuple):
    """What the elements of a run's arrays are rounded with: the leaves' keys, and where a flat buffer's leaves lie."""

    keys: jax.Array  # uint32, one for each leaf
    segments: Segments | None
    stacked: bool

    @classmethod
    def of_leaves(
        cls, seed: Any, step: Any, leaves: Any, segments: Segments | None, stacked: bool
    ) -> Noise:
        """That of the parameters with these numbers, a sequence or an array of uint32."""
        keys = rounding.key_of(jnp, seed, step, jnp.asarray(leaves, jnp.uint32))
        return cls(keys, segments, stacked)

    def of(self, shape: Sequence[int]) -> tuple[jax.Array, jax.Array]:
        """Keys and elements' numbers, to broadcast against an array of the run."""
        if self.segments is not None:
            ids = self.segments.owners(None)[0]
            first = np.cumsum([0, *self.segments.sizes])[:-1].astype(np.uint32)
            return self.keys[ids], _numbered(shape) - jnp.asarray(first)[ids]
        one = tuple(shape)[self.stacked :]
        return jnp.reshape(self.keys, (-1, *(1 for _ in one)) if self.stacked else ()), _numbered(
            one
        )


def _numbered(shape: Sequence[int]) -> jax.Array:
    """The elements' numbers, of each axis's own places: XLA makes them where it needs them, shard by shard."""
    if np.prod(shape, dtype=np.int64) >= 1 << 32:
        message = f"stochastic rounding numbers 2**32 elements of a leaf at most, got shape {tuple(shape)}; split it"
        raise StepError(message)
    found = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = int(np.prod(shape[axis + 1 :], dtype=np.int64))
        found = found + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride)
    return found


def opened(arrays: Mapping[str, jax.Array], wide: str) -> dict[str, jax.Array]:
    """The arrays of a step in the compute dtype; what is kept beside the parameter has become part of it."""
    found = {n: a.astype(wide) for n, a in arrays.items()}
    near = partial(held, dtype=arrays["p"].dtype)
    found["p"] = whole(found["p"], found, near, jnp.where)
    return found


def closed(
    before: Mapping[str, jax.Array],
    after: Mapping[str, jax.Array],
    names: Sequence[str],
    noise: Noise | None,
) -> dict[str, jax.Array]:
    """The arrays of a step as they are kept: ``after`` in the dtypes of ``before``, and what is beside the parameter.

    ``names``: the state's, in the rule's order.
    """
    places = {n: 0 if n == "p" else 1 + names.index(n) for n in after}
    found = {
        n: (a if noise is None else kept(a, before[n].dtype, noise, places[n])).astype(
            before[n].dtype
        )
        for n, a in after.items()
    }
    if MASTER in before:
        found[MASTER] = after["p"].astype(before[MASTER].dtype)
    if LOST in before:
        lost = after["p"] - kept(after["p"], before["p"].dtype, noise, 0)
        found[LOST] = jnp.where(jnp.isfinite(lost), lost, 0).astype(before[LOST].dtype)
    return found


def kept(value: jax.Array, dtype: Any, noise: Noise | None, place: int) -> jax.Array:
    """What an array of ``dtype`` holds of a value, the ``place``-th of its parameter, in the value's own dtype."""
    name = jnp.dtype(dtype).name
    if name not in HALVES:
        return value
    if noise is None:
        return held(value, dtype)
    narrow = value.astype(jnp.float32)
    return _rounded(narrow, *noise.of(value.shape), name, place).astype(value.dtype)


def held(value: jax.Array, dtype: Any) -> jax.Array:
    """The nearest number that a half has, in the value's dtype. XLA may leave out a conversion there and back."""
    if jnp.dtype(dtype) == jnp.bfloat16:
        return jax.lax.reduce_precision(value, 8, 7)
    small = (
        jnp.round(value * 2.0**24) * 2.0**-24
    )  # below the normal numbers the spacing is 2**-24 everywhere
    normal = jax.lax.reduce_precision(value, 5, 10)
    return jnp.where(jnp.abs(value) < 2.0**-14, small, normal)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _rounded(value: jax.Array, key: jax.Array, low: jax.Array, dtype: str, place: int) -> jax.Array:
    return rounding.rounded(jnp, value, dtype, key, place, low)


@_rounded.defjvp
def _rounded_tangent(dtype: str, place: int, given: Any, tangents: Any) -> Any:
    return _rounded(*given, dtype, place), tangents[0]  # as of rounding to nearest


def first_beside(p: jax.Array, storage: Storage) -> jax.Array | None:
    """What is kept beside a parameter before its first step; None where nothing is."""
    beside = storage.of(p.dtype.name).beside
    if beside is None:
        return None
    return jnp.array(p, jnp.float32) if beside == MASTER else jnp.zeros_like(p)
