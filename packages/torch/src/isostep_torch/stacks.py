"""Core's stacks (``isostep.lower.stacks``) of tensors: memory is used again, and torch's calls take them whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from isostep import nm
from isostep.interpret import Interpreter, Task
from isostep.lower.axes import VIEWS, Axes
from isostep.lower.stacked import Stacked
from isostep.lower.stacks import Stack, Stacks, of_one_rank
from isostep.program import Program
from isostep.values import MAPS, REDUCTIONS, Domain, Value
from isostep_torch.addresses import in_python
from isostep_torch.calls import call, number
from isostep_torch.memory import all_have_memory

#: What writes its result into a tensor that it is given.
WRITING: dict[str, Callable[..., torch.Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "neg": torch.neg,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "exp": torch.exp,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}


@cache
def _passing(program: Program) -> frozenset[Value]:
    """Values of which there is no view: ``WRITING`` makes them, and nothing uses them but that and sums.

    Outputs have a use more than others, and so no last one among the operations.
    """
    seen = {a for n in program.live if n.op not in {*WRITING, *REDUCTIONS} for a in n.args}
    made = (n for n in program.live if n.op in WRITING and n.domain > Domain.GROUP)
    return frozenset(made) - seen


@cache
def _lookers(axes: Axes) -> dict[Value, tuple[Value, ...]]:
    """Of what passes keep: it and its views, where all else that uses these makes memory of its own or is a pass."""
    found: dict[Value, tuple[Value, ...]] = {}
    for kept in axes.kept:
        lookers, users = {kept}, []
        for n in axes.others:  # in order: a view of a view comes after it
            if lookers.isdisjoint(n.args):
                continue
            if n.op in VIEWS:
                lookers.add(n)
            else:
                users.append(n)
        if all(n.op in {*WRITING, *REDUCTIONS, "matmul"} for n in users):
            found[kept] = (*lookers,)
    return found


class Scratch:
    """Memory that one step uses again and again: what the allocator gives anew, the system has to clear first."""

    def __init__(self) -> None:
        self.free: dict[Any, list[torch.Tensor]] = defaultdict(list)

    def take(self, shape: torch.Size, like: torch.Tensor) -> torch.Tensor:
        """A tensor of any contents."""
        known = self.free[shape, like.dtype, like.device]
        return known.pop() if known else torch.empty(shape, dtype=like.dtype, device=like.device)

    def give(self, tensor: torch.Tensor) -> None:
        """A tensor that nothing refers to any more."""
        self.free[tensor.shape, tensor.dtype, tensor.device].append(tensor)


class TorchStacks(Stacks):
    """The interpreter of stacks. The last use of a value may write its result in the value's place."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.scratch = Scratch()
        self.rooms: dict[int, dict[Value, torch.Tensor]] = defaultdict(dict)

    def room(self, task: Stack, node: Value, shape: tuple[int, ...]) -> torch.Tensor:
        made = self.rooms[id(task)][node] = self.scratch.take(torch.Size(shape), task.like)
        return made

    def _give_rooms(self, task: Stack) -> None:
        """Of what passes have kept, what nothing looks at any more. No operation is under way."""
        rooms, left = self.rooms.get(id(task)), self.left[id(task)]
        if not rooms:
            return
        assert task.axes is not None
        lookers = _lookers(task.axes)
        for n in [n for n in rooms if n in lookers and not any(left[m] for m in lookers[n])]:
            self.scratch.give(rooms.pop(n))

    def ended(self, task: Stack, found: Mapping[str, torch.Tensor]) -> None:
        made = {id(v): v for n, v in found.items() if task.program.outputs[n].op in WRITING}
        for v in (*made.values(), *self.rooms.pop(id(task), {}).values()):
            self.scratch.give(v)

    def _pass(self, task: Stack, axes: Axes, number: int) -> None:
        super()._pass(task, axes, number)
        self._give_rooms(task)

    def _added(self, p: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        return torch.add(p, update, out=p)

    def _apply(self, node: Value, operands: list[Any], task: Task) -> Any:
        assert isinstance(task, Stack)
        over = self._free(node, operands, task)
        found = self._applied(node, operands, task, over)
        for x in over:
            if x is not found:
                self.scratch.give(x)
        self._give_rooms(task)
        return found

    def _free(self, node: Value, operands: list[Any], task: Stack) -> list[torch.Tensor]:
        """Of what nothing uses any more, what was made to be used again."""
        by, passing = task.axes, _passing(task.program)
        return [
            x
            for a, x in self.let_go(node, operands, task)
            # What is of a pass is given back when all is done.
            if a in passing and not (by is not None and a in by.made) and torch.is_tensor(x)
        ]

    def _applied(
        self, node: Value, operands: list[Any], task: Stack, over: list[torch.Tensor]
    ) -> Any:
        if node.op not in MAPS:
            return self.each(node, operands, task)
        with nm.computing(self._widest if node.domain <= Domain.GROUP else task.like):
            if node.domain <= Domain.GROUP:
                return call(node.op, *operands)
            operands = of_one_rank(operands)
            stacks = [x for x in operands if isinstance(x, torch.Tensor)]
            if node.op not in WRITING or not stacks:
                return call(node.op, *operands)
        shapes = {x.shape for x in stacks}
        whole = shapes.pop() if len(shapes) == 1 else torch.broadcast_shapes(*shapes)
        place = next((x for x in over if x.shape == whole), None)
        if place is None:
            place = self.scratch.take(whole, stacks[0])
        return WRITING[node.op](*(_tensor(x, place) for x in operands), out=place)

    def each(self, node: Value, operands: list[Any], task: Stack) -> Any:
        """What has axes of its own, of every tensor of the stacks."""
        count = task.count
        stacked = list(map(self.is_stack, operands, node.args))

        def one(*own: Any) -> Any:
            return Interpreter._apply(self, node, list(own), task)

        if count > 1 and any(stacked):
            return torch.vmap(one, tuple(0 if s else None for s in stacked))(*operands)
        found = one(*(x[0] if s else x for x, s in zip(operands, stacked, strict=True)))
        if not isinstance(found, torch.Tensor):
            return found
        return found.expand(count, *found.shape)


def _tensor(x: Any, like: torch.Tensor) -> Any:
    """A number as a tensor, without a copy from the host."""
    if isinstance(x, torch.Tensor):
        return x
    return torch.full((), number(x, like.dtype), dtype=like.dtype, device=like.device)


class StackedTensors(Stacked):
    """What core's stacks ask of tensors."""

    stacks = TorchStacks

    def all_reachable(self, arrays: Sequence[torch.Tensor]) -> bool:
        places = {a.layout is torch.strided and a.device.type != "meta" for a in arrays}
        return places <= {True} and all_have_memory(arrays)

    def addresses(self, arrays: Sequence[torch.Tensor]) -> np.ndarray:
        return in_python(arrays)

    def lies_flat(self, array: torch.Tensor) -> bool:
        return array.is_contiguous() and not array.is_neg()

    def flat(self, array: torch.Tensor) -> torch.Tensor:
        return array if self.lies_flat(array) else array.resolve_neg().contiguous()

    def copy_all(self, targets: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
        if any(map(torch.Tensor.is_neg, targets)):  # of which foreach takes no list
            for target, value in zip(targets, values, strict=True):
                target.copy_(value)
        elif targets:
            torch._foreach_copy_(list(targets), list(values))
