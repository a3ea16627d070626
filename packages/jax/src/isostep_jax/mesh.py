"""Parameters sharded over explicit axes of a mesh, whose matrices JAX will not multiply without being told how.

With such axes (``jax.make_mesh``'s own kind) shardings are part of types: a sum and elementwise arithmetic have one
answer, a product along a sharded axis or a reshape of one has several. So a rule of matrices is given whole arrays,
gathered before the step, and what it makes is sharded as what it was given. With automatic axes XLA chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from isostep.program import trace
from isostep.rule import BoundRule
from isostep.values import TENSOR_OPS

#: What has one answer on shards.
_SUMS = ("sum_axis", "max_axis")


def spread(x: Any) -> NamedSharding | None:
    """How an array is sharded over explicit axes; None if it is not."""
    # ``jax.typeof`` of a JAX that has explicit axes; others have it not, and NumPy's arrays have no shards.
    sharding: Any = getattr(getattr(x, "aval", None), "sharding", None)
    return sharding if any(axis is not None for axis in getattr(sharding, "spec", ())) else None


def gathers(rule: BoundRule, given: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a step needs whole arrays: some are spread, and a kind of step takes some as matrices."""
    if not any(spread(a) is not None for arrays in given for a in arrays.values()):
        return False
    return multiplies(rule, {tuple(arrays["p"].shape) for arrays in given})


def multiplies(rule: BoundRule, shapes: Iterable[tuple[int, ...] | None] = (None,)) -> bool:
    """Whether a kind of step takes some arrays of these shapes as matrices; None is a shape that the rule takes."""
    programs = (trace(rule, phase, shape) for shape in shapes for phase in rule.kinds())
    return any(n.op in TENSOR_OPS and n.op not in _SUMS for p in programs for n in p.live)


def whole(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays, each on every device."""
    return {n: a if (s := spread(a)) is None else _to(a, s.mesh) for n, a in arrays.items()}


def alike(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays, those like the parameter sharded as it is, so that every kind of step makes them of one type."""
    p = arrays["p"]
    return {n: a if spread(a) or a.shape != p.shape else sharded(a, p) for n, a in arrays.items()}


def rows(x: Any, count: int) -> Any:
    """An array whose axes behind the first ``count`` are not spread."""
    s = spread(x)
    if s is None or not any(axis is not None for axis in s.spec[count:]):
        return x
    return jax.sharding.reshard(x, NamedSharding(s.mesh, PartitionSpec(*s.spec[:count])))


def _to(x: jax.Array, mesh: Any) -> jax.Array:
    return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec()))


def met(x: Any, arrays: Sequence[Any]) -> Any:
    """What is made of no array, of the type that it has once these have met it.

    In ``shard_map`` types say along which axes of the mesh values differ, and a scan's carry has to keep its own.
    """
    axes: set[str] = set().union(*map(_varying, arrays)) - _varying(x)
    return jax.lax.pcast(x, tuple(sorted(axes)), to="varying") if axes else x


def _varying(a: Any) -> frozenset[str]:
    kind = getattr(getattr(a, "aval", None), "manual_axis_type", None)  # which not every JAX has
    return getattr(kind, "varying", frozenset())


def sharded(x: Any, like: Any) -> Any:
    """An array, sharded as one that it takes the place of."""
    return x if x is None or (s := spread(like)) is None else jax.sharding.reshard(x, s)
