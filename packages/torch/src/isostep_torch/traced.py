"""Steps whose scalars are tensors: ``capturable`` (counts and learning rate on the device) and ``differentiable``.

A rule's own functions may ask ``if weight_decay:``, which reads a tensor on the host. Its program does not: what is
static was decided when it was traced. So these steps interpret the program, the scalar part of it on 0-d tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from isostep import nm, scalars
from isostep.domains import Pair
from isostep.interpret import Interpreter, Task
from isostep.program import UPDATE, Program, trace
from isostep.rule import BoundRule
from isostep.state import State, StepError, as_list
from isostep.values import MAPS, Value
from isostep_torch import sharded
from isostep_torch.calls import call, double
from isostep_torch.decompositions import DECOMPOSED
from isostep_torch.loop import TorchLoop


class Held:
    """A tensor as a hyperparameter: to the rule a schedule, so nothing about it is static; its value is the tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __call__(self, done: Any) -> torch.Tensor:
        return self.tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and other.tensor is self.tensor

    __hash__ = object.__hash__


def values_at(rule: BoundRule, t: Any) -> dict[str, Any]:
    """``rule.at(t)`` without looking at values: schedules are called with t - 1, which may be a tensor."""

    def value(x: Any) -> Any:
        return double(x(t - 1)) if callable(x) else x

    return {
        n: tuple(map(value, v)) if isinstance(rule.domains[n], Pair) else value(v)
        for n, v in rule.values.items()
    }


def group_scalars(
    programs: Iterable[Program], hyper: Mapping[str, Any], t: Any
) -> dict[Value, Any]:
    """The scalars of the group's own t and hyperparameters."""
    return scalars.of_group(programs, hyper, double(t), call=call)


class _Tensors(Interpreter):
    """The interpreter with operations that leave scalars where they are."""

    def _compute(self, node: Value, task: Task) -> Any:
        known = DECOMPOSED.get(node.op) if torch.is_grad_enabled() else None
        if node.op not in MAPS and known is None:
            return super()._compute(node, task)
        operands = [self._fit(self._value(a, task), a, node, task) for a in node.args]
        with nm.computing(task.arrays["p"]):
            return call(node.op, *operands) if known is None else known(*operands)


