"""The part of a step between its passes: values per group, per array and per unit, a few NumPy calls for all.

A value per array is a vector over the arrays of the list, a value per unit a vector over the units of all
arrays, so a thousand small arrays cost no more calls than one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isostep.nm import unit_axis_of
from isostep.values import FACTS, MAPS, REDUCTIONS, Domain, Value


@dataclass(frozen=True)
class Facts:
    """What is known of the arrays of a list before any pass; ``units`` by axis. Each is worked out once."""

    shapes: tuple[tuple[int, ...], ...]
    dtype: np.dtype
    known: dict[Any, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def vector(self, op: str, attrs: tuple[Any, ...]) -> np.ndarray:
        """One fact of every array."""
        key = (op, attrs)
        if key not in self.known:
            self.known[key] = self._vector(op, attrs)
        return self.known[key]

    def units(self, axis: int) -> np.ndarray:
        """Rows of (inner, count, base): unit of element i = (i // inner) % count, numbered from base on."""
        if axis not in self.known:
            self.known[axis] = self._units(axis)
        return self.known[axis]

    def _vector(self, op: str, attrs: tuple[Any, ...]) -> np.ndarray:
        if op == "eps":
            return np.full(len(self.shapes), np.finfo(self.dtype).eps, self.dtype)
        if op == "unit_size":
            inner_count = self.units(attrs[0])
            sizes = np.array([int(np.prod(s, dtype=np.int64)) for s in self.shapes], self.dtype)
            return sizes / np.maximum(inner_count[:, 1], 1).astype(self.dtype)
        of = (lambda s: int(np.prod(s, dtype=np.int64))) if op == "size" else len
        return np.array([of(s) for s in self.shapes], self.dtype)

    def _units(self, axis: int) -> np.ndarray:
        rows, base = [], 0
        for shape in self.shapes:
            size = int(np.prod(shape, dtype=np.int64))
            own = unit_axis_of(shape, axis)
            count = 1 if own is None else shape[own]
            inner = size if own is None else int(np.prod(shape[own + 1 :], dtype=np.int64))
            rows.append((max(size, 1) if count <= 1 else max(inner, 1), count, base))
            base += count
        return np.array(rows, np.int64).reshape(-1, 3)


class Small:
    """Evaluates the nodes that are not per element, as their operands become known."""

    def __init__(
        self,
        facts: Facts,
        scalars: Callable[[Value], np.ndarray],
        shared: Mapping[Value, Any],
        group_dtype: np.dtype,
    ) -> None:
        """``scalars(node)``: a scalar of t, one value per array; ``shared``: one number for the group."""
        self.facts = facts
        self.group_dtype = group_dtype
        self.known: dict[Value, Any] = dict(shared)
        self._scalars = scalars

    def __getitem__(self, node: Value) -> Any:
        found = self.known.get(node)
        if found is None:
            found = self.known[node] = self._compute(node)
        return found

    def _compute(self, node: Value) -> Any:
        if node.op == "const":
            value = node.attrs[0]
            return value if isinstance(value, bool) else self.facts.dtype.type(value)
        if node.domain <= Domain.STEP:
            return self._scalars(node)
        if node.op in FACTS:
            return self.facts.vector(node.op, node.attrs)
        if node.op in REDUCTIONS:  # of a value that is itself not per element
            message = f"the sum {node!r} is taken before its pass"
            raise AssertionError(message)
        operands = [self._spread(a, node) for a in node.args]
        return MAPS[node.op].array(np, *operands)

    def _spread(self, operand: Value, user: Value) -> Any:
        """A per-array operand repeated for the units of each array; the group's numbers in the user's dtype."""
        value = self[operand]
        if np.ndim(value) == 0 and not isinstance(value, bool | np.bool_):
            of_group = user.domain is Domain.GROUP or user.scope == "group"
            if operand.op == "const":
                value = operand.attrs[0]
            value = (self.group_dtype if of_group else self.facts.dtype).type(value)
        if user.domain is Domain.UNIT and operand.domain < Domain.UNIT and np.ndim(value):
            assert user.axis is not None
            return np.repeat(value, self.facts.units(user.axis)[:, 1])
        return value
