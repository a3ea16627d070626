"""Many arrays kept as one: leaves of one shape stacked, or all leaves end to end in one flat buffer.

Both evaluate the same program as ``Interpreter`` does array by array. XLA's cost per array (a kernel to compile
and to start, buffers to hand over) is then paid once per stack or buffer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import accumulate
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from isostep import nm
from isostep.interpret import Task
from isostep.values import FACTS, Domain, Value
from isostep_jax.evaluate import JaxInterpreter

#: Leaves per stack. Each place in a stack is a kernel of its own to compile, each stack one to run.
STACK = 20
#: Elements beyond which a leaf is left alone: its arithmetic outweighs what stacking saves.
SMALL = 1 << 14


class Run(NamedTuple):
    """Leaves that are evaluated together: ``stacked`` of them in a stack, or, where that is 0, one as it is."""

    leaves: tuple[int, ...]
    stacked: int

    def join(self, column: Sequence[Any]) -> jax.Array:
        """This run's arrays of a column as one, kept apart from what uses it: fused into that it compiles slowly."""
        values: list[jax.Array] = [column[i] for i in self.leaves]
        return jax.lax.optimization_barrier(jnp.stack(values)) if self.stacked else values[0]

    def split(self, value: jax.Array) -> list[jax.Array]:
        """The arrays that were joined."""
        return list(jax.lax.optimization_barrier(value)) if self.stacked else [value]


def singles(count: int) -> list[Run]:
    """Every leaf as it is."""
    return [Run((i,), 0) for i in range(count)]


def stacks(keys: Sequence[Any], sizes: Sequence[int], most: int = STACK) -> list[Run]:
    """Small leaves of one key in stacks of at most ``most``, in order; large ones and those of no one's key alone."""
    runs: list[Run] = []
    by_key: dict[Any, list[int]] = {}
    for i, (key, size) in enumerate(zip(keys, sizes, strict=True)):
        if size > SMALL:
            runs.append(Run((i,), 0))
        else:
            by_key.setdefault(key, []).append(i)
    for members in by_key.values():
        chunks = [tuple(members[k : k + most]) for k in range(0, len(members), most)]
        runs += [Run(chunk, len(chunk) if len(chunk) > 1 else 0) for chunk in chunks]
    return runs


@dataclass(eq=False)
class Stack(Task):
    """A task whose arrays have, if ``count`` is not 0, one axis more in front: that of the leaves in it."""

    count: int = 0


class Stacked(JaxInterpreter):
    """Evaluates stacks: each operation is mapped over the leaves of the stack, so that sums stay each leaf's own."""

    def _apply(self, node: Value, operands: list[Any], task: Task) -> Any:
        axes = [0 if _per_leaf(a) else None for a in node.args]
        if not _count(task) or 0 not in axes:
            return super()._apply(node, operands, task)
        one = _one(task)
        return jax.vmap(lambda *each: super(Stacked, self)._apply(node, list(each), one), axes)(
            *operands
        )

    def _as_array(self, node: Value, task: Task) -> Any:
        value = self._value(node, task)
        if not _count(task) or node.domain >= Domain.ELEMENT:
            return super()._as_array(node, task)
        p = task.arrays["p"]
        if _per_leaf(node) and node.domain is Domain.ARRAY:
            value = jnp.reshape(value, (-1, *(1 for _ in p.shape[1:])))
        return value + jnp.zeros_like(p)

    def _sum(self, node: Value, task: Task) -> Any:
        if _count(task) and not _per_leaf(node):
            return self._value(node, task) * _count(task)
        return super()._sum(node, task)

    def _fact(self, node: Value, task: Task) -> Any:
        return super()._fact(node, _one(task))


def observed(
    done: JaxInterpreter, tasks: Sequence[Task], runs: Sequence[Run], dtype: str
) -> jax.Array | None:
    """An observed rule's sums, a row for each leaf, in order; None of a rule that is not observed."""
    if not tasks or not tasks[0].program.figures:
        return None
    rows = [
        jnp.stack([jnp.ravel(x).astype(dtype) for x in done.figures(task)], axis=1)
        for task in tasks
    ]
    order = np.argsort([i for run in runs for i in run.leaves])
    return jnp.concatenate(rows)[order]


def _count(task: Task) -> int:
    return task.count if isinstance(task, Stack) else 0


def _one(task: Task) -> Task:
    """The task of one leaf of the stack, for what asks its shape and dtype."""
    if not _count(task):
        return task
    p = task.arrays["p"]
    return Task(task.program, {"p": p[0]}, task.scalars, task.dtype)


@cache
def _per_leaf(node: Value) -> bool:
    """Whether a value has an entry for each leaf; scalars, facts of the shape and group values have one for all."""
    if node.op == "input":
        return node.domain >= Domain.ARRAY
    if node.op in FACTS or node.op == "sum_group":
        return False
    return any(_per_leaf(a) for a in node.args)


