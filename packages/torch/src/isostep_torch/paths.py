"""Which way a group's step takes: what was asked for, else the fastest that applies, and why."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from isostep_torch import storage
from isostep_torch.foreach import TorchForeach, TracedForeach
from isostep_torch.loop import TorchLoop
from isostep_torch.traced import TracedLoop

#: Options that every class has, beside its rule's hyperparameters: name -> default.
OPTIONS: dict[str, Any] = {
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
    **storage.OPTIONS,
}


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Options must make sense together; one line says which do not."""
    storage.check_options(name, options)
    if options["fused"] and options["foreach"]:
        message = f"{name}: fused and foreach cannot both be True; choose one path"
        raise ValueError(message)
    if options["fused"] and options["capturable"]:
        message = (
            f"{name}: capturable takes the foreach or loop path, got fused=True; leave fused out"
        )
        raise ValueError(message)
    if not options["differentiable"]:
        return
    other = [n for n in ("fused", "foreach", "capturable", *storage.OPTIONS) if options[n]]
    if other:
        message = (
            f"{name}: differentiable takes the loop path in the parameters' own dtype, got "
            f"{other[0]}={options[other[0]]!r}; leave {other[0]} out"
        )
        raise ValueError(message)


def path_of(group: Mapping[str, Any], params: Iterable[torch.Tensor]) -> str:
    """The path that a group takes."""
    on_cpu = _on_cpu(params)
    if group["fused"]:
        if not on_cpu:
            message = "fused=True runs on CPU tensors so far; use foreach=True on other devices"
            raise ValueError(message)
        return "torch:fused"
    if group["differentiable"]:
        return "torch:loop"
    if group["foreach"]:
        return "torch:foreach"
    if group["fused"] is None and on_cpu and not group["capturable"] and _has_numba():
        return "torch:fused"
    if group["foreach"] is None and (group["capturable"] or not on_cpu):
        return "torch:foreach"
    return "torch:loop"


def why(group: Mapping[str, Any], params: Iterable[torch.Tensor]) -> str:
    """Why ``path_of`` chose as it did."""
    for option in ("differentiable", "capturable"):
        if group[option]:
            return option
    if group["fused"] or group["foreach"]:
        return "asked for"
    if group["fused"] is None and _on_cpu(params):
        return "CPU tensors" if _has_numba() else "CPU tensors, and numba is not installed"
    return "other tensors" if group["foreach"] is None else "fused and foreach are ruled out"


def traced(group: Mapping[str, Any]) -> bool:
    """Whether scalars stay tensors in this group's steps."""
    return bool(group["capturable"] or group["differentiable"])


def make(path: str, group: Mapping[str, Any]) -> Any:
    """The backend of a path."""
    if path == "torch:fused":
        from isostep_torch.fused_cpu import TorchFused

        return TorchFused()
    if path == "torch:foreach":
        return TracedForeach() if traced(group) else TorchForeach()
    if traced(group):
        return TracedLoop(differentiable=group["differentiable"])
    return TorchLoop()


def number(value: Any) -> Any:
    """A tensor as the number that it holds now; tuples element by element; anything else as it is."""
    if isinstance(value, tuple | list):
        return tuple(map(number, value))
    return value.item() if isinstance(value, torch.Tensor) else value


def _on_cpu(params: Iterable[torch.Tensor]) -> bool:
    return all(p.device.type == "cpu" for p in params)


def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None
