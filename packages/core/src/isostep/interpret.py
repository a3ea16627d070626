"""Programs evaluated node by node on any array-API library, over all arrays of a group.

This is what is jitted on JAX. It asks for a node's value when it is needed (memoised), so programs of different
shapes or phases can take part in one group: a sum over the group is the sum of what all have under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from isostep import nm
from isostep.calls import check_sums
from isostep.program import UPDATE, Program
from isostep.values import FACTS, MAPS, Domain, Value


@dataclass(eq=False)
class Task:
    """One array's part: its program, the arrays by name, and the scalar nodes known beforehand (shared by kind)."""

    program: Program
    arrays: Mapping[str, Any]
    scalars: dict[Value, Any]
    dtype: str
    values: dict[Value, Any] = field(default_factory=dict)


class Interpreter:
    """Evaluates the outputs of tasks that form one group."""

    def __init__(
        self,
        tasks: Sequence[Task],
        group: Mapping[str, Any],
        group_scalars: Mapping[Value, Any],
        group_dtype: str,
        cast: Callable[[Any, str], Any],
    ) -> None:
        """``cast(value, dtype)`` converts arrays; ``group_scalars`` are the group's own t and hyperparameters."""
        self.tasks, self.group, self.group_dtype, self.cast = tasks, group, group_dtype, cast
        self.shared: dict[Value, Any] = dict(group_scalars)
        self.sums: dict[str, Any] = {}
        programs = {id(t.program): t.program for t in tasks}
        check_sums(tasks[0].program.name, (p.group_sums for p in programs.values()))
        self._names = {i: {n: k for k, n in p.group_sums.items()} for i, p in programs.items()}

    @cached_property
    def _widest(self) -> Any:
        own = (t.arrays["p"] for t in self.tasks if t.dtype == self.group_dtype)
        return next(own, self.tasks[0].arrays["p"])

    def outputs(self, task: Task) -> dict[str, Any]:
        """``"p"`` (the new parameter) and the state arrays, in the compute dtype."""
        found = self.raw_outputs(task)
        if UPDATE in found:
            found = {"p": task.arrays["p"] + found.pop(UPDATE), **found}
        return found

    def raw_outputs(self, task: Task) -> dict[str, Any]:
        """``"u"`` (the update) or ``"p"`` as the program has it, and the state arrays, in the compute dtype."""
        return {name: self._as_array(node, task) for name, node in task.program.outputs.items()}

    def figures(self, task: Task) -> list[Any]:
        """An observed rule's sums over the task's array, or over each of its arrays."""
        return [self._value(node, task) for node in task.program.figures]

    def group_outputs(self) -> dict[str, Any]:
        """The group's new state, in the group's dtype."""
        first = self.tasks[0]
        nodes = first.program.group_outputs
        return {n: self._kept(n, self._value(v, first)) for n, v in nodes.items()}

    def _kept(self, name: str, value: Any) -> Any:
        """What a value of the group is from now on; a plain number becomes an array where the old one lies."""
        if not isinstance(value, bool | int | float):
            return self.cast(value, self.group_dtype)
        xp, old = nm.namespace(self.group[name]), self.group[name]
        return xp.full((), value, dtype=old.dtype, device=nm.device(old))

    def _as_array(self, node: Value, task: Task) -> Any:
        value, p = self._value(node, task), task.arrays["p"]
        if node.domain is Domain.TENSOR:
            return value
        # What is made of units of two axes is one an element, and of another shape where there are more axes.
        if node.domain is Domain.ELEMENT and getattr(value, "shape", None) == p.shape:
            return value
        return value + nm.namespace(p).zeros_like(p)

    def _value(self, node: Value, task: Task) -> Any:
        memo = self._memo(node, task)
        if node not in memo:
            memo[node] = self._compute(node, task)
        return memo[node]

    def _memo(self, node: Value, task: Task) -> dict[Value, Any]:
        if node.domain is Domain.GROUP or node.scope == "group":
            return self.shared
        return task.scalars if node.domain <= Domain.STEP else task.values

    def _compute(self, node: Value, task: Task) -> Any:
        if node.op == "const":
            return node.attrs[0]
        if node.op == "input":
            return (
                self.group[node.attrs[0]]
                if node.domain is Domain.GROUP
                else task.arrays[node.attrs[0]]
            )
        if node.op == "sum_group":
            return self._total(self._names[id(task.program)][node])
        if node.op in FACTS:
            return self._fact(node, task)
        return self._apply(
            node, [self._fit(self._value(a, task), a, node, task) for a in node.args], task
        )

    def _apply(self, node: Value, operands: list[Any], task: Task) -> Any:
        """One operation on its operands' values; what keeps arrays in another form does it otherwise."""
        if node.op in MAPS:
            # What arrays share is as wide as the group, whichever array asks first; each rounds it where they meet.
            shared = node.domain <= Domain.GROUP
            with nm.computing(self._widest if shared else task.arrays["p"]):
                return nm.call(node.op, *operands)
        if node.op in ("sum_axis", "max_axis"):
            return getattr(nm, node.op)(operands[0], axis=node.attrs[0])
        return getattr(nm, node.op)(*operands, *node.attrs)

    def _fit(self, value: Any, operand: Value, user: Value, task: Task) -> Any:
        """A scalar or group value rounded to the dtype of the arrays that it meets."""
        if (
            user.domain <= Domain.GROUP
            or operand.domain > Domain.GROUP
            or isinstance(value, bool | int | float)
        ):
            return value
        return value if "bool" in str(value.dtype) else self.cast(value, task.dtype)

    def _total(self, name: str) -> Any:
        if name not in self.sums:
            total = None
            for task in self.tasks:
                operand = task.program.group_sums[name].args[0]
                part = self._of_group(self._sum(operand, task))
                total = part if total is None else total + part
            self.sums[name] = total
        return self.sums[name]

    def _of_group(self, value: Any) -> Any:
        """A value in the group's dtype; a plain number where the arrays lie."""
        if not isinstance(value, bool | int | float):
            return self.cast(value, self.group_dtype)
        like = self._widest
        xp = nm.namespace(like)
        return xp.full((), value, dtype=getattr(xp, self.group_dtype), device=nm.device(like))

    def _sum(self, node: Value, task: Task) -> Any:
        """The sum of a value over all elements of the task's arrays."""
        return nm.sum(self._value(node, task))

    def _fact(self, node: Value, task: Task) -> Any:
        p = task.arrays["p"]
        if node.op == "eps":
            return nm.eps(p)
        return float(getattr(nm, node.op)(p, *node.attrs))
