"""Which way a group's step takes: what was asked for, else the fastest that applies, and why."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np
import torch

from isostep.domains import Domain, Real
from isostep.rule import BoundRule
from isostep.storage import OPTIONS as LOW_PRECISION
from isostep_torch import storage
from isostep_torch.foreach import TorchForeach, TracedForeach
from isostep_torch.loop import TorchLoop
from isostep_torch.memory import all_have_memory, watched
from isostep_torch.traced import TracedLoop

#: Options that every class has, beside its rule's hyperparameters: name -> default.
OPTIONS: dict[str, Any] = {
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
    **LOW_PRECISION,
}


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Options must make sense together; one line says which do not."""
    for n, default in OPTIONS.items():
        allowed = {bool: "True or False", type(None): "None, True or False"}.get(type(default))
        value = options[n]
        flag = isinstance(value, bool | np.bool_)
        if n == "state_dtype" or allowed is None or flag or value is default:
            continue
        message = f"{name}: {n} must be {allowed}, got {value!r}"
        raise ValueError(message)
    storage.check_options(name, options)
    if options["fused"] and options["foreach"]:
        message = f"{name}: fused and foreach cannot both be True; choose one path"
        raise ValueError(message)
    params = options.get("params", ())
    if options["fused"] and options["capturable"] and params and not _on_cuda(params):
        message = (
            f"{name}: capturable takes the foreach or loop path except on CUDA, got fused=True; "
            "leave fused out"
        )
        raise ValueError(message)
    if not options["differentiable"]:
        return
    other = [n for n in ("fused", "foreach", "capturable", *LOW_PRECISION) if options[n]]
    if other:
        message = (
            f"{name}: differentiable takes the loop path in the parameters' own dtype, got "
            f"{other[0]}={options[other[0]]!r}; leave {other[0]} out"
        )
        raise ValueError(message)


_WAYS = itemgetter("fused", "foreach", "capturable", "differentiable", *LOW_PRECISION)


def ways(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides on path and storage, beside where the parameters are: the options, and whether somebody watches.

    The latter only where it matters: a step on another path begins anew, which reads numbers.
    """
    without = group["foreach"] or group["fused"] is False or group["differentiable"]
    without = without or (group["capturable"] and group["params"][0].is_cpu)
    return (*_WAYS(group), not without and watched())


def path_of(group: Mapping[str, Any], params: Iterable[torch.Tensor]) -> str:
    """The path that a group takes."""
    params = list(params)
    on_cpu = _on_cpu(params)
    on_cuda = not on_cpu and _on_cuda(params) and _has("triton")
    by_operations = watched()
    if group["fused"]:
        if not (on_cpu or on_cuda):
            message = (
                "fused=True runs on tensors of the CPU, or of one CUDA device with triton installed, that are no "
                "wrappers such as DTensor; use foreach=True for others"
            )
            raise ValueError(message)
        if not by_operations:
            return "torch:fused" if on_cpu else "torch:fused(cuda)"
    if group["differentiable"]:
        return "torch:loop"
    if group["foreach"]:
        return "torch:foreach"
    free = group["fused"] is None and not by_operations
    if free and on_cpu and not group["capturable"] and _has("numba"):
        return "torch:fused"
    if free and on_cuda:
        return "torch:fused(cuda)"
    if group["foreach"] is None and (group["capturable"] or not on_cpu or by_operations):
        return "torch:foreach"
    return "torch:loop"


def why(group: Mapping[str, Any], params: Iterable[torch.Tensor]) -> str:
    """Why ``path_of`` chose as it did."""
    for option in ("differentiable", "capturable"):
        if group[option]:
            return option
    if watched() and not group["foreach"]:
        return "a dispatch mode watches, and sees operations only"
    if group["fused"] or group["foreach"]:
        return "asked for"
    params = list(params)
    for on, kind, needs in (
        (_on_cpu, "CPU tensors", "numba"),
        (_on_cuda, "CUDA tensors", "triton"),
    ):
        if group["fused"] is None and on(params):
            return kind if _has(needs) else f"{kind}, and {needs} is not installed"
    return "other tensors" if group["foreach"] is None else "fused and foreach are ruled out"


def traced(group: Mapping[str, Any]) -> bool:
    """Whether scalars stay tensors in this group's steps."""
    return bool(group["capturable"] or group["differentiable"])


def make(path: str, group: Mapping[str, Any]) -> Any:
    """The backend of a path."""
    if path == "torch:fused":
        from isostep_torch.fused_cpu import TorchFused

        return TorchFused()
    if path == "torch:fused(cuda)":
        from isostep_torch.fused_cuda import TorchTriton
        from isostep_torch.fused_traced import TracedTriton

        return TracedTriton() if traced(group) else TorchTriton()
    if path == "torch:foreach":
        return TracedForeach() if traced(group) else TorchForeach()
    if traced(group):
        return TracedLoop(differentiable=group["differentiable"])
    return TorchLoop()


def number(value: Any, label: str) -> Any:
    """A tensor or a NumPy array as what it holds now; tuples element by element; anything else as it is."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, tuple | list):
        return tuple(number(v, label) for v in value)
    if not isinstance(value, torch.Tensor):
        return value
    if value.numel() != 1:
        message = f"{label} must be one number, got a tensor of shape {tuple(value.shape)}"
        raise ValueError(message)
    return value.item()


def inside(domain: Domain, value: Any, usual: Any) -> Any:
    """A number that rounding has left just below its domain, as the domain's end; anything else as it is.

    torch's schedulers multiply from step to step: ``LinearLR`` to 0 may end at -1e-20, which torch.optim steps with.
    ``usual`` tells how large such a number is.
    """
    low = domain.low if isinstance(domain, Real) and not domain.low_open else None
    if low is None or not isinstance(value, int | float) or not isinstance(usual, int | float):
        return value
    return low if 0 < low - value <= max(1e-6 * abs(usual), 1e-12) else value


def with_numbers(template: BoundRule, given: Mapping[str, Any]) -> BoundRule:
    """A rule with the numbers of a group, which schedulers have computed."""
    usual = template.values
    return template.midway(
        **{n: inside(template.domains[n], v, usual[n]) for n, v in given.items()}
    )


def _on_cpu(params: Iterable[torch.Tensor]) -> bool:
    """All in this process's memory."""
    params = list(params)
    return all(map(attrgetter("is_cpu"), params)) and all_have_memory(params)


def _on_cuda(params: Iterable[torch.Tensor]) -> bool:
    """All in the memory of one CUDA device."""
    params = list(params)
    devices = set(map(attrgetter("device"), params))
    there = len(devices) == 1 and next(iter(devices)).type == "cuda"
    return there and all_have_memory(params)


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
