"""Flat buffers as a tree in which every list of equal subtrees is one subtree, a stack of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Leaf(NamedTuple):
    """The buffer in which a leaf lies, its shape and dtype; in a buffer of its own (``alone``) it is not flat."""

    buffer: str
    shape: tuple[int, ...]
    dtype: str
    alone: bool


def stacked(numbers: Any, leaves: Sequence[Leaf], buffers: Mapping[str, jax.Array]) -> Any:
    """The tree of what ``numbers`` names; leaves of a buffer lie in it in the tree's order."""
    return _view(numbers, leaves, dict(buffers), ())


def _view(
    node: Any, leaves: Sequence[Leaf], blocks: dict[str, jax.Array], lead: tuple[int, ...]
) -> Any:
    """A subtree of numbers of leaves as views; ``blocks`` have the axes ``lead`` and then what is the subtree's own."""
    if isinstance(node, int):
        leaf = leaves[node]
        block = blocks[leaf.buffer]
        return block if leaf.alone else jnp.reshape(block, (*lead, *leaf.shape))
    children, top = jax.tree.flatten(node, is_leaf=lambda x: x is not node)
    own = [[leaves[i] for i in jax.tree.leaves(child)] for child in children]
    if isinstance(node, list) and _equal(children, own):
        count = len(children)
        inner = {n: jnp.reshape(b, (*lead, count, b.shape[-1] // count)) for n, b in blocks.items()}
        return _view(children[0], leaves, inner, (*lead, count))
    parts: list[dict[str, jax.Array]] = [{} for _ in children]
    for name, block in blocks.items():
        alone = any(leaf.alone for some in own for leaf in some if leaf.buffer == name)
        sizes = [sum(math.prod(x.shape) for x in some if x.buffer == name) for some in own]
        cut = [block] * len(own) if alone else jax.lax.split(block, sizes, axis=len(lead))
        for part, some, piece in zip(parts, own, cut, strict=True):
            if any(x.buffer == name for x in some):
                part[name] = piece
    return jax.tree.unflatten(
        top, [_view(child, leaves, part, lead) for child, part in zip(children, parts, strict=True)]
    )


def _equal(children: Sequence[Any], own: Sequence[list[Leaf]]) -> bool:
    """Whether these subtrees are of one structure, with leaves that lie alike."""
    if not children or not own[0] or any(leaf.alone for some in own for leaf in some):
        return False
    structure: Any = jax.tree.structure(children[0])
    return all(
        jax.tree.structure(child) == structure and some == own[0]
        for child, some in zip(children, own, strict=True)
    )
