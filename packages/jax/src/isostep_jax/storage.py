"""How leaves and their state are kept: master weights, Kahan's sums, stochastic rounding, blocks of eight bits.

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

from isostep import blocks, rounding
from isostep.program import Program
from isostep.rule import RuleError
from isostep.state import StepError
from isostep.storage import HALVES, LOST, MASTER, Storage, taken, whole
from isostep_jax import mesh
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
    if isinstance(dtype, str) and dtype in blocks.FORMATS:  # which are no dtypes
        return dtype
    try:
        return str(jnp.dtype(dtype).name)
    except TypeError:
        return dtype if isinstance(dtype, str) else repr(dtype)


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


def opened(
    arrays: Mapping[str, jax.Array], wide: str, storage: Storage, stacked: bool
) -> dict[str, jax.Array]:
    """The arrays of a step in the compute dtype; what is kept beside the parameter has become part of it."""
    found = {n: a for n, a in arrays.items() if n not in storage.scales}
    for n in storage.packed:
        found[n] = _unpacked(found[n], arrays[n + blocks.SCALE], str(storage.form), stacked)
    found = {n: a.astype(wide) for n, a in found.items()}
    near = partial(held, dtype=arrays["p"].dtype)
    found["p"] = whole(found["p"], found, near, jnp.where)
    return found


def closed(
    before: Mapping[str, jax.Array],
    after: Mapping[str, jax.Array],
    program: Program,
    noise: Noise | None,
    storage: Storage,
) -> dict[str, jax.Array]:
    """The arrays of a step as they are kept: ``after`` in the dtypes of ``before``, and what is beside the parameter.

    ``program``: the step's; ``noise``: where ``storage`` rounds anything by chance.
    """
    places = {n: storage.number(n, program.state_names) for n in after}
    found: dict[str, jax.Array] = {}
    for n in storage.packed:
        scale = n + blocks.SCALE
        if n in program.stored and noise is not None:
            both = _packed(after[n], str(storage.form), noise, places[n])
            for each, a in zip((n, scale), both, strict=True):
                found[each] = _sharded_as(a, before[each])
        else:  # packed again, the same numbers may have another scale
            found |= {n: before[n], scale: before[scale]}
    noise = noise if storage.stochastic else None
    for n, a in after.items():
        if n not in found:
            dtype = before[n].dtype
            found[n] = (a if noise is None else kept(a, dtype, noise, places[n])).astype(dtype)
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


def _packed(value: jax.Array, form: str, noise: Noise, place: int) -> tuple[jax.Array, jax.Array]:
    """A state array in blocks, and the blocks' scales. They are whole numbers: no derivative goes through them."""
    narrow = jax.lax.stop_gradient(value).astype(jnp.float32)
    key, low = noise.of(value.shape)
    hashed = rounding.noise_of(jnp, key, place, low)
    batch = _rows(value.shape, noise.stacked)
    codes, scales = blocks.packed(jnp, mesh.rows(narrow, batch), form, hashed, batch)
    return mesh.sharded(codes, value), _by(scales, value.shape, int(noise.stacked))


def _sharded_as(x: jax.Array, before: jax.Array) -> jax.Array:
    """Bytes, which XLA would else shard as it likes, at every step otherwise, so that none could be donated.

    An operation with what they were before, of which the compiler sees too late that it is none, tells it how.
    """
    return x + jax.lax.optimization_barrier(before) - before


def _unpacked(codes: jax.Array, scales: jax.Array, form: str, stacked: bool) -> jax.Array:
    batch = _rows(codes.shape, stacked)
    scales = _by(scales, codes.shape, batch)
    return mesh.sharded(blocks.unpacked(jnp, mesh.rows(codes, batch), scales, form, batch), codes)


def _by(scales: jax.Array, shape: Sequence[int], batch: int) -> jax.Array:
    """The scales of an array of this shape by the first ``batch`` axes of it."""
    own = (*shape[:batch], blocks.count(shape[batch:]))
    return jnp.reshape(mesh.rows(scales, 0), own)


def _rows(shape: Sequence[int], stacked: bool) -> int:
    """How many axes number rows of whole blocks: such an axis may be sharded, and its numbers stay where they are."""
    sizes = {axis: int(np.prod(shape[axis:], dtype=np.int64)) for axis in range(len(shape))}
    even = [axis for axis in sizes if sizes[0] and sizes[axis] % blocks.BLOCK == 0]
    return max([int(stacked), *even])


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
