"""Second packages that need more than their constructor: a Hessian, a model, an iterator, a tape."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import torch

from . import torch_packages
from .modern_runs import Model
from .problems import Floats, Problem, Record


def adahessian(problem: Problem, *, package: str, **settings: Any) -> Record:
    """AdaHessian of three packages, each handed the diagonals in the place of its own estimate."""
    module, name = {
        "pytorch_optimizer": ("pytorch_optimizer", "AdaHessian"),
        "torch_optimizer": ("torch_optimizer", "Adahessian"),
        "timm": ("timm.optim.adahessian", "Adahessian"),
    }[package]
    kind = torch_packages.optimizer_class(module, name)
    diagonals = iter(problem.inputs["hessian_diag"])

    def make(params: list[torch.Tensor]) -> Any:
        optimizer = kind(params, **settings)
        step = optimizer.step

        def given() -> list[torch.Tensor]:
            return [torch.tensor(h) for h in next(diagonals)]

        def assigned() -> None:
            for p, h in zip(params, given(), strict=True):
                p.hess = h  # type: ignore[attr-defined]

        if package == "pytorch_optimizer":
            optimizer.step = lambda: step(hessian=given())
        elif package == "torch_optimizer":
            optimizer.get_trace = lambda params, grads: given()
        else:
            optimizer.set_hessian = assigned
        return optimizer

    kept = {n: n for n in ("exp_avg", "exp_hessian_diag_sq")}
    return torch_packages.run(make, problem, states=kept)


def swats(problem: Problem, **settings: Any) -> Record:
    """pytorch_optimizer's SWATS, which has its rate after the switch where the learning rate was."""
    kind = torch_packages.optimizer_class("pytorch_optimizer", "SWATS")

    def make(params: list[torch.Tensor]) -> Any:
        optimizer = kind(params, foreach=False, **settings)
        step, group = optimizer.step, optimizer.param_groups[0]
        rate: list[float] = []

        def stepping() -> None:
            if rate:
                group["lr"] = rate[0]
            step()
            if group["phase"] == "sgd" and not rate:
                rate.append(group["lr"])
            group["rate"] = rate[0] if rate else 0.0

        optimizer.step = stepping
        return optimizer

    return torch_packages.run(make, problem, group={"sgd_lr": "rate"})


def adam_mini(problem: Problem, **settings: Any) -> Record:
    """pytorch_optimizer's AdamMini on a model whose arrays have names that it does not know."""
    kind = torch_packages.optimizer_class("pytorch_optimizer", "AdamMini")

    def make(params: list[torch.Tensor]) -> Any:
        return kind(Model(params), foreach=False, **settings)

    return torch_packages.run(make, problem, states={"exp_avg": "m"})


def asgd(problem: Problem, *, lambd: float, alpha: float, t0: float) -> Record:
    """climin's Asgd, one flat array: eta0 is read at the end of a step for the next, as torch does."""
    torch_packages.bare("climin")  # its __init__ asks for a module that Python no longer has
    module: Any = importlib.import_module("climin.asgd")
    sizes = [p.size for p in problem.start]
    shapes = [p.shape for p in problem.start]

    def flat(arrays: tuple[Floats, ...]) -> Floats:
        return np.concatenate([a.ravel() for a in arrays])

    def split(x: Floats) -> list[Floats]:
        parts = np.split(x, np.cumsum(sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    gradients = iter(problem.gradients)
    minimizer = module.Asgd(
        flat(problem.start), lambda w: flat(next(gradients)),
        eta0=problem.lrs[0], lmbd=lambd, alpha=alpha, t0=t0,
    )  # fmt: skip
    record = Record()
    steps = iter(minimizer)
    for lr in (*problem.lrs[1:], problem.lrs[-1]):
        minimizer.eta0 = lr
        next(steps)
        record.add(split(minimizer.w), {"ax": split(minimizer.wrt)})
    return record


def hypergradient(
    problem: Problem, *, rule: str, hypergrad_lr: float, weight_decay: float, **settings: Any
) -> Record:
    """The package of "Gradient Descent: The Ultimate Optimizer": autograd finds what moves the learning rate.

    The loss of a step is the one whose gradient the problem has there, with a penalty for the decay.
    """
    module: Any = importlib.import_module("gradient_descent_the_ultimate_optimizer.gdtuo")
    record = Record()
    with torch_packages.float64_scalars(), warnings.catch_warnings():
        # The tape refers to itself until the package lets the gradients go, at the start of the next step.
        warnings.filterwarnings("ignore", message="Using backward")
        above = module.SGD(hypergrad_lr)
        optimizer = getattr(module, rule)(problem.lrs[0], optimizer=above, **settings)
        model = torch.nn.ParameterList([torch.tensor(p) for p in problem.start])
        whole = module.ModuleWrapper(model, optimizer=optimizer)
        whole.initialize()
        for gradients in problem.gradients:
            whole.begin()
            points = list(whole.parameters.values())
            slopes = sum(
                (torch.tensor(g) * p).sum() for g, p in zip(gradients, points, strict=True)
            )
            loss = slopes + weight_decay / 2 * sum((p * p).sum() for p in points)
            whole.zero_grad()
            loss.backward(create_graph=True)
            whole.step()
            lr = float(optimizer.parameters["alpha"].detach())
            record.add([p.detach().numpy() for p in whole.parameters.values()], group={"lr": lr})
    return record
