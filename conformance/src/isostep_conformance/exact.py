"""The truth of one step: a rule's program, node by node, over lists of arrays in a wider format.

Nothing of a backend is used here, only the program's own meaning: host scalars as Python floats, array values
in ``bounds``' arithmetic, sums over all arrays of the group. Each parameter runs its own program (shapes and
phases may differ) as a generator that stops at each sum over the group; all of them go on with its total.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import numpy as np

from isostep.calls import COUNT
from isostep.program import PARAMETER, UPDATE, Program, trace
from isostep.rule import BoundRule
from isostep.values import (
    BASES,
    DECOMPOSITIONS,
    FACTS,
    MAPS,
    MATRIX_OPS,
    REDUCTIONS,
    TENSOR_OPS,
    Domain,
    Value,
)
from isostep_conformance.bounds import Chosen, Num, Plain

#: Operations that a device may take from its own library when it computes scalars.
_LIBRARY = {"pow", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "atan2", "cbrt", "sqrt"}


@dataclass
class Before:
    """One parameter before a step; arrays are ``bounds`` values."""

    p: Any
    g: Any
    state: dict[str, Any]
    t: int
    inputs: dict[str, Any] = field(default_factory=dict)

    @property
    def named(self) -> dict[str, Any]:
        """All of its arrays, by the names that programs have for them."""
        return {"p": self.p, "g": self.g, **self.inputs, **self.state}


@dataclass
class After:
    """What the step made of it: the parameter under "p" and every state array."""

    arrays: dict[str, Any]


#: Makes the program of a rule for a phase and a shape; mutants put another one in.
Tracer = Callable[[BoundRule, tuple[int, ...], tuple[int, ...]], Program]


class ExactError(Exception):
    """A program that has no truth: a fault of the suite or of the tracer, never of a backend."""


def step(
    rule: BoundRule,
    items: list[Before],
    group: dict[str, Any],
    group_t: int,
    arith: Plain,
    tracer: Tracer = trace,
) -> tuple[list[After], dict[str, Any]]:
    """The step from t to t + 1 (``item.t`` and ``group_t`` count the steps done)."""
    if len(items) > 1 and _joinable(rule, items, arith, tracer):
        after, group = step(rule, [_joined(items, arith)], group, group_t, arith, tracer)
        return _split(after[0], items, arith), group
    done: list[After] = []
    runs = [[item] for item in items] if rule.sequential else [items] if items else []
    with np.errstate(all="ignore"):
        for run in runs:
            after, group = _run(rule, run, group, group_t + 1, arith, tracer)
            done += after
    return done, group


def _joinable(rule: BoundRule, items: list[Before], arith: Plain, tracer: Tracer) -> bool:
    """Whether all parameters may be laid end to end."""
    if rule.sequential or len({item.t for item in items}) > 1:
        return False
    programs = {
        id(p): p for p in (tracer(rule, rule.phase(i.t + 1), _shape(i.p, arith)) for i in items)
    }
    if len(programs) > 1:
        return False
    return elementwise(*programs.values())


def elementwise(program: Program) -> bool:
    """Whether it knows no arrays: no value of it belongs to one array, unit or matrix, or is added once for each."""
    own = {*REDUCTIONS, *FACTS, *TENSOR_OPS} - {"sum_group"}
    sums = (n.args[0] for n in program.live if n.op == "sum_group")
    if program.shape is not None or any(n.domain is not Domain.ELEMENT for n in sums):
        return False
    return not any(n.op in own for n in program.live)


def _shape(x: Any, arith: Plain) -> tuple[int, ...]:
    return tuple(arith.value(x).shape)


def _joined(items: list[Before], arith: Plain) -> Before:
    """All parameters as one long vector; the truth is the same and costs far less."""

    def join(parts: list[Any]) -> Any:
        return arith.concatenate(parts)

    first = items[0]
    return Before(
        p=join([i.p for i in items]),
        g=join([i.g for i in items]),
        state={n: join([i.state[n] for i in items]) for n in first.state},
        t=first.t,
        inputs={n: join([i.inputs[n] for i in items]) for n in first.inputs},
    )


def _split(after: After, items: list[Before], arith: Plain) -> list[After]:
    found = []
    start = 0
    for item in items:
        shape = _shape(item.p, arith)
        stop = start + math.prod(shape)

        def cut(
            a: np.ndarray, part: slice = slice(start, stop), shape: tuple[int, ...] = shape
        ) -> np.ndarray:
            return a[part].reshape(shape)

        found.append(After({n: arith.shaped(cut, x) for n, x in after.arrays.items()}))
        start = stop
    return found


def _run(
    rule: BoundRule,
    items: list[Before],
    group: dict[str, Any],
    t: int,
    arith: Plain,
    tracer: Tracer,
) -> tuple[list[After], dict[str, Any]]:
    shared = rule.at(t)
    walks = []
    for item in items:
        program = tracer(rule, rule.phase(item.t + 1), _shape(item.p, arith))
        walks.append(_Walk(program, item, rule.at(item.t + 1), group, shared, t, arith).run())
    results: list[Any] = [None] * len(walks)
    answers: list[Any] = [None] * len(walks)
    live = list(range(len(walks)))
    while live:
        asked: list[Any] = []
        for i in list(live):
            try:
                asked.append(walks[i].send(answers[i]))
            except StopIteration as stop:
                results[i] = stop.value
                live.remove(i)
        if asked and len(asked) != len(walks):
            message = f"{rule.name}: parameters disagree on how many sums over the group there are"
            raise ExactError(message)
        if asked:
            total = asked[0]
            for part in asked[1:]:
                total = arith.apply("add", (total, part))
            answers = [total] * len(walks)
    return [After(arrays) for arrays, _ in results], results[0][1]


class _Walk:
    """One parameter's way through its program."""

    def __init__(
        self,
        program: Program,
        item: Before,
        hyper: Mapping[str, Any],
        group: dict[str, Any],
        group_hyper: Mapping[str, Any],
        group_t: int,
        arith: Plain,
    ) -> None:
        self.program, self.item, self.group, self.arith = program, item, group, arith
        self.scalars = {"array": _flat(hyper, item.t + 1), "group": _flat(group_hyper, group_t)}
        self.values: dict[Value, Any] = {}
        self.inexact: set[Value] = (
            set()
        )  # host scalars that a device may compute with its own library

    def run(self) -> Generator[Any, Any, tuple[dict[str, Any], dict[str, Any]]]:
        for node in self.program.live:
            if node.op == "sum_group":
                self.values[node] = yield self.arith.sum(self._operand(node.args[0], spread=True))
            else:
                self.values[node] = self._compute(node)
        out: dict[str, Any] = {}
        for name, node in self.program.outputs.items():
            chosen = isinstance(self.values[node], Chosen)
            out[name] = self.values[node] if chosen else self._operand(node)
        p = self.item.p
        u = out.pop(UPDATE, None)
        arrays = {
            PARAMETER: self._like(
                out[PARAMETER] if u is None else self.arith.apply("add", (p, u)), p
            )
        }
        for name in self.program.state_names:
            arrays[name] = self._like(out[name], self.item.state[name])
        return arrays, {n: self._operand(v) for n, v in self.program.group_outputs.items()}

    def _like(self, x: Any, like: Any) -> Any:
        """A result that is the same everywhere (a constant, a 0-d sum) fills its array."""
        shape = self.arith.value(like).shape
        if self.arith.value(x).shape == shape:
            return x
        return self.arith.shaped(lambda a: np.broadcast_to(a, shape), x)

    def _operand(self, node: Value, *, spread: bool = False) -> Any:
        found = self.values[node]
        if isinstance(found, Chosen):
            message = f"{node!r} is one of several right answers: a step may store it, and nothing may depend on it"
            raise ExactError(message)
        if isinstance(found, bool | int | float):
            found = self.arith.scalar(found, node not in self.inexact)
        if spread and node.domain is Domain.ELEMENT:
            return self._like(found, self.item.p)
        return found

    def _compute(self, node: Value) -> Any:
        op = node.op
        if op == "input":
            return self._input(node)
        if op == "const":
            return node.attrs[0]
        if op in FACTS:
            return self._fact(node)
        if op in MAPS:
            return self._map(node)
        # Reductions and tensor operations. What is one number for a whole array or unit is summed as it is: once.
        x = self._operand(node.args[0])
        if op in ("sum", "sum_units") and node.args[0].domain is Domain.ELEMENT:
            x = self._like(x, self.item.p)
        return self._tensor(node, x)

    def _tensor(self, node: Value, x: Any) -> Any:
        op, shape = node.op, self.arith.value(x).shape
        if op == "sum":
            return self.arith.sum(x)
        if op in ("sum_units", "sum_axis"):
            rank = len(shape)
            if op == "sum_axis":
                axes = tuple(a % rank for a in node.attrs[0])
            else:
                axes = tuple(i for i in range(rank) if rank < 2 or i != node.attrs[0] % rank)
            return self.arith.sum(x, axis=axes, keepdims=True) if axes else x
        if op == "max_axis":
            for axis in node.attrs[0]:
                x = self._max(x, axis)
            return x
        if op == "transpose":
            return self.arith.shaped(lambda a: np.swapaxes(a, -1, -2), x)
        if op == "reshape":
            return self.arith.shaped(lambda a: np.reshape(a, node.attrs[0]), x)
        if op == "matmul":
            return self.arith.matmul(x, self._operand(node.args[1]))
        if op in (*MATRIX_OPS, *DECOMPOSITIONS, *BASES):
            return getattr(self.arith, op)(x, *map(self._operand, node.args[1:]))
        message = f"no truth for the operation {op!r}; add it to isostep_conformance.exact"
        raise ExactError(message)

    def _max(self, x: Any, axis: int) -> Any:
        """The largest along one axis: elementwise maxima of its slices, whose bounds are known."""
        shape = list(self.arith.value(x).shape)
        if not shape[axis]:
            shape[axis] = 1
            return self.arith.array(np.full(shape, -np.inf))
        slices = [
            self.arith.shaped(partial(np.take, indices=[i], axis=axis), x)
            for i in range(shape[axis])
        ]
        return reduce(lambda a, b: self.arith.apply("maximum", (a, b)), slices)

    def _map(self, node: Value) -> Any:
        args = [self.values[a] for a in node.args]
        if all(isinstance(a, bool | int | float) for a in args):
            if any(a in self.inexact for a in node.args) or node.op in _LIBRARY:
                self.inexact.add(node)
            return MAPS[node.op].host(*args)
        if node.op == "where" and isinstance(args[0], bool | int | float):
            x, other = map(self._operand, node.args[1:] if args[0] else node.args[:0:-1])
            wide = np.broadcast_shapes(self.arith.value(x).shape, self.arith.value(other).shape)
            return self.arith.shaped(lambda a: np.broadcast_to(a, wide), x)
        return self.arith.apply(node.op, tuple(self._operand(a) for a in node.args))

    def _input(self, node: Value) -> Any:
        name = node.attrs[0]
        if node.domain <= Domain.STEP:
            return self.scalars[node.scope or "array"][name]
        if node.domain is Domain.GROUP:
            return self.group[name]
        return self.item.named[name]

    def _fact(self, node: Value) -> Any:
        """Facts are of the array that they are asked of, which has the parameter's shape unless it is a tensor."""
        if node.op == "eps":
            return self.arith.form.eps
        like = node.args[0]
        whole = self.item.p if like.domain is not Domain.TENSOR else self.values[like]
        shape = self.arith.value(whole).shape
        if node.op == "size":
            return math.prod(shape)
        if node.op == "ndim":
            return len(shape)
        axis = node.attrs[0]
        return math.prod(shape) // max(shape[axis], 1) if len(shape) >= 2 else math.prod(shape)


def _flat(hyper: Mapping[str, Any], t: int) -> dict[str, Any]:
    """Hyperparameters of this step under the names of the program's inputs, ``betas[0]`` for a tuple's parts."""
    found: dict[str, Any] = {COUNT: t}
    for name, value in hyper.items():
        if isinstance(value, tuple):
            found |= {f"{name}[{i}]": v for i, v in enumerate(value)}
        else:
            found[name] = value
    return found


__all__ = ["After", "Before", "ExactError", "Num", "step"]
