"""Packages with torch optimizers, run on a problem as torch.optim is."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any

import torch

from . import torch_optim
from .problems import Problem, Record


def bare(*packages: str) -> None:
    """A package, and packages inside it, without what their own ``__init__`` would import."""
    if packages[0] in sys.modules:
        return
    spec = importlib.util.find_spec(packages[0])
    if spec is None:
        message = f"{packages[0]} is not installed; pip install --no-deps {packages[0]}"
        raise ModuleNotFoundError(message)
    for name in packages:
        inner = name.split(".")[1:]
        module = types.ModuleType(name)
        module.__path__ = ["/".join((p, *inner)) for p in spec.submodule_search_locations or ()]
        sys.modules[name] = module


def optimizer_class(module: str, name: str) -> Any:
    """A package's class. timm's optimizers are imported without its models, which need torchvision."""
    if module.startswith("timm.") and "timm" not in sys.modules:
        bare("timm", "timm.models", "timm.optim")
        sys.modules["timm.models"].group_parameters = None  # type: ignore[attr-defined]
    return getattr(importlib.import_module(module), name)


@contextmanager
def float64_scalars() -> Iterator[None]:
    """torch's default dtype, in which optimizers keep their own scalars, as float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def run(
    make: Callable[[list[torch.Tensor]], Any],
    problem: Problem,
    states: Mapping[str, str] | None = None,
    group: Mapping[str, str] | None = None,
    **options: Any,
) -> Record:
    """As ``torch_optim.run``; ``states`` and ``group`` map isostep's names to the package's.

    An optimizer with ``train`` and ``eval`` is evaluated after every step.
    """
    names = states or {}
    noted: dict[str, list[float]] = {ours: [] for ours in group or {}}
    points: list[list[Any]] = []

    def watched(params: list[torch.Tensor]) -> Any:
        optimizer = make(params)
        switches = hasattr(optimizer, "train")
        if switches:  # schedule-free: else it refuses to step
            optimizer.train()
        step = optimizer.step

        def stepping() -> None:
            step()
            for ours, theirs in (group or {}).items():
                noted[ours].append(float(optimizer.param_groups[0][theirs]))
            if switches:
                optimizer.eval()
                points.append([p.detach().numpy().copy() for p in params])
                optimizer.train()

        optimizer.step = stepping
        return optimizer

    # Some packages report on standard output, where the table goes.
    with float64_scalars(), redirect_stdout(StringIO()):
        record = torch_optim.run(watched, problem, tuple(names.values()), **options)
    state = {ours: record.state[theirs] for ours, theirs in names.items()}
    state |= {"evaluation point": points} if points else {}
    return Record(record.p, state, noted)


def run_ahead(
    make: Callable[[list[torch.Tensor]], Any], problem: Problem, **options: Any
) -> Record:
    """The same where the package applies a learning rate one step late: it is told each one early."""
    late = replace(problem, lrs=(*problem.lrs[1:], problem.lrs[-1]))
    return run(make, late, **options)
