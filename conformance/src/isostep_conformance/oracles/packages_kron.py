"""PSGD's Kronecker-factored preconditioner against the collections, which are told what they would draw.

Both take their triangular solves in float32, whatever their dtype; here they are lifted to float64.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle, product
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import isostep

from . import torch_packages
from .check import TOLERANCE, Check, words
from .packages_matrix import SHAPES, InFloat64
from .problems import Problem, Record, mild

#: Scalars and axes of length 1 have factors of one number, vectors of one for each index.
EVERY: tuple[tuple[int, ...], ...] = (*SHAPES, (), (1, 3))
MATRICES = tuple(shape for shape in EVERY if len(shape) > 1)
STATES = ("momentum_buffer", *(f"factor_{i}" for i in range(4)))
NOTE = "its probes are given, its triangular solves taken in float64"


def with_probes(problem: Problem, seed: int = 5) -> Problem:
    """The same problem with standard normal numbers for each step."""
    rng = np.random.default_rng(seed)
    probes = tuple(tuple(rng.standard_normal(p.shape) for p in problem.start) for _ in problem.lrs)
    return replace(problem, inputs={"probe": probes})


@dataclass
class _Drawn(InFloat64):
    """torch for a module that draws probes: they are those of the problem, one after the other."""

    probes: Iterator[Any]

    def randn_like(self, like: torch.Tensor, dtype: Any = None) -> torch.Tensor:
        return torch.tensor(next(self.probes))

    def randn(self, shape: Any, **options: Any) -> torch.Tensor:
        return torch.tensor(next(self.probes))


def _noted(state: dict[str, Any], rank: int) -> None:
    """The factors under our names; a diagonal one has its numbers along its own axis."""
    for i, q in enumerate(state["Q"]):
        along = [-1 if a == i else 1 for a in range(rank)]
        state[f"factor_{i}"] = q.clone() if q.dim() != 1 else q.clone().reshape(along)


def _run(
    problem: Problem, every: int, module: str, make: Callable[..., Any], draws: list[float]
) -> Record:
    """The package's record; ``draws`` are its numbers in [0, 1), which decide on balancing."""
    used = [p for step in problem.inputs["probe"][every - 1 :: every] for p in step]
    chances = cycle(draws)

    def prepared(params: list[torch.Tensor]) -> Any:
        optimizer = make(params, lambda: next(chances))
        step = optimizer.step

        def stepping() -> None:
            step()
            for p in params:
                _noted(optimizer.state[p], p.dim())

        optimizer.step = stepping
        return optimizer

    names = {n: n for n in STATES}
    with ExitStack() as stack:
        where = importlib.import_module(module)
        stack.enter_context(patch.object(where, "torch", _Drawn(iter(used))))
        stack.enter_context(patch("numpy.random.random", lambda: next(chances)))
        return torch_packages.run(prepared, problem, states=names)


def collection(problem: Problem, every: int, balance: int, ours: dict[str, Any]) -> Record:
    """pytorch_optimizer's Kron: one draw a step."""
    kind = torch_packages.optimizer_class("pytorch_optimizer", "Kron")

    def make(params: list[torch.Tensor], draw: Callable[[], float]) -> Any:
        optimizer = kind(
            params,
            momentum=ours["momentum"],
            weight_decay=ours["weight_decay"],
            pre_conditioner_update_probability=1.0 / every,
            max_size_triangular=ours["max_size_triangular"],
            min_ndim_triangular=ours["min_ndim_triangular"],
            momentum_into_precondition_update=ours["momentum_into_precond_update"],
            precondition_dtype=torch.float64,
        )
        for group in optimizer.param_groups:
            group["precondition_lr"] = ours["precond_lr"]
            group["precondition_init_scale"] = ours["precond_init_scale"]
        return optimizer

    draws = [1.0] * (every * balance - 1) + [0.0]
    return _run(problem, every, "pytorch_optimizer.optimizer.psgd", make, draws)


class _Chance:
    """timm's generator of Python numbers."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self.random = draw


def timm(problem: Problem, every: int, balance: int, ours: dict[str, Any]) -> Record:
    """timm's Kron, uncompiled: one draw for each parameter."""
    kind = torch_packages.optimizer_class("timm.optim.kron", "Kron")
    module = importlib.import_module("timm.optim.kron")

    def make(params: list[torch.Tensor], draw: Callable[[], float]) -> Any:
        optimizer = kind(params, preconditioner_update_probability=1.0 / every, **ours)
        optimizer.rng = _Chance(draw)
        for name in ("_calc_A_and_conjB", "_q_terms", "_precond_grad", "_balance_Q"):
            setattr(optimizer, name, getattr(module, name))
        return optimizer

    count = len(problem.start)
    draws = [1.0] * (every * balance - 1) * count + [0.0] * count
    return _run(problem, every, "timm.optim.kron", make, draws)


def checks() -> Iterator[Check]:
    """Renewals at each step and at every third, with balancings, both kinds of factors, clipped and not."""
    more = {"momentum": 0.85, "precond_lr": 0.3}
    for package, scale, every, into in (
        *product(("pytorch_optimizer",), (1.7, 0.3), (1, 3), (True, False)),
        *product(("timm",), (0.1,), (1, 3), (True, False)),
    ):
        ours: dict[str, Any] = {
            **more,
            "weight_decay": 0.1,
            "precond_init_scale": scale,
            "max_size_triangular": 4 if every == 3 else 8,
            "min_ndim_triangular": 1 if into else 2,
            "momentum_into_precond_update": into,
        }
        balance = 3 if every == 1 else 2
        kinds = {"preconditioner_update_every": every, "balance_every": balance}
        run, shapes, note, tolerance = collection, EVERY, NOTE, TOLERANCE
        if package == "timm":  # it has weight decay of vectors, too
            run, shapes = timm, MATRICES
            if into:
                note, tolerance = f"{NOTE}; it clips with 1e-8 for 1e-6", 1e-6
        rule = isostep.rule("psgd_kron", **ours, **kinds)

        def theirs(
            problem: Problem,
            run: Callable[..., Record] = run,
            every: int = every,
            balance: int = balance,
            ours: dict[str, Any] = ours,
        ) -> Record:
            return run(problem, every, balance, ours)

        yield Check(
            rule,
            f"{package}.Kron",
            words({**ours, **kinds}),
            with_probes(mild(shapes)),
            theirs,
            STATES,
            tolerance,
            note=note,
            whole=True,
        )