@dataclass(eq=False)
class Segments:
    """Where leaves lie in a flat buffer, and which element belongs to which leaf or unit."""

    shapes: tuple[tuple[int, ...], ...]
    ids: dict[int | None, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def sizes(self) -> list[int]:
        """Elements of each leaf."""
        return [math.prod(s) for s in self.shapes]

    def owners(self, axis: int | None) -> tuple[np.ndarray, np.ndarray]:
        """For each element its unit's number, for each unit its leaf's; with no axis each leaf is one unit."""
        if axis not in self.ids:
            units, leaves, first = [], [], 0
            for k, shape in enumerate(self.shapes):
                own = None if axis is None else nm.unit_axis_of(shape, axis)
                count = 1 if own is None else shape[own]
                number = np.zeros(shape, np.int32)
                if own is not None:
                    number += np.arange(count, dtype=np.int32).reshape(
                        [count if i == own else 1 for i in range(len(shape))]
                    )
                units.append(first + number.ravel())
                leaves.append(np.full(count, k, np.int32))
                first += count
            self.ids[axis] = (
                np.concatenate([np.zeros(0, np.int32), *units]),
                np.concatenate([np.zeros(0, np.int32), *leaves]),
            )
        return self.ids[axis]


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def views(buffer: jax.Array, segments: Segments) -> list[jax.Array]:
    """The leaves in a flat buffer. The transpose of a split is one concatenation: gradients come out flat."""
    return cast(
        list[jax.Array],
        jax.lax.platform_dependent(
            buffer, cpu=partial(_taken, segments=segments), default=partial(_cut, segments=segments)
        ),
    )


@views.defjvp
def _views_tangent(segments: Segments, given: Any, tangents: Any) -> Any:
    return views(*given, segments), _cut(*tangents, segments=segments)


def _cut(buffer: jax.Array, *, segments: Segments) -> list[jax.Array]:
    """The leaves as slices at places that XLA knows."""
    parts = jax.lax.split(buffer, segments.sizes)
    return [jnp.reshape(x, s) for x, s in zip(parts, segments.shapes, strict=True)]


def _taken(buffer: jax.Array, *, segments: Segments) -> list[jax.Array]:
    """The leaves as slices at places that come as numbers, so that leaves of one shape share one compiled kernel.

    XLA's CPU compiler makes a kernel (about 20 ms) for every slice at a place that it knows, and it folds constants
    through everything but a branch: so there is one, and either way gives the same numbers.
    """
    if not 0 < buffer.size < 1 << 31:  # nothing to look at, or places beyond int32
        return _cut(buffer, segments=segments)
    places = [0, *accumulate(segments.sizes)][:-1]
    branch = partial(lambda values: [jnp.int32(v) for v in values], places)
    starts = jax.lax.cond(buffer[0] > 0, branch, branch)
    return [
        jnp.reshape(jax.lax.dynamic_slice_in_dim(buffer, at, size), shape)
        for at, size, shape in zip(starts, segments.sizes, segments.shapes, strict=True)
    ]


@dataclass(eq=False)
class Buffer(Task):
    """A task whose arrays are flat buffers of many leaves."""

    segments: Segments = field(default_factory=lambda: Segments(()))


class Flat(JaxInterpreter):
    """Evaluates flat buffers: values of an array or a unit are vectors with an entry for each, sums are by segment."""

    def _apply(self, node: Value, operands: list[Any], task: Task) -> Any:
        if not isinstance(task, Buffer):
            return super()._apply(node, operands, task)
        owner = task.segments.owners
        if node.op == "sum":
            ids, leaves = owner(node.args[0].axis)
            at = ids if node.args[0].domain is Domain.ELEMENT else leaves
            return _sums(operands[0], at, len(task.segments.shapes))
        if node.op == "sum_units":
            ids, leaves = owner(node.attrs[0])
            return _sums(operands[0], ids, len(leaves))
        lifted = [
            _lift(v, a, node, task.segments) for v, a in zip(operands, node.args, strict=True)
        ]
        return super()._apply(node, lifted, task)

    def _as_array(self, node: Value, task: Task) -> Any:
        if not isinstance(task, Buffer):
            return super()._as_array(node, task)
        value = self._value(node, task)
        if Domain.GROUP < node.domain < Domain.ELEMENT and hasattr(value, "shape"):
            value = value[task.segments.owners(node.axis)[0]] if value.shape else value
        return value + jnp.zeros_like(task.arrays["p"])

    def _sum(self, node: Value, task: Task) -> Any:
        value = self._value(node, task)
        if isinstance(task, Buffer) and not getattr(value, "shape", ()):
            return value * len(task.segments.shapes)  # the same for every leaf
        return super()._sum(node, task)

    def _fact(self, node: Value, task: Task) -> Any:
        if not isinstance(task, Buffer) or node.op == "eps":
            return super()._fact(node, task)
        each = [
            float(getattr(nm, node.op)(jax.ShapeDtypeStruct(s, np.float32), *node.attrs))
            for s in task.segments.shapes
        ]
        return jnp.asarray(np.array(each, task.dtype))


def _sums(x: jax.Array, ids: np.ndarray, count: int) -> jax.Array:
    return jax.ops.segment_sum(x, ids, num_segments=count)


def _lift(value: Any, operand: Value, user: Value, segments: Segments) -> Any:
    """A value of an array or unit at the rate of the node that uses it."""
    vector = hasattr(value, "shape") and len(value.shape) == 1
    if not vector or operand.domain >= user.domain or operand.domain <= Domain.GROUP:
        return value
    if user.domain is Domain.UNIT:
        return value[segments.owners(user.axis)[1]]
    return value[segments.owners(operand.axis)[0]]
