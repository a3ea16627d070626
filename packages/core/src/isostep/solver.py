"""Solvers as declarations, bound to hyperparameters, and run on lists of arrays through one flat vector.

A solver's own function works on vectors of any array-API library. What it needs of them beside arithmetic is in
``Vectors``, so that an adapter can use its framework's own calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from isostep import nm
from isostep.domains import DomainError
from isostep.rule import Part
from isostep.state import StepError, as_list, labels, reordered


class Vectors:
    """The two operations on vectors that frameworks have calls of their own for."""

    def dot(self, x: Any, y: Any) -> Any:
        """The dot product: a 0-d array."""
        return x @ y

    def add(self, x: Any, y: Any, a: Any) -> Any:
        """x + a * y, in a new array."""
        return x + a * y


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Solver(Part):
    """One solver: ``step(evaluate, x, state, hyper, vectors) -> (loss, x, state)`` over flat vectors.

    ``start()`` makes the state before the first step. ``evaluate(x)`` gives the loss as a float and the gradient, as
    often as the solver asks. A step hands out a new state and leaves the old one as it was.
    """

    step: Callable[..., tuple[float, Any, Any]]
    start: Callable[[], Any]

    def functions(self) -> tuple[Callable[..., Any] | None, ...]:
        return (self.step,)

    def bind(self, **hyper: Any) -> BoundSolver:
        """This solver with its hyperparameters; those not given take their defaults."""
        return BoundSolver(self, self.bind_values(hyper))

    def bind_values(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """As any part's, but for schedules: a step of a solver is many iterations."""
        values = super().bind_values(hyper)
        for n, v in values.items():
            if callable(v):
                message = f"{self.name}: {n} must be {self.hyper[n].describe()}, got {v!r}; a solver takes no schedule"
                raise DomainError(message)
        return values


@dataclass(frozen=True)
class BoundSolver:
    """A solver ready to run, on NumPy, CuPy or any other array-API library's arrays."""

    solver: Solver
    values: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"{self.solver.name}({', '.join(f'{n}={v!r}' for n, v in self.values.items())})"

    def step(
        self, loss_and_grad: Callable[[Any], tuple[Any, Any]], params: Any, state: Any = None
    ) -> tuple[float, Any, Any]:
        """The loss before the step, new parameters and the new state; an error changes nothing.

        Args:
            loss_and_grad: ``(params) -> (loss, gradients)``, gradients like params. It is called with new arrays.
            params: a list or dict of floating arrays of one library and dtype.
            state: what the step before returned; None at the first.

        Raises:
            StepError: arrays that do not fit together, or a loss or gradient at the start that is not finite; or
                a state of another solver or of other parameters.
        """
        name = self.solver.name
        if not callable(loss_and_grad):
            message = (
                f"{name}: loss_and_grad must be a function of the parameters, got {loss_and_grad!r}"
            )
            raise StepError(message)
        keys = getattr(state, "keys", None)
        known = keys if isinstance(keys, tuple) else None
        params = reordered(name, params, known, "start with None")
        flat = Flat(name, params)
        outside = np.geterr()

        def evaluate(x: Any) -> tuple[float, Any]:
            with np.errstate(**outside):
                found = loss_and_grad(flat.split(x))
            if not isinstance(found, tuple | list) or len(found) != 2:
                message = f"{name}: loss_and_grad must return (loss, gradients), got {type(found).__name__}"
                raise StepError(message)
            loss, grads = found
            return number(name, loss), flat.join("gradient", grads)

        hyper = SimpleNamespace(**self.values)
        x = flat.join("parameter", params)
        state = self._checked(state, x)
        with np.errstate(all="ignore"):  # a trial may be infinite
            loss, x, state = self.solver.step(evaluate, x, state, hyper, Vectors())
        state.keys = None if flat.keys is None else tuple(flat.keys)
        return loss, flat.split(x), state

    def _checked(self, state: Any, x: Any) -> Any:
        """The state before a step, the first one for None.

        Raises:
            StepError: it is not this solver's, or of another number of elements.
        """
        name, start = self.solver.name, self.solver.start()
        if state is None:
            return start
        if not isinstance(state, type(start)):
            message = f"{name}: state must be what the step before returned, or None, got {type(state).__name__}"
            raise StepError(message)
        for value in vars(state).values():
            shape = tuple(getattr(value, "shape", ()))
            if shape not in ((), tuple(x.shape)):
                message = f"{name}: state is of {shape[0]} elements, params have {x.shape[0]}; start with None"
                raise StepError(message)
        return state


class Flat:
    """Arrays and the one vector that has all their elements, in order."""

    def __init__(self, name: str, params: Any) -> None:
        self.name, self.keys = name, list(params) if isinstance(params, Mapping) else None
        arrays = as_list(params)
        if not arrays:
            message = f"{name}: params must hold at least one array, got none"
            raise StepError(message)
        self.labels = labels(params)
        self.shapes = [tuple(a.shape) for a in arrays]
        self.xp = nm.namespace(arrays[0])
        self.dtype = arrays[0].dtype
        if not self.xp.isdtype(self.dtype, "real floating"):
            message = (
                f"{name}: params must be real floating arrays, got {self.dtype}; cast them first"
            )
            raise StepError(message)

    def join(self, what: str, values: Any) -> Any:
        """The vector of arrays that are shaped like the parameters."""
        if isinstance(values, Mapping) and self.keys is not None:
            values = [values[k] for k in self.keys if k in values]
        arrays = as_list(values)
        if len(arrays) != len(self.shapes):
            message = f"{self.name}: expected {len(self.shapes)} {what}s, got {len(arrays)}"
            raise StepError(message)
        for label, a, shape in zip(self.labels, arrays, self.shapes, strict=True):
            if a is None or not hasattr(a, "shape"):
                message = f"{self.name}: {what} of {label} must be an array, got {a!r}"
                raise StepError(message)
            if tuple(a.shape) != shape or a.dtype != self.dtype:
                got = f"{a.dtype} of shape {tuple(a.shape)}"
                message = f"{self.name}: {what} of {label} must be {self.dtype} of shape {shape}, got {got}"
                raise StepError(message)
        return self.xp.concat([self.xp.reshape(a, (-1,)) for a in arrays])

    def split(self, x: Any) -> Any:
        """New arrays with the elements of a vector, in the structure of the parameters."""
        found, at = [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            found.append(self.xp.reshape(self.xp.asarray(x[at : at + size], copy=True), shape))
            at += size
        return found if self.keys is None else dict(zip(self.keys, found, strict=True))


def number(name: str, loss: Any) -> float:
    """A loss as a float."""
    try:
        return float(loss)
    except (TypeError, ValueError):
        message = f"{name}: the loss must be one number, got {loss!r}; return (loss, gradients)"
        raise StepError(message) from None
