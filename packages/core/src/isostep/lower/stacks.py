"""Programs with axes or matrices on many arrays at once: those of one shape are stacked, and the program runs once.

A rule that looks at shapes has a program for each shape, so arrays of one shape differ in nothing but numbers: a
thousand small matrices take the calls of one. What is done element by element compiled passes do, where there are
some (``isostep.lower.axes``): they go to the arrays where these lie, and a stack is made only of what has fewer
elements. A value lives until its last use.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from isostep import nm
from isostep.interpret import Interpreter, Task
from isostep.lower.axes import VIEWS, Axes
from isostep.program import UPDATE
from isostep.values import FACTS, MAPS, Domain, Value

if TYPE_CHECKING:
    from isostep.lower.stacked import Stacked

#: What takes stacks as it takes arrays: with axes that are counted from another one, and as they are.
ALONG: dict[str, Callable[..., Any]] = {"sum_axis": nm.sum_axis, "max_axis": nm.max_axis}
WHOLE: dict[str, Callable[..., Any]] = {"matmul": nm.matmul, "transpose": nm.transpose}


class Arrays(dict[str, Any]):
    """The arrays of a stack by name, stacked when they are asked for."""

    def __init__(self, own: Mapping[str, list[Any]]) -> None:
        super().__init__()
        self.own = own

    def __missing__(self, name: str) -> Any:
        found = self.own[name]
        self[name] = found[0][None] if len(found) == 1 else nm.namespace(found[0]).stack(found)
        return self[name]


@dataclass(eq=False)
class Stack(Task):
    """The task of ``count`` arrays of one shape; with ``axes`` by compiled passes.

    ``given``: where results go, by name; ``own`` arrays may be contiguous copies of these.
    """

    arrays: Arrays
    count: int = 1
    axes: Axes | None = None
    given: Mapping[str, list[Any]] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    computed: set[Value] = field(default_factory=set)
    group_parts: dict[Value, Any] = field(default_factory=dict)

    def own(self, name: str) -> list[Any]:
        """The arrays of one name, as they are."""
        return self.arrays.own[name]

    @property
    def like(self) -> Any:
        """One of the parameters."""
        return self.own("p")[0]


class Stacks(Interpreter):
    """The interpreter with a stack for every value per array: it has an axis more, the first, along the arrays."""

    tasks: Sequence[Stack]

    def __init__(
        self,
        tasks: Sequence[Stack],
        backend: Stacked,
        group: Mapping[str, Any],
        group_scalars: Mapping[Value, Any],
        group_dtype: str,
    ) -> None:
        super().__init__(tasks, group, group_scalars, group_dtype, backend.cast)
        self.backend = backend
        self.left = {id(t): _uses(t) for t in tasks}

    # What a framework may do better.

    def room(self, task: Stack, node: Value, shape: tuple[int, ...]) -> Any:
        """An array of any contents, for what a pass keeps of a value."""
        like = task.like
        return nm.namespace(like).empty(shape, dtype=like.dtype, device=nm.device(like))

    def ended(self, task: Stack, found: Mapping[str, Any]) -> None:
        """Called once all that was ``found`` for a stack has been written."""

    def let_go(self, node: Value, operands: list[Any], task: Stack) -> list[tuple[Value, Any]]:
        """Forget operands that nothing uses any more; those that were forgotten."""
        over = self._release(task, node.args)
        return [(a, x) for a, x in zip(node.args, operands, strict=True) if a in over]

    def _release(self, task: Stack, values: Sequence[Value]) -> set[Value]:
        """A use less of each of these values; those that were forgotten."""
        left, over = self.left[id(task)], set()
        for a in values:
            left[a] -= 1
            if not left[a] and task.values.pop(a, None) is not None:
                over.add(a)
        return over

    # A step.

    def total_all(self) -> None:
        """Take the sums over the group: no array has been written to yet."""
        for name in self.tasks[0].program.group_sums:
            self._total(name)

    def write(self, task: Stack) -> None:
        """Compute what a step makes of a stack, and put it into the arrays."""
        program, written = task.program, ("p", *task.program.stored)
        early: dict[str, Any] = {}
        if task.axes is not None:
            for node in task.axes.between:
                if node not in task.computed:  # else it may have been let go of
                    self._value(node, task)
            for n in task.axes.views:
                early[n] = self._copied(self._as_array(program.outputs[n], task))
            self._pass(task, task.axes, task.axes.count - 1)
            for n in task.axes.stores:
                moved = [k for k, a in enumerate(task.own(n)) if a is not task.given[n][k]]
                # Passes have gone over contiguous copies of these.
                own, given = ([some[k] for k in moved] for some in (task.own(n), task.given[n]))
                self.backend.copy_all(given, own)
            written = tuple(n for n in written if n not in task.axes.stores)
        outputs = {UPDATE if n not in program.outputs else n: n for n in written}
        found = {
            n: early[n] if n in early else self._as_array(program.outputs[name], task)
            for name, n in outputs.items()
        }
        for name, n in outputs.items():
            if program.outputs[name].op in VIEWS and n != "p" and n not in early:
                found[n] = self._copied(found[n])  # it may be of what is about to be written
        if UPDATE in outputs:
            found["p"] = self._added(task.arrays["p"], found["p"])
        for n, v in found.items():
            if n != "p" or UPDATE not in outputs or task.count > 1:
                self.backend.copy_all(task.given[n], list(v))
        task.values.clear()
        task.arrays.clear()
        self.ended(task, {name: found[n] for name, n in outputs.items() if n != "p"})

    @staticmethod
    def _copied(array: Any) -> Any:
        return nm.namespace(array).asarray(array, copy=True)

    def _added(self, p: Any, update: Any) -> Any:
        p += update  # where the parameter lies, if it is alone
        return p

    def _as_array(self, node: Value, task: Task) -> Any:
        value = self._value(node, task)
        if node.domain is Domain.TENSOR:
            return value
        p = task.arrays["p"]
        if node.domain is Domain.ELEMENT and getattr(value, "shape", None) == p.shape:
            return value
        zeros = nm.namespace(p).zeros_like(p)
        return self.backend.call("add", *of_one_rank((zeros, self._fit(value, node, node, task))))

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
                return nm.sum(task.group_parts[n])
        value = self._value(node, task)
        # What is no stack is the same for each of the arrays.
        return nm.sum(value) * (1 if self.is_stack(value, node) else task.count)

    @staticmethod
    def is_stack(value: Any, node: Value) -> bool:
        """Whether a value has the axis along the arrays, or is a number: of the step, the group or a shape."""
        return node.domain > Domain.GROUP and bool(getattr(value, "ndim", 0))

    def _pass(self, task: Stack, axes: Axes, number: int) -> None:
        """One compiled pass over a stack, if it has not been done."""
        if number in task.done:
            return
        task.done.add(number)
        backend, one, count = self.backend, axes.passes[number], task.count
        assert backend.passes is not None
        scalars = [float(self._value(n, task)) for n in one.scalars]
        columns = backend.columns([self._value(n, task) for n in one.columns], count, task.like)
        stacked = {}
        for n in one.stacks:
            value = backend.cast(self._value(n, task), task.dtype)
            whole = nm.namespace(value).broadcast_to(value, (count, *axes.shape_of(n)))
            stacked[n] = backend.flat(whole)
        task.computed.update((*one.kept, *one.reduced))
        for n in one.kept:
            stacked[n] = task.values[n] = self.room(task, n, (count, *axes.shape))
        # All that a pass is told the place of has a name here until it is done.
        table = np.array([backend.addresses(task.own(n)) for n in one.slots], np.int64).T
        places = backend.addresses(list(stacked.values())).tolist()
        sums = backend.passes(
            axes,
            one,
            task.dtype,
            task.like,
            count,
            table=table,
            scalars=scalars,
            columns=columns,
            at=dict(zip(stacked, places, strict=True)),
        )
        self._release(task, (*one.stacks, *one.columns))
        for n, found in sums.items():
            value = backend.cast(found, task.dtype).reshape((count, *axes.shape_of(n)))
            (task.group_parts if n.op == "sum_group" else task.values)[n] = value

    def _apply(self, node: Value, operands: list[Any], task: Task) -> Any:
        assert isinstance(task, Stack)
        self.let_go(node, operands, task)
        if node.op not in MAPS:
            return self.each(node, operands, task)
        with nm.computing(self._widest if node.domain <= Domain.GROUP else task.like):
            if node.domain > Domain.GROUP:
                operands = of_one_rank(operands)
            return self.backend.call(node.op, *operands)

    def each(self, node: Value, operands: list[Any], task: Stack) -> Any:
        """What has axes of its own, of every array of the stacks."""
        stacked = list(map(self.is_stack, operands, node.args))
        rank = getattr(operands[0], "ndim", 1) - 1
        if node.op == "sum" and stacked[0]:
            whole = nm.reshape(operands[0], (task.count, math.prod(operands[0].shape[1:])))
            return nm.reshape(nm.sum_axis(whole, axis=1), (task.count,))
        if node.op in ALONG and stacked[0]:
            axes = tuple(a % rank + 1 for a in node.attrs[0])
            return ALONG[node.op](operands[0], axis=axes)
        if node.op in WHOLE:  # of matrices, and what is one belongs to an array
            return WHOLE[node.op](*operands)
        found = [
            super(Stacks, self)._apply(
                node, [x[k] if s else x for x, s in zip(operands, stacked, strict=True)], task
            )
            for k in range(task.count if any(stacked) else 1)
        ]
        if not hasattr(found[0], "ndim"):
            return found[0]
        xp = nm.namespace(found[0])
        if len(found) == 1:
            return xp.broadcast_to(found[0][None], (task.count, *found[0].shape))
        return xp.stack(found)


def _uses(task: Stack) -> Counter[Value]:
    """How often each value is asked for: by operations of the framework, by passes, as an output."""
    if task.axes is None:
        return Counter(a for n in task.program.live for a in n.args) + Counter(task.program.roots)
    own = Counter(a for n in task.axes.others for a in n.args)
    return (
        own
        + Counter(n for one in task.axes.passes for n in (*one.stacks, *one.columns))
        + Counter(task.program.roots)
    )


def of_one_rank(operands: Sequence[Any]) -> list[Any]:
    """Stacks of arrays of several ranks as arrays themselves are combined: axes of length 1 after the first."""
    rank = max((x.ndim for x in operands if hasattr(x, "ndim")), default=0)
    return [
        x.reshape((x.shape[0], *[1] * (rank - x.ndim), *x.shape[1:]))
        if hasattr(x, "ndim") and 0 < x.ndim < rank
        else x
        for x in operands
    ]
