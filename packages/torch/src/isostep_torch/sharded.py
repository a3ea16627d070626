"""Steps on distributed tensors (DTensor: FSDP2's parameters), which are opened as plain tensors and closed after it.

torch has no rule of sharding for many operations, least of all for those on lists, so a step does not depend on which
it has. Rules of elements and sums step the parts that lie here, and only their sums go between processes. A rule with
matrices has to see whole arrays: every process computes the same from them, as it would alone, and keeps its part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from isostep import nm
from isostep.flow import Item
from isostep.program import trace
from isostep.rule import BoundRule
from isostep.values import TENSOR_OPS

#: Types that need no second look: a step asks for every tensor.
PLAIN = (torch.Tensor, torch.nn.Parameter)
#: What torch cannot do on shards, or only by sending much: matrices, and the sign, which is told NaN by a mask. Of what
#: goes along axes (factored state) it sends no more than the sums.
ON_WHOLE = frozenset(("sign", *TENSOR_OPS)).difference(("sum_axis", "max_axis"))


def distributed(tensor: Any) -> bool:
    """Whether a tensor lies on several processes."""
    return type(tensor) not in PLAIN and hasattr(tensor, "to_local")


def laid_out(tensor: Any, like: Any) -> Any:
    """A distributed tensor laid out as another, or whole as a plain one is; any other tensor itself."""
    if not distributed(tensor):
        return tensor
    if not distributed(like):
        return tensor.full_tensor()
    same = tensor.placements == like.placements
    return tensor if same else tensor.redistribute(like.device_mesh, like.placements)


def added_up(tensor: Any) -> Any:
    """A sum of which every process has a part as the sum itself, everywhere; any other tensor as it is."""
    if not distributed(tensor) or not any(s.is_partial() for s in tensor.placements):
        return tensor
    from torch.distributed.tensor import Replicate

    placements = [Replicate() if s.is_partial() else s for s in tensor.placements]
    return tensor.redistribute(tensor.device_mesh, placements)


def _spread(part: torch.Tensor, like: Any) -> Any:
    """The distributed tensor of which this is the part that lies here, cut as another one is."""
    from torch.distributed.tensor import DTensor

    how = {"run_check": False, "shape": like.shape, "stride": like.stride()}
    return DTensor.from_local(part, like.device_mesh, like.placements, **how)


def by_parts(change: Callable[[torch.Tensor], torch.Tensor], tensor: Any) -> Any:
    """A change of each element of a tensor, made where the elements lie."""
    if not distributed(tensor):
        return change(tensor)
    tensor = added_up(tensor)
    return _spread(change(tensor.to_local()), tensor)


class _Opened:
    """An item whose distributed tensors are plain ones: the whole of each, or the part that lies here."""

    def __init__(self, item: Item, whole: bool) -> None:
        self.item, self.whole = item, whole
        self.p, self.state = item.p, item.state
        self.known: dict[int, tuple[Any, Any]] = {}  # what was opened, and as what it was given
        item.p, item.g = self._plain(item.p), self._plain(item.g)
        item.inputs = {n: self._plain(v) for n, v in item.inputs.items()}
        item.state = {n: self._plain(v) for n, v in item.state.items()}

    def _plain(self, tensor: Any) -> Any:
        if not distributed(tensor):
            return tensor
        plain = tensor.full_tensor() if self.whole else laid_out(tensor, self.p).to_local()
        self.known[id(plain)] = plain, tensor
        return plain

    def close(self) -> None:
        """Lay out what the step has made as that which it replaces."""
        item, u = self.item, self.item.u
        new = nm.overwrite if isinstance(u, nm.Overwrite) else lambda u: u
        item.u = new(self._laid_out(u.value if isinstance(u, nm.Overwrite) else u, self.p))
        item.state = {n: self._laid_out(v, self.state[n]) for n, v in item.state.items()}
        item.p = self.p

    def _laid_out(self, value: Any, like: Any) -> Any:
        if id(value) in self.known:  # handed on as it came in: a step must see that it is the same
            return self.known[id(value)][1]
        if not distributed(like) or not isinstance(value, torch.Tensor):
            return value
        if not self.whole:
            return _spread(value, self.p)
        from torch.distributed.tensor import DTensor, Replicate

        mesh, value = like.device_mesh, value.expand(like.shape)
        everywhere = DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
        return everywhere.redistribute(mesh, like.placements)


@contextmanager
def opened(items: Sequence[Item], *, whole: bool = False) -> Iterator[list[Any]]:
    """Within, the items of distributed parameters have plain tensors. Gives the parameters as they were."""
    params = [item.p for item in items]
    spread = [_Opened(item, whole) for item in items if distributed(item.p)]
    yield params
    for each in spread:
        each.close()


def joined(found: Sequence[Any], params: Sequence[Any], unit_axis: int | None = None) -> list[Any]:
    """Sums over the parts of parameters that lie here, added up over all processes: of many arrays in one message.

    ``unit_axis``: the sums are those of ``nm.sum_units``, and what lies elsewhere along this axis is another unit's.
    """
    sums, bins = list(found), defaultdict(list)
    for k, (x, p) in enumerate(zip(found, params, strict=True)):
        if not distributed(p):
            continue
        kept = None if unit_axis is None else nm.unit_axis_of(p.shape, unit_axis)
        shards = [(i, s) for i, s in enumerate(p.placements) if not s.is_replicate()]
        if over := tuple(i for i, s in shards if s.dim != kept):
            bins[p.device_mesh, over, x.dtype, x.device].append(k)
    for (mesh, over, *_), places in bins.items():
        flat = torch.cat([sums[k].reshape(-1) for k in places])
        for i in over:
            torch.distributed.all_reduce(flat, group=mesh.get_group(i))
        pieces = flat.split([sums[k].numel() for k in places])
        for k, piece in zip(places, pieces, strict=True):
            sums[k] = piece.reshape(sums[k].shape)
    return sums


def stepped(
    run: Callable[..., Any], rule: BoundRule, items: list[Item], group: dict[str, Any], t: Any
) -> Any:
    """``run``, which works on distributed tensors as torch does where that is sound, on whole arrays elsewhere.

    One after another, unless they are summed over, so that one whole array at a time is in memory.
    """
    if not any(distributed(item.p) for item in items):
        return run(rule, items, group, t)
    tied = rule.group_names or any(c.part.measure is not None for c in rule.components)
    for some in [items] if tied else [[item] for item in items]:
        meshes = {getattr(item.p, "device_mesh", None) for item in some}
        if len(meshes) > 1 or any(_needs_whole(rule, item) for item in some):
            with opened(some, whole=True):
                group = run(rule, some, group, t)
        else:
            group = run(rule, some, group, t)
    for item in items:
        if distributed(item.seen):  # figures are taken of all items' sums together
            item.seen = item.seen.full_tensor()
    return group


def _needs_whole(rule: BoundRule, item: Item) -> bool:
    """Whether a distributed parameter meets a rule with matrices, or is cut unevenly.

    Of shards that are empty torch takes no maximum, and where shards differ in size it often lays out the result as
    nothing that is written to is laid out.
    """
    p = item.p
    if not distributed(p):
        return False
    parts = [1] * p.ndim
    for i, s in enumerate(p.placements):
        if not s.is_replicate():
            parts[s.dim] *= p.device_mesh.size(i)
    if any(size % count for size, count in zip(p.shape, parts, strict=True)):
        return True
    return any(n.op in ON_WHOLE for n in trace(rule, item.phase, tuple(p.shape)).live)
