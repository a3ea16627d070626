"""L-BFGS against torch.optim: every step's loss, parameters and counts, float64, with and without a line search.

The library's class takes many iterations a step, in which rounding grows where the function curves: so the tolerance is
not that of rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import isostep

from .check import words
from .outcome import Array, Outcome, compare

TOLERANCE = 1e-10
STEPS = 3
Function = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class SolverCheck:
    """A solver in one setting on one function."""

    name: str
    function: Function
    hyper: dict[str, Any] = field(default_factory=dict)

    def outcome(self, path: str) -> Outcome:
        """Run both. A solver has no paths: it runs on NumPy arrays here."""
        start = np.random.default_rng(5).standard_normal(13)
        ours, theirs = self._ours(start), self._theirs(start)
        found = compare([a for a, _ in ours], [a for a, _ in theirs], first=start, whole=True)
        counts = compare([c for _, c in ours], [c for _, c in theirs])
        setting = f"{self.function.__name__}, {words(self.hyper)}"
        note = "evaluations and iterations differ" if counts.worst else ""
        return Outcome(
            self.name, "torch.optim.LBFGS", setting, found | counts, TOLERANCE, note=note
        )

    def _ours(self, start: Array) -> list[tuple[Array, Array]]:
        solver, params, state = isostep.solvers.lbfgs(**self.hyper), [start], None
        found = []
        for _ in range(STEPS):
            _, params, state = solver.step(self._loss_and_grad, params, state)
            found.append((params[0], np.array([state.func_evals, state.n_iter])))
        return found

    def _loss_and_grad(self, params: list[Array]) -> tuple[float, list[Array]]:
        x = torch.tensor(params[0], requires_grad=True)
        loss = self.function(x)
        (g,) = torch.autograd.grad(loss, x)
        return loss.item(), [g.numpy()]

    def _theirs(self, start: Array) -> list[tuple[Array, Array]]:
        x = torch.tensor(start, requires_grad=True)
        solver = torch.optim.LBFGS([x], **self.hyper)

        def closure() -> torch.Tensor:
            solver.zero_grad()
            loss = self.function(x)
            loss.backward()
            return loss

        found = []
        for _ in range(STEPS):
            solver.step(closure)
            own = solver.state[x]
            found.append((x.detach().numpy().copy(), np.array([own["func_evals"], own["n_iter"]])))
        return found


def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    """The valley."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def waves(x: torch.Tensor) -> torch.Tensor:
    """Not convex, with scales from 1 to its length."""
    scales = torch.arange(1, len(x) + 1, dtype=x.dtype)
    return (torch.log1p(x * x) * scales + torch.sin(x) + 0.01 * x**4).sum()


def checks() -> Iterator[SolverCheck]:
    """All of them."""
    for function in (rosenbrock, waves):
        for hyper in (
            {"lr": 0.03},
            {"lr": 0.05, "history_size": 3, "max_iter": 7},
            {"line_search_fn": "strong_wolfe", "max_iter": 8},
            {
                "line_search_fn": "strong_wolfe",
                "lr": 0.01,
                "history_size": 3,
                "max_iter": 5,
                "max_eval": 9,
            },
        ):
            yield SolverCheck("lbfgs", function, hyper)
