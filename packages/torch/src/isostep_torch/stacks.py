"""Rules with axes or matrices on many tensors at once: those of one shape are stacked, and the program runs once.

A rule that looks at shapes has a program for each shape, so tensors of one shape differ in nothing but numbers: a
thousand small matrices take the calls of one. A stack fits into a cache; a tensor that is larger than that is a stack
of its own, without a copy. A value lives until its last use, which may write its result in the value's place.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

from isostep import nm, scalars
from isostep.interpret import Interpreter, Task
from isostep.lower.axes import Axes, axes
from isostep.lower.overlap import Written
from isostep.program import UPDATE, Program, shaped
from isostep.rule import BoundRule
from isostep.state import StepError
from isostep.values import FACTS, MAPS, REDUCTIONS, Domain, Value
from isostep_torch.calls import call, number
from isostep_torch.traced import group_scalars

#: Elements of a stack of several tensors.
ROOM = 1 << 18
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
#: What may be a view of its operand, or the operand itself.
VIEWS = frozenset(("input", "reshape", "transpose", "where"))


@cache
def _passing(program: Program) -> frozenset[Value]:
    """Values of which there is no view: ``WRITING`` makes them, and nothing uses them but that and sums.

    Outputs have a use more than others, and so no last one among the operations.
    """
    seen = {a for n in program.live if n.op not in {*WRITING, *REDUCTIONS} for a in n.args}
    made = (n for n in program.live if n.op in WRITING and n.domain > Domain.GROUP)
    return frozenset(made) - seen


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


class _Arrays(dict[str, torch.Tensor]):
    """The arrays of a stack by name, stacked when they are asked for."""

    def __init__(self, own: Mapping[str, list[torch.Tensor]]) -> None:
        super().__init__()
        self.own = own

    def __missing__(self, name: str) -> torch.Tensor:
        found = self.own[name]
        self[name] = found[0][None] if len(found) == 1 else torch.stack(list(found))
        return self[name]


@dataclass(eq=False)
class Stack(Task):
    """The task of ``count`` tensors of one shape; with ``axes`` by compiled passes."""

    count: int = 1
    axes: Axes | None = None
    given: Mapping[str, list[torch.Tensor]] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    computed: set[Value] = field(default_factory=set)
    kept: list[torch.Tensor] = field(default_factory=list)
    group_parts: dict[Value, torch.Tensor] = field(default_factory=dict)

    def own(self, name: str) -> list[torch.Tensor]:
        """The arrays of one name, as they are."""
        assert isinstance(self.arrays, _Arrays)
        return self.arrays.own[name]

    @property
    def like(self) -> torch.Tensor:
        """One of the parameters."""
        return self.own("p")[0]


class Stacks(Interpreter):
    """The interpreter with a stack for every value per array: it has an axis more, the first, along the tensors."""

    tasks: Sequence[Stack]

    def __init__(self, tasks: Sequence[Stack], passes: Any, *args: Any) -> None:
        super().__init__(tasks, *args)
        self.passes, self.scratch = passes, Scratch()
        self.left = {
            id(t): Counter(a for n in t.program.live for a in n.args) + Counter(t.program.roots)
            for t in tasks
        }

    def total_all(self) -> None:
        """Take the sums over the group: no array has been written to yet."""
        for name in self.tasks[0].program.group_sums:
            self._total(name)

    def write(self, task: Stack) -> None:
        """Compute what a step makes of a stack, and put it into the arrays."""
        program, written = task.program, ("p", *task.program.stored)
        if task.axes is not None:
            for node in task.axes.between:
                if node not in task.computed:  # else it may have been let go of
                    self._value(node, task)
            self._pass(task, task.axes, task.axes.count - 1)
            for n in task.axes.stores:
                for target, value in zip(task.given[n], task.own(n), strict=True):
                    if target is not value:  # passes have gone over a contiguous copy
                        target.copy_(value)
            written = tuple(n for n in written if n not in task.axes.stores)
        outputs = {UPDATE if n not in program.outputs else n: n for n in written}
        found = {n: self._as_array(program.outputs[name], task) for name, n in outputs.items()}
        for name, n in outputs.items():
            if program.outputs[name].op in VIEWS and n != "p":
                found[n] = found[n].clone()  # it may be a view of what is about to be written
        if UPDATE in outputs:
            p = task.arrays["p"]
            found["p"] = torch.add(p, found["p"], out=p)
        for n, v in found.items():
            if n != "p" or UPDATE not in outputs or task.count > 1:
                _copy(task.given[n], v.unbind())
        passed = {
            id(v): v for n, v in found.items() if n != "p" and program.outputs[n].op in WRITING
        }
        task.values.clear()
        for v in (*passed.values(), *task.kept):
            self.scratch.give(v)

    def _as_array(self, node: Value, task: Task) -> Any:
        value = self._value(node, task)
        if node.domain is Domain.TENSOR:
            return value
        p = task.arrays["p"]
        if node.domain is Domain.ELEMENT and getattr(value, "shape", None) == p.shape:
            return value
        zeros = torch.zeros_like(p)
        return call("add", *_of_one_rank((zeros, self._fit(value, node, node, task))))

    def _compute(self, node: Value, task: Task) -> Any:
        assert isinstance(task, Stack)
        task.computed.add(node)
        if node.op in FACTS:
            return float(getattr(nm, node.op)(task.like, *node.attrs))
        by = task.axes
        if by is not None and node.op != "sum_group" and node in by.made:
            self._pass(task, by, by.made[node])
            return task.values[node]
        return super()._compute(node, task)

    def _sum(self, node: Value, task: Task) -> Any:
        assert isinstance(task, Stack)
        by = task.axes
        for n in [] if by is None else by.reduced:
            if by is not None and n.op == "sum_group" and n.args[0] is node:
                self._pass(task, by, by.made[n])
                return task.group_parts[n].sum()
        return super()._sum(node, task)

    def _pass(self, task: Stack, axes: Axes, number: int) -> None:
        """One compiled pass over a stack, if it has not been done."""
        if number in task.done:
            return
        task.done.add(number)
        one, count = axes.passes[number], task.count
        scalars = [float(self._value(n, task)) for n in one.scalars]
        columns = np.zeros((count, len(one.columns)))
        for k, n in enumerate(one.columns):
            value = self._value(n, task)
            columns[:, k] = value.reshape(-1).numpy() if isinstance(value, torch.Tensor) else value
        dtype = getattr(torch, task.dtype)
        stacked = {
            n: self._value(n, task).to(dtype).expand(count, *axes.shape_of(n)).contiguous()
            for n in one.stacks
        }
        like = task.like
        task.computed.update((*one.kept, *one.reduced))
        for n in one.kept:
            stacked[n] = task.values[n] = self.scratch.take(torch.Size((count, *axes.shape)), like)
            task.kept.append(stacked[n])
        table = np.array([[x.data_ptr() for x in task.own(n)] for n in one.slots], np.int64)
        sums = self.passes(
            axes,
            one,
            task.dtype,
            count,
            table=table.T,
            scalars=scalars,
            columns=columns,
            at={n: x.data_ptr() for n, x in stacked.items()},
        )
        for n, found in sums.items():
            value = torch.from_numpy(found).to(dtype).reshape(count, *axes.shape_of(n))
            (task.group_parts if n.op == "sum_group" else task.values)[n] = value

    def _apply(self, node: Value, operands: list[Any], task: Task) -> Any:
        over = self._last_uses(node, operands, task)
        found = self._applied(node, operands, task, over)
        for x in over:
            if x is not found:
                self.scratch.give(x)
        return found

    def _applied(
        self, node: Value, operands: list[Any], task: Task, over: list[torch.Tensor]
    ) -> Any:
        if node.op not in MAPS:
            return self._each(node, operands, task)
        assert isinstance(task, Stack)
        with nm.computing(self._widest if node.domain <= Domain.GROUP else task.like):
            if node.domain <= Domain.GROUP:
                return call(node.op, *operands)
            operands = _of_one_rank(operands)
            stacks = [x for x in operands if isinstance(x, torch.Tensor)]
            if node.op not in WRITING or not stacks:
                return call(node.op, *operands)
        shapes = {x.shape for x in stacks}
        whole = shapes.pop() if len(shapes) == 1 else torch.broadcast_shapes(*shapes)
        place = next((x for x in over if x.shape == whole), None)
        if place is None:
            place = self.scratch.take(whole, stacks[0])
        return WRITING[node.op](*(_tensor(x, place) for x in operands), out=place)

    def _last_uses(self, node: Value, operands: list[Any], task: Task) -> list[torch.Tensor]:
        """Let go of operands that nothing uses any more; of these, what was made to be used again."""
        assert isinstance(task, Stack)
        left, over, by, passing = self.left[id(task)], [], task.axes, _passing(task.program)
        for a, x in zip(node.args, operands, strict=True):
            left[a] -= 1
            if left[a] or task.values.pop(a, None) is None:
                continue
            own = by is not None and a in by.made  # of a pass, which gives it back when all is done
            if a in passing and not own and isinstance(x, torch.Tensor):
                over.append(x)
        return over

    def _each(self, node: Value, operands: list[Any], task: Task) -> Any:
        """What has axes of its own, of every array of the stacks."""
        assert isinstance(task, Stack)
        count = task.count
        stacked = [
            isinstance(x, torch.Tensor) and a.domain > Domain.GROUP
            for x, a in zip(operands, node.args, strict=True)
        ]

        def one(*own: Any) -> Any:
            return Interpreter._apply(self, node, list(own), task)

        if count > 1 and any(stacked):
            return torch.vmap(one, tuple(0 if s else None for s in stacked))(*operands)
        found = one(*(x[0] if s else x for x, s in zip(operands, stacked, strict=True)))
        if not isinstance(found, torch.Tensor):
            return found
        return found.expand(count, *found.shape)


def _of_one_rank(operands: Sequence[Any]) -> list[Any]:
    """Stacks of arrays of several ranks as arrays themselves are combined: axes of length 1 after the first."""
    rank = max((x.ndim for x in operands if isinstance(x, torch.Tensor)), default=0)
    return [
        x.reshape(x.shape[0], *[1] * (rank - x.ndim), *x.shape[1:])
        if isinstance(x, torch.Tensor) and 0 < x.ndim < rank
        else x
        for x in operands
    ]


def _tensor(x: Any, like: torch.Tensor) -> Any:
    """A number as a tensor, without a copy from the host."""
    if isinstance(x, torch.Tensor):
        return x
    return torch.full((), number(x, like.dtype), dtype=like.dtype, device=like.device)


def _flat(array: torch.Tensor) -> torch.Tensor:
    """The tensor itself if its elements lie in memory as they are, one after another; else a copy."""
    return (
        array if array.is_contiguous() and not array.is_neg() else array.resolve_neg().contiguous()
    )


@dataclass(eq=False)
class Part:
    """Tensors of one shape that take the same step: what is known of them whatever their numbers are.

    Stacks of them are small, but where nothing but passes meets all elements of a tensor: then there is a single one.
    """

    program: Program
    axes: Axes | None
    written: Written | None  # where arrays lie that passes write
    arrays: dict[str, list[torch.Tensor]]
    dtype: str

    @property
    def step(self) -> int:
        """How many tensors a stack has."""
        p = self.arrays["p"]
        alone = self.axes is not None and self.axes.alone
        return len(p) if alone else max(1, ROOM // max(p[0].numel(), 1))

    def stacks(
        self, known: Mapping[Value, Any], more: Mapping[str, list[torch.Tensor]] | None = None
    ) -> Iterator[Stack]:
        """The tasks of a step whose scalars are known; ``more`` arrays are the step's own."""
        count, step = len(self.arrays["p"]), self.step
        given = self.arrays | dict(more or {})
        arrays = (
            given if self.axes is None else {n: list(map(_flat, some)) for n, some in given.items()}
        )
        for k in range(0, count, step):
            own = _Arrays({n: every[k : k + step] for n, every in arrays.items()})
            size = min(step, count - k)
            to = {n: every[k : k + step] for n, every in given.items()}
            yield Stack(
                self.program, own, dict(known), self.dtype, count=size, axes=self.axes, given=to
            )