def chosen(which: torch.Tensor, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """The value of this number; ``which`` is not read."""
    found = values[0]
    for k, value in enumerate(values[1:], start=1):
        found = found if value is found else torch.where(which == k, value, found)
    return found


def one_of_each(run: Any, rule: BoundRule, items: list[Any], group: dict[str, Any], t: Any) -> Any:
    """``run`` for every kind of step that the rule has; of what they give, each array takes its own kind's.

    Which kind a step is is known on the device only, so all are computed.
    """
    found = []
    for kind in rule.kinds():
        alike = [replace(item, phase=kind) for item in items]
        found.append((alike, run(rule, alike, group, t)))
    for item, *each in zip(items, *(alike for alike, _ in found), strict=True):
        which = rule.kind(item.t.long())
        item.u = nm.overwrite(chosen(which, [x.u.value for x in each]))
        item.state = {n: chosen(which, [x.state[n] for x in each]) for n in rule.state_names}
        if rule.observed:
            item.seen = chosen(which, [x.seen for x in each])
    which = rule.kind(t.long())
    return {n: chosen(which, [g[n] for _, g in found]) for n in group}


def check_sums(rule: BoundRule, shapes: Iterable[tuple[int, ...]]) -> None:
    """Arrays of one group may be at different steps, so that a sum over the group must be one for all kinds of step."""
    every = {tuple(trace(rule, kind, shape) for kind in rule.kinds()) for shape in {*shapes}}
    if not all(map(_same_sums, every)):
        message = (
            f"{rule.name}: capturable needs sums over the group that are the same in every kind of step; "
            f"use capturable=False"
        )
        raise StepError(message)


@cache
def _same_sums(programs: tuple[Program, ...]) -> bool:
    """Whether all sum the same expressions over the group."""
    numbers: dict[Any, int] = {}  # equal expressions have one number
    found = []
    for program in programs:
        own: dict[Value, int] = {}
        for n in program.live:
            expression = (n.op, n.attrs, *(own[a] for a in n.args))
            own[n] = numbers.setdefault(expression, len(numbers))
        found.append([own[n] for n in program.live if n.op == "sum_group"])
    return all(sums == found[0] for sums in found)


class TracedLoop(TorchLoop):
    """``torch:loop`` by the program; counts may be tensors, which are then advanced in place.

    ``found_inf``, a tensor, is 0 for a step to be taken and anything else for one that must change nothing; it is
    never read on the host. With ``differentiable`` autograd records the step; writes do not touch what it saved.
    """

    def __init__(self, *, differentiable: bool = False) -> None:
        self.differentiable = differentiable
        self.found_inf: torch.Tensor | None = None

    def quiet(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.differentiable else torch.no_grad()

    def cast(self, array: Any, dtype: str) -> torch.Tensor:
        if not self.differentiable:
            return super().cast(array, dtype)
        known = array if isinstance(array, torch.Tensor) else torch.as_tensor(array)
        wide = known.to(getattr(torch, dtype))
        return wide.clone() if wide is array else wide  # the step writes into ``array``

    def scalar(self, number: Any, dtype: str, like: torch.Tensor) -> torch.Tensor:
        if not isinstance(number, torch.Tensor):
            return super().scalar(number, dtype, like)
        known = number if self.differentiable else number.detach()
        return known.to(like.device, getattr(torch, dtype), copy=True)  # the step writes into it

    def write(self, target: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        if self.found_inf is not None:
            value = torch.where(self.found_inf == 0, value.to(target.dtype), target)
        return target.copy_(sharded.laid_out(value, target))

    def step(
        self, rule: BoundRule, params: Any, grads: Any, state: State, **inputs: Any
    ) -> tuple[Any, State]:
        if len(rule.kinds()) > 1 and any(isinstance(t, torch.Tensor) for t in state.t):
            check_sums(rule, (tuple(p.shape) for p in as_list(params)))
        return super().step(rule, params, grads, state, **inputs)

    def _at(self, rule: BoundRule, t: Any) -> tuple[Mapping[str, Any], tuple[int, ...]]:
        known = not isinstance(t, torch.Tensor) or len(rule.kinds()) == 1
        return values_at(rule, double(t)), rule.phase(t) if known else ()

    def _run(self, rule: BoundRule, items: list[Any], group: dict[str, Any], t: Any) -> Any:
        if len(items[0].phase) < len(rule.kinds()[0]):
            return one_of_each(self._run, rule, items, group, t)
        return sharded.stepped(self._by_program, rule, items, group, t)

    def _by_program(self, rule: BoundRule, items: list[Any], group: dict[str, Any], t: Any) -> Any:
        tasks = []
        for item in items:
            program = trace(rule, item.phase, tuple(item.p.shape))
            arrays = {"p": item.p, "g": item.g, **item.inputs, **item.state}
            known = scalars.evaluate(program, item.hyper, double(item.t), call=call)
            tasks.append(Task(program, arrays, known, self.dtype(item.p)))
        dtype = self._dtype_of_group(group, [item.p for item in items])
        shared = group_scalars((k.program for k in tasks), self._at(rule, t)[0], t)
        found = _Tensors(tasks, group, shared, dtype, self.cast)
        for item, task in zip(items, tasks, strict=True):
            if rule.observed:
                new = found.raw_outputs(task)
                u = new.pop(UPDATE) if UPDATE in new else nm.overwrite(new["p"])
                with torch.no_grad():
                    self._see(rule, item, item.g, u, new)
            new = found.outputs(task)
            item.u, item.state = nm.overwrite(new.pop("p")), new
        return found.group_outputs()

    def _count(self, state: State, moved: Sequence[bool], group: dict[str, Any]) -> None:
        if not any(isinstance(t, torch.Tensor) for t in state.t):
            super()._count(state, moved, group)
            return
        one: Any = 1 if self.found_inf is None else (self.found_inf == 0).to(torch.float32)
        for t, m in zip(state.t, moved, strict=True):
            if m:
                t.add_(one)  # type: ignore[attr-defined]
        # Copies: what goes on under another name must be read before it is written.
        for n, v in {n: v.clone() for n, v in group.items()}.items():
            self.write(state.group[n], v)
        if isinstance(state.group_t, torch.Tensor) and any(moved):
            state.group_t.add_(one)
