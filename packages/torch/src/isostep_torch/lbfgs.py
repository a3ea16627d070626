"""L-BFGS as a torch optimizer: ``isostep.solvers.lbfgs`` on the flat vector of all parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from isostep.solver import Vectors, number
from isostep.solvers import registry
from isostep.state import StepError
from isostep_torch.paths import inside
from isostep_torch.paths import number as plain


class _Vectors(Vectors):
    """torch's own calls, which contract a * y + x."""

    def dot(self, x: Any, y: Any) -> Any:
        return torch.dot(x, y)

    def add(self, x: Any, y: Any, a: Any) -> Any:
        return torch.add(x, y, alpha=float(a))


class LBFGS(torch.optim.Optimizer):
    """torch.optim.LBFGS's class: the same iterates, counts and state, so state dicts are interchangeable.

    ``step(closure)`` calls the closure, which clears the gradients, computes the loss, calls ``backward`` and returns
    the loss, as often as the solver asks. All parameters are one group, on one device and of one dtype; complex ones
    are pairs of reals. The equations are those of ``isostep.solvers.lbfgs``.

    ``maximize`` ascends, as torch's class does from 2.14 on. A tensor as ``lr`` is read at each step. torch's class
    keeps it as the length of the last iteration, so that a scheduler, which changes it in place, changes the history.
    """

    definition = registry["lbfgs"]

    def __init__(
        self,
        params: Any,
        lr: Any = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
        *,
        maximize: bool = False,
    ) -> None:
        values = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        self.definition.bind_values(values | {"lr": plain(lr, "lbfgs: lr")})
        if not isinstance(maximize, bool | np.bool_):
            message = f"lbfgs: maximize must be True or False, got {maximize!r}"
            raise ValueError(message)
        if max_eval is None:  # torch.optim.LBFGS, which may load this, expects the number
            values["max_eval"] = max_iter * 5 // 4
        super().__init__(params, {**values, "maximize": maximize})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # torch's class had no such option at first
            group.setdefault("maximize", False)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take the only group that there can be."""
        if self.param_groups:
            message = (
                "lbfgs: takes one group of parameters, got a second; make an optimizer for each"
            )
            raise StepError(message)
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this class or of torch.optim.LBFGS; an error leaves the optimizer as it was."""
        groups = state_dict.get("param_groups", ())
        for group in groups:
            missing = sorted(set(self.definition.hyper) - set(group))
            if missing:
                message = (
                    f"lbfgs: the state dict has no {missing[0]!r} in its group; load one of LBFGS"
                )
                raise ValueError(message)
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of up to ``max_iter`` iterations; returns the closure's first loss.

        Raises:
            StepError: there is no closure, or its first loss or gradient is not finite. As after any exception
                in the closure, parameters and state are as before.
        """
        if not callable(closure):
            message = f"lbfgs: step needs a closure that computes loss and gradients, got {closure!r}; step(closure)"
            raise StepError(message)
        (group,) = self.param_groups
        params = group["params"]
        own = self.state[params[0]]
        values = {
            n: inside(d, plain(group[n], f"lbfgs: {n}"), d.default)
            for n, d in self.definition.hyper.items()
        }
        hyper = SimpleNamespace(**self.definition.bind_values(values))
        start = _joined([p.detach() for p in params])
        first: list[Any] = []  # the loss as the closure returned it

        def evaluate(x: torch.Tensor) -> tuple[float, torch.Tensor]:
            if x is not start:
                _write(params, x)
            with torch.enable_grad():
                loss = closure()
            if not first:
                first.append(loss)
            value, gradient = number("lbfgs", loss), _joined([_gradient(p) for p in params])
            return (-value, gradient.neg()) if group["maximize"] else (value, gradient)

        try:
            _, x, state = self.definition.step(
                evaluate, start, _taken(self, own), hyper, _Vectors()
            )
        except BaseException:
            _write(params, start)
            raise
        _write(params, x)
        self.state[params[0]] = _given(state)
        return first[0]


def _taken(optimizer: LBFGS, own: Mapping[str, Any]) -> Any:
    """The solver's state from a parameter's entry, which torch.optim.LBFGS may have made."""
    state = optimizer.definition.start()
    for f in fields(state):
        if own.get(f.name) is not None:
            setattr(state, f.name, own[f.name])
    return state


def _given(state: Any) -> dict[str, Any]:
    found = {f.name: getattr(state, f.name) for f in fields(state)}
    return {n: v for n, v in found.items() if v is not None}


def _gradient(p: torch.Tensor) -> torch.Tensor:
    if p.grad is None:
        return torch.zeros_like(p)
    return p.grad.to_dense() if p.grad.is_sparse else p.grad


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    real = (torch.view_as_real(t) if torch.is_complex(t) else t for t in tensors)
    return torch.cat([t.reshape(-1) for t in real])


def _write(params: list[torch.Tensor], x: torch.Tensor) -> None:
    at = 0
    for p in params:
        view = torch.view_as_real(p) if torch.is_complex(p) else p
        view.copy_(x[at : at + view.numel()].view_as(view))
        at += view.numel()