def part_of(
    backend: Any, rule: BoundRule, phase: tuple[int, ...], arrays: dict[str, list[torch.Tensor]]
) -> Part:
    """The part of tensors of one shape, by name.

    Raises:
        StepError: state of another shape, or memory that arrays share.
    """
    first = arrays["p"][0]
    program = shaped(rule, phase, tuple(first.shape))
    _check_states(rule, program, arrays)
    found = axes(program) if backend.passes is not None else None
    written = None if found is None or not found.fits else _in_reach(backend, found, rule, arrays)
    by = None if written is None else found
    return Part(program, by, written, arrays, backend.dtype(first))


def _copy(targets: list[Any], values: Sequence[Any]) -> None:
    if any(map(torch.Tensor.is_neg, targets)):  # of which foreach takes no list
        for target, value in zip(targets, values, strict=True):
            target.copy_(value)
    else:
        torch._foreach_copy_(targets, list(values))


def run(
    backend: Any,
    rule: BoundRule,
    tasks: Sequence[Stack],
    group: dict[str, Any],
    t: Any,
    see: Callable[[int, Mapping[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Do a step's arithmetic and write parameters and state; the group's new state.

    ``see(k, outputs)`` is called for each task before anything of it is written.
    """
    shared = group_scalars((k.program for k in tasks), backend._at(rule, t)[0], t)
    dtype = backend._dtype_of_group(group, [p for k in tasks for p in k.own("p")])
    stacks = Stacks(tasks, backend.passes, group, shared, dtype, backend.cast)
    new = stacks.group_outputs()
    stacks.total_all()
    for k, task in enumerate(tasks):
        if see is not None:
            see(k, stacks.raw_outputs(task))
        stacks.write(task)
    return new


def stepped(
    backend: Any, rule: BoundRule, items: list[Any], group: dict[str, Any], t: Any
) -> dict[str, Any]:
    """``run`` over items: sets every one's ``u``."""
    bins: dict[Any, list[Any]] = defaultdict(list)
    for item in items:
        bins[item.t, item.phase, item.p.dtype, item.p.device, item.p.shape].append(item)
    tasks: list[Stack] = []
    members: list[list[Any]] = []
    for same in bins.values():
        first = same[0]
        arrays = {"p": [item.p for item in same], "g": [item.g for item in same]}
        arrays |= {n: [item.inputs[n] for item in same] for n in rule.input_names}
        arrays |= {n: [item.state[n] for item in same] for n in rule.state_names}
        part = part_of(backend, rule, first.phase, arrays)
        tasks += part.stacks(scalars.evaluate(part.program, first.hyper, first.t))
        members += [same[k : k + part.step] for k in range(0, len(same), part.step)]

    def see(k: int, found: Mapping[str, Any]) -> None:
        for i, item in enumerate(members[k]):
            u = found[UPDATE][i] if UPDATE in found else nm.overwrite(found["p"][i])
            backend._see(rule, item, item.g, u, {n: found[n][i] for n in rule.state_names})

    new = run(backend, rule, tasks, group, t, see if rule.observed else None)
    for item in items:
        item.u, item.written = nm.overwrite(item.p), True
    return new


def _in_reach(
    backend: Any, found: Axes, rule: BoundRule, arrays: Mapping[str, list[torch.Tensor]]
) -> Written | None:
    """Where arrays lie that passes write; None if some that they go over do not lie where these can do that.

    Raises:
        StepError: one that is written shares memory with another.
    """
    read = {n for one in found.passes for n in one.slots} - {*found.stores}
    each = [[a for n in names for a in arrays[n]] for names in (found.stores, read)]
    every = [*each[0], *each[1]]
    if not backend.all_reachable(every):
        return None
    # Others are copied, so that a step gives the same bits however its arrays lie.
    each = [[a for a in some if _flat(a) is a] for some in each]
    at = [np.array([a.data_ptr() for a in some], np.int64) for some in each]
    size = [np.full(len(some), some[0].nbytes if some else 0, np.int64) for some in each]
    written = Written(at[0], size[0])
    check_apart(rule, written, at[1], size[1])
    return written


def check_apart(rule: BoundRule, written: Written, read: np.ndarray, sizes: np.ndarray) -> None:
    """Nothing that is written shares memory with anything else."""
    if written.overlap or written.meets(read, sizes):
        message = (
            f"{rule.name}: a parameter or state array shares memory with another array; pass copies"
        )
        raise StepError(message)


def _check_states(
    rule: BoundRule, program: Program, arrays: Mapping[str, list[torch.Tensor]]
) -> None:
    """State arrays have the shapes that the program was made for."""
    inputs, shape = program.inputs(), arrays["p"][0].shape
    for n in rule.state_names:
        wanted = shape if inputs[n].domain is Domain.ELEMENT else torch.Size(inputs[n].shape)
        wrong = next((a for a in arrays[n] if a.shape != wanted), None)
        if wrong is not None:
            message = (
                f"{rule.name}: state {n} of a parameter of shape {tuple(shape)} must have shape {tuple(wanted)}, "
                f"got {tuple(wrong.shape)}; make a new state"
            )
            raise StepError(message)
