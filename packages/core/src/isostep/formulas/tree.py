"""Formulas as trees, and their value on numbers, arrays or traced values.

This file is not that of a rule's ``update``: a listing names values after the locals of that file, and those here would
only be "left" and "right".
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from isostep import nm
from isostep.formulas.vocabulary import MOMENTS
from isostep.rules import adam
from isostep.values import MAPS

#: Operators that Python has for numbers and arrays alike.
_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": operator.pow,
    "neg": operator.neg,
}


@dataclass(frozen=True)
class Step:
    """What a formula is evaluated on: values by name, the step's number and the hyperparameters."""

    values: dict[str, Any]
    hyper: dict[str, Any]
    t: Any


@dataclass(frozen=True)
class Node(ABC):
    """A part of a formula."""

    def parts(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self

    @abstractmethod
    def value(self, step: Step) -> Any:
        """The value in a step."""

    def update(self, step: Step) -> Any:
        """-lr times the value. In a product lr goes with its first factor, as in TensorFlow's sign kernels."""
        return -step.hyper["lr"] * self.value(step)


@dataclass(frozen=True)
class Number(Node):
    """A number written in the formula, or what several of them come to."""

    number: float

    def value(self, step: Step) -> Any:
        return self.number


@dataclass(frozen=True)
class Name(Node):
    """An operand; a decay's name is that of its hyperparameter."""

    name: str

    def value(self, step: Step) -> Any:
        if self.name.endswith("_hat"):
            state = self.name.removesuffix("_hat")
            return step.values[state] / nm.one_minus_pow(step.hyper[MOMENTS[state][1]], step.t)
        return step.values[self.name] if self.name in step.values else step.hyper[self.name]


@dataclass(frozen=True)
class Adam(Node):
    """The step of the rule of that name per unit of lr, of the averages that the formula calls m and v."""

    def value(self, step: Step) -> Any:
        return self._step(step, -1.0)

    def update(self, step: Step) -> Any:
        return self._step(step, step.hyper["lr"])

    @staticmethod
    def _step(step: Step, lr: Any) -> Any:
        betas = step.hyper["beta1"], step.hyper["beta2"]
        m, v = step.values["m"], step.values["v"]
        return adam.directed(m, v, None, step.t, lr=lr, betas=betas, eps=step.hyper["eps"])[0]


@dataclass(frozen=True)
class Apply(Node):
    """An operation of ``isostep.values.MAPS`` on other nodes."""

    op: str
    args: tuple[Node, ...]

    def parts(self) -> Iterator[Node]:
        yield self
        for a in self.args:
            yield from a.parts()

    def value(self, step: Step) -> Any:
        values = [a.value(step) for a in self.args]
        if self.op in _OPERATORS:
            return _OPERATORS[self.op](*values)
        return nm.call(self.op, *values)

    def update(self, step: Step) -> Any:
        if self.op == "mul":
            return self.args[0].update(step) * self.args[1].value(step)
        return -self.args[0].update(step) if self.op == "neg" else super().update(step)


def apply(op: str, *args: Node) -> Node:
    """The node of an operation: a number where all operands are; small powers are products."""
    if all(isinstance(a, Number) for a in args):
        return Number(float(MAPS[op].host(*(a.number for a in args if isinstance(a, Number)))))
    if op == "pow" and args[1] in (Number(2.0), Number(3.0)):
        square = Apply("mul", (args[0], args[0]))
        return square if args[1] == Number(2.0) else Apply("mul", (square, args[0]))
    return Apply(op, args)
