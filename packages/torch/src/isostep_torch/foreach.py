"""``torch:foreach``: the program over lists of tensors, one ``torch._foreach_*`` call per operation.

Works on every device that torch has; what foreach lacks (choices, comparisons) runs tensor by tensor. A value
is freed after its last use.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch

from isostep import nm, scalars
from isostep.interpret import Interpreter, Task
from isostep.lower.layout import obstacle
from isostep.lower.stacked import stepped
from isostep.program import UPDATE, Program, trace, uniform
from isostep.rule import BoundRule
from isostep.state import State
from isostep.values import MAPS, REDUCTIONS, Domain, Value
from isostep_torch import repeats, sharded
from isostep_torch.calls import call, double, number
from isostep_torch.loop import TorchLoop
from isostep_torch.stacks import StackedTensors
from isostep_torch.traced import TracedLoop, group_scalars, values_at

_BIG = {torch.float64: 2.0**1023, torch.float32: 2.0**127}


def _sign(x: list[torch.Tensor]) -> Any:
    """Sign that keeps NaN (torch.sign makes it 0): the smallest denormal times 2**254 is above 1."""
    for _ in range(2):
        x = list(torch._foreach_mul(x, _BIG[x[0].dtype]))
    return torch._foreach_clamp_max(torch._foreach_clamp_min(x, -1.0), 1.0)


def _reversed_sub(x: Any, y: Any) -> Any:
    return torch._foreach_add(torch._foreach_neg(y), x)


#: operation -> its call on two lists, or on a list and a number
BINARY: dict[str, Callable[..., Any]] = {
    "add": torch._foreach_add,
    "sub": torch._foreach_sub,
    "mul": torch._foreach_mul,
    "div": torch._foreach_div,
    "maximum": torch._foreach_maximum,
    "minimum": torch._foreach_minimum,
}
COMMUTES = frozenset(("add", "mul", "maximum", "minimum"))
UNARY: dict[str, Callable[..., Any]] = {
    "neg": torch._foreach_neg,
    "abs": torch._foreach_abs,
    "sqrt": torch._foreach_sqrt,
    "exp": torch._foreach_exp,
    "expm1": torch._foreach_expm1,
    "log": torch._foreach_log,
    "log1p": torch._foreach_log1p,
    "sin": torch._foreach_sin,
    "cos": torch._foreach_cos,
    "tanh": torch._foreach_tanh,
    "floor": torch._foreach_floor,
    "sign": _sign,
}


def apply(op: str, *operands: Any) -> Any:
    """One elementwise operation on lists and numbers; by foreach if torch has it, else tensor by tensor."""
    lists = [x for x in operands if isinstance(x, list)]
    kinds = [
        x[0].dtype for x in lists if isinstance(x[0], torch.Tensor)
    ]  # a list of facts is of numbers
    operands = tuple(number(x, kinds[0]) for x in operands) if kinds else operands
    plain = all(
        all(isinstance(t, torch.Tensor) and t.is_floating_point() for t in same)
        and len({t.shape for t in same}) == 1
        for same in zip(*lists, strict=True)
    )
    if plain and len(operands) == 1 and op in UNARY:
        return list(UNARY[op](operands[0]))
    if plain and len(operands) == 2 and op in BINARY:
        x, y = operands
        if isinstance(x, list):
            return list(BINARY[op](x, y))
        if op in COMMUTES:
            return list(BINARY[op](y, x))
        if op == "sub":
            return list(_reversed_sub(x, y))
    count = len(lists[0])
    rows = [x if isinstance(x, list) else [x] * count for x in operands]
    return [call(op, *each) for each in zip(*rows, strict=True)]


class _Lists(Interpreter):
    """The interpreter with a list of tensors for every value per array; a value dies with its last use.

    ``params``, of each task: the parameters as they were given, of which only a part may lie here.
    """

    def __init__(self, tasks: list[Task], params: list[list[Any]], *args: Any) -> None:
        super().__init__(tasks, *args)
        self.params = {id(t): given for t, given in zip(tasks, params, strict=True)}
        self.left = {
            id(t): Counter(a for n in t.program.live for a in n.args) + Counter(t.program.roots)
            for t in self.tasks
        }

    def outputs(self, task: Task) -> dict[str, Any]:
        found = self.raw_outputs(task)
        if UPDATE in found:
            found = {"p": apply("add", task.arrays["p"], found.pop(UPDATE)), **found}
        return found

    def _as_array(self, node: Value, task: Task) -> Any:
        value = self._value(node, task)
        if node.domain >= Domain.ELEMENT:
            return value
        zeros = [torch.zeros_like(p) for p in task.arrays["p"]]
        return apply("add", zeros, self._fit(value, node, node, task))

    def _compute(self, node: Value, task: Task) -> Any:
        result = self._list_of(node, task)
        for a in node.args:
            self.left[id(task)][a] -= 1
            if not self.left[id(task)][a]:
                task.values.pop(a, None)
        return result

    def _apply(self, node: Value, operands: list[Any], task: Task) -> Any:
        """What belongs to the group: no list among its operands."""
        with nm.computing(task.arrays["p"][0]):  # a choice between two numbers gets its dtype
            return call(node.op, *operands)

    def _list_of(self, node: Value, task: Task) -> Any:
        per_array = node.domain > Domain.GROUP and node.op not in ("const", "input", "sum_group")
        if not per_array:
            return super()._compute(node, task)
        if node.op in MAPS:
            operands = [self._fit(self._value(a, task), a, node, task) for a in node.args]
            if not any(isinstance(x, list) for x in operands):
                return [call(node.op, *operands)] * len(task.arrays["p"])
            with nm.computing(task.arrays["p"][0]):  # a choice between two numbers gets its dtype
                return apply(node.op, *operands)
        if node.op in REDUCTIONS:
            operand = self._value(node.args[0], task)
            found = [getattr(nm, node.op)(x, *node.attrs) for x in operand]
            return sharded.joined(found, self.params[id(task)], *node.attrs)
        if node.op == "eps":
            return [nm.eps(p) for p in task.arrays["p"]]
        return [float(getattr(nm, node.op)(p, *node.attrs)) for p in self.params[id(task)]]

    def _fit(self, value: Any, operand: Value, user: Value, task: Task) -> Any:
        """A scalar tensor as a list: one number for all arrays, or (1-d) one for each."""
        if not isinstance(value, torch.Tensor) or user.domain <= Domain.GROUP:
            return value
        wide = value if value.dtype is torch.bool else self.cast(value, task.dtype)
        return list(wide.unbind()) if value.ndim else [wide] * len(task.arrays["p"])

    def _total(self, name: str) -> Any:
        if name not in self.sums:
            total: Any = 0.0
            for task in self.tasks:
                node = task.program.group_sums[name]
                found = [nm.sum(x) for x in self._value(node.args[0], task)]
                for x in sharded.joined(found, self.params[id(task)]):
                    total = self.cast(x, self.group_dtype) + total
            self.sums[name] = total
        return self.sums[name]


class TorchForeach(StackedTensors, TorchLoop):
    """Elementwise rules by foreach calls; rules with axes or matrices on stacks of tensors, as ``path`` says."""

    name = "torch:foreach"
    #: whether a step on stacks may be taken for one like the last
    repeats = True

    def path(self, rule: BoundRule) -> str:
        return "foreach" if uniform(rule) else "stacked: it works on axes, matrices or shapes"

    def step(
        self, rule: BoundRule, params: Any, grads: Any, state: State, **inputs: Any
    ) -> tuple[Any, State]:
        if not inputs and self.repeats and repeats.again(self, rule, params, grads, state):
            return params, state
        done = super().step(rule, params, grads, state, **inputs)
        if self.repeats and self._on_stacks(rule):
            repeats.remember(rule, params, grads, state)
        return done

    def _on_stacks(self, rule: BoundRule) -> bool:
        return not uniform(rule) or (self.passes is not None and obstacle(rule) is not None)

    def _run(self, rule: BoundRule, items: list[Any], group: dict[str, Any], t: Any) -> Any:
        if self._on_stacks(rule):
            return self._by_stacks(rule, items, group, t)
        if len(items[0].phase) < len(rule.kinds()[0]):
            return super()._run(rule, items, group, t)
        with sharded.opened(items) as params:
            return self._by_lists(rule, items, params, group, t)

    def _by_stacks(
        self, rule: BoundRule, items: list[Any], group: dict[str, Any], t: Any
    ) -> dict[str, Any]:
        if any(sharded.distributed(item.p) for item in items):
            return TorchLoop._run(self, rule, items, group, t)
        return stepped(self, rule, items, group, t)

    def _by_lists(
        self, rule: BoundRule, items: list[Any], params: list[Any], group: dict[str, Any], t: Any
    ) -> Any:
        given = {id(item): p for item, p in zip(items, params, strict=True)}
        bins: dict[Any, list[Any]] = defaultdict(list)
        for item in items:
            count = None if isinstance(item.t, torch.Tensor) else item.t
            bins[count, item.phase, item.p.dtype, item.p.device].append(item)
        tasks, members = [], list(bins.values())
        for same in members:
            program = trace(rule, same[0].phase)
            arrays = {
                "p": [item.p for item in same],
                "g": [item.g for item in same],
                **{n: [item.inputs[n] for item in same] for n in rule.input_names},
                **{n: [item.state[n] for item in same] for n in rule.state_names},
            }
            tasks.append(
                Task(program, arrays, _scalars(rule, program, same), self.dtype(same[0].p))
            )
        shared = group_scalars((k.program for k in tasks), self._at(rule, t)[0], t)
        dtype = self._dtype_of_group(group, [item.p for item in items])
        wholes = [[given[id(item)] for item in same] for same in members]
        lists = _Lists(tasks, wholes, group, shared, dtype, self.cast)
        for task, same in zip(tasks, members, strict=True):
            raw = lists.raw_outputs(task) if rule.observed else {}
            found = lists.outputs(task)
            for k, item in enumerate(same):
                if rule.observed:
                    u = raw[UPDATE][k] if UPDATE in raw else nm.overwrite(raw["p"][k])
                    self._see(rule, item, item.g, u, {n: raw[n][k] for n in rule.state_names})
                item.u = nm.overwrite(found["p"][k])
                item.state = {n: found[n][k] for n in rule.state_names}
        if rule.observed:
            for item, seen in zip(
                items, sharded.joined([i.seen for i in items], params), strict=True
            ):
                item.seen = seen
        return lists.group_outputs()


def _scalars(rule: BoundRule, program: Program, items: list[Any]) -> dict[Value, Any]:
    """The scalars of arrays of one kind: numbers, or vectors of one for each array where counts are tensors."""
    first = items[0]
    if not isinstance(first.t, torch.Tensor):
        return scalars.evaluate(program, first.hyper, first.t, call=call)
    t = double(torch.stack([item.t for item in items]))
    return scalars.evaluate(program, values_at(rule, t), t, call=call)


class TracedForeach(TorchForeach, TracedLoop):
    """``torch:foreach`` with counts and hyperparameters as tensors; rules with axes or matrices as ``TracedLoop``."""

    repeats = False

    def _by_stacks(self, rule: BoundRule, items: list[Any], group: dict[str, Any], t: Any) -> Any:
        return TracedLoop._run(self, rule, items, group, t)
