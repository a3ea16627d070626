"""Oracles that need more than their constructor: a Hessian, a filter on gradients, a mask."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from . import torch_optim, torch_packages
from .problems import Problem, Record


def sophia(problem: Problem, *, gamma: float, update_period: int, **settings: Any) -> Record:
    """pytorch_optimizer's SophiaH, which is told the Hessian's diagonal at the steps that use it.

    Its bounds have the factor gamma where the paper's denominator has it: all that follows is scaled.
    """
    kind = torch_packages.optimizer_class("pytorch_optimizer", "SophiaH")
    count = iter(range(len(problem.gradients)))

    def make(params: list[torch.Tensor]) -> Any:
        optimizer = kind(
            params,
            p=gamma,
            eps=settings["eps"] / gamma,
            betas=settings["betas"],
            weight_decay=settings["weight_decay"] * gamma,
            update_period=10**9,
            foreach=False,
        )
        step = optimizer.step

        def stepping() -> None:
            t = next(count)
            given = [torch.tensor(h) for h in problem.inputs["hessian_diag"][t]]
            step(hessian=given if t % update_period == 0 else None)

        optimizer.step = stepping
        return optimizer

    scaled = replace(problem, lrs=tuple(lr / gamma for lr in problem.lrs))
    kept = {"exp_avg": "momentum", "hessian": "hessian_moment"}
    return torch_packages.run(make, scaled, states=kept)


class Model:
    """As much of a torch module as a filter on gradients looks at."""

    def __init__(self, params: list[torch.Tensor]) -> None:
        self.params = params

    def named_parameters(self) -> list[tuple[str, torch.Tensor]]:
        """Every parameter has its number as its name."""
        return [(str(i), p) for i, p in enumerate(self.params)]


def grokfast(problem: Problem, *, alpha: float, lamb: float, momentum: float) -> Record:
    """pytorch_optimizer's gradfilter_ema in front of torch's SGD."""
    filtered = torch_packages.optimizer_class(
        "pytorch_optimizer.optimizer.grokfast", "gradfilter_ema"
    )
    averages: list[Any] = [None]

    def before(params: list[torch.Tensor]) -> None:
        averages[0] = filtered(Model(params), averages[0], alpha=alpha, lamb=lamb)

    make = partial(torch.optim.SGD, lr=1.0, momentum=momentum, foreach=False)
    return torch_optim.run(make, problem, before=before)


def adamc(problem: Problem, *, max_lr: float, **settings: Any) -> Record:
    """timm's AdamW with its corrected weight decay; it takes its first lr for the largest."""
    kind = torch_packages.optimizer_class("timm.optim.adamw", "AdamWLegacy")
    make = partial(kind, lr=max_lr, corrected_weight_decay=True, foreach=False, **settings)
    return torch_packages.run(make, problem, states={n: n for n in ("exp_avg", "exp_avg_sq")})


def adam_mini(problem: Problem, *, blocks: str, **settings: Any) -> Record:
    """The package adam-mini, which chooses an array's blocks by its name: rows for an MLP."""
    kind = torch_packages.optimizer_class("adam_mini", "Adam_mini")
    name = {"unit": "mlp", "array": "block"}[blocks]

    def make(params: list[torch.Tensor]) -> Any:
        named = [(f"{name}.{i}", p) for i, p in enumerate(params)]
        return kind(named, dim=4, n_heads=1, verbose=False, **settings)

    return torch_packages.run(make, problem, states={"exp_avg": "m"})
