"""How a tree lies in flat buffers, and what is said of trees and buffers that do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from isostep.state import StepError
from isostep_jax.devices import check_together
from isostep_jax.dtypes import name_of
from isostep_jax.layout import Segments, views
from isostep_jax.stacked import Leaf, stacked

Buffers = dict[str, jax.Array]


@dataclass(frozen=True, eq=False, repr=False)
class Layout:
    """A tree of numbers of leaves, and where each lies: those of one dtype end to end in the buffer named by it."""

    rule: str  # its name, for messages
    numbers: Any
    leaves: tuple[Leaf, ...]

    def __reduce__(self) -> Any:  # without what follows from it, which holds on to this process
        return Layout, (self.rule, self.numbers, self.leaves)

    @cached_property
    def tree(self) -> Any:
        """The structure."""
        return jax.tree.structure(self.numbers)

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """The numbers of the leaves in each buffer, by its name."""
        found: dict[str, list[int]] = {}
        for i, leaf in enumerate(self.leaves):
            found.setdefault(leaf.buffer, []).append(i)
        return dict(sorted(found.items()))  # as JAX sorts the keys of a dict

    @cached_property
    def segments(self) -> dict[str, Segments | None]:
        """Where leaves lie in each buffer; None of a leaf that has one for itself."""
        return {
            n: None
            if self.leaves[own[0]].alone
            else Segments(tuple(self.leaves[i].shape for i in own))
            for n, own in self.places.items()
        }

    def flatten(self, values: Any) -> Buffers:
        """The buffers of a tree like the parameters: of these, of gradients, of any input of a step.

        Raises:
            StepError: another structure, leaves of other shapes, or of several dtypes in one buffer.
        """
        found, structure = jax.tree.flatten(values)
        if structure != self.tree:
            message = (
                f"{self.rule}: flatten needs the structure of params, {self.tree}, got {structure}"
            )
            raise StepError(message)
        for i, (leaf, v) in enumerate(zip(self.leaves, found, strict=True)):
            _check(self.rule, f"flatten: leaf {i}", v, leaf.shape)
        check_together(self.rule, found)
        return {n: self._joined(n, [found[i] for i in own]) for n, own in self.places.items()}

    def _joined(self, name: str, values: Sequence[jax.Array]) -> jax.Array:
        if self.segments[name] is None:
            return values[0]
        dtypes = sorted({name_of(v) for v in values})
        if len(dtypes) > 1:  # gradients may have another one than parameters, but no leaf another's
            message = (
                f"{self.rule}: flatten: leaves in buffer {name!r} must have one dtype, got {', '.join(dtypes)}; "
                "cast them first"
            )
            raise StepError(message)
        return jnp.concatenate([jnp.ravel(v) for v in values])

    def unflatten(self, buffers: Buffers) -> Any:
        """The tree in buffers, of parameters or of anything that ``flatten`` or ``update`` gave.

        Raises:
            StepError: buffers of other names or lengths.
        """
        self.check(buffers)
        found: dict[int, jax.Array] = {}
        for n, own in self.places.items():
            segments = self.segments[n]
            parts = [buffers[n]] if segments is None else views(jnp.asarray(buffers[n]), segments)
            found |= dict(zip(own, parts, strict=True))
        return jax.tree.unflatten(self.tree, [found[i] for i in range(len(self.leaves))])

    def stacked(self, buffers: Buffers) -> Any:
        """``unflatten`` with every list of equal subtrees as one subtree, whose leaves have an axis more in front."""
        self.check(buffers)
        return stacked(self.numbers, self.leaves, buffers)

    def check(self, buffers: Any, *, params: bool = False) -> None:
        """Buffers must be those of this layout; if they are parameters, of its dtypes too."""
        if type(buffers) is not dict or buffers.keys() != self.places.keys():
            names = ", ".join(map(str, buffers)) if isinstance(buffers, Mapping) else ""
            message = (
                f"{self.rule}: buffers must be a dict of {', '.join(self.places) or 'nothing'}, got "
                f"{type(buffers).__name__} of {names or 'nothing'}; make them with flat.flatten(tree)"
            )
            raise StepError(message)
        for n, segments in self.segments.items():
            leaf = self.leaves[self.places[n][0]]
            shape = leaf.shape if segments is None else (sum(segments.sizes),)
            _check(self.rule, f"buffer {n!r}", buffers[n], shape, leaf.dtype if params else None)


def _check(rule: str, label: str, v: Any, shape: tuple[int, ...], dtype: str | None = None) -> None:
    if not hasattr(v, "shape") or not hasattr(v, "dtype"):
        message = f"{rule}: {label} must be an array, got {type(v).__name__}"
        raise StepError(message)
    if tuple(v.shape) != shape:
        got = tuple(v.shape)
        message = f"{rule}: {label} must have shape {shape}, got {got}; flat(tx, params) makes another layout"
        raise StepError(message)
    if not jnp.issubdtype(v.dtype, jnp.floating) or name_of(v) != (dtype or name_of(v)):
        message = f"{rule}: {label} must be {dtype or 'floating'}, got {name_of(v)}; cast it first"
        raise StepError(message)
