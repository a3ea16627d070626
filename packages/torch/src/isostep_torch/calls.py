"""Elementwise operations where a scalar may be a 0-d tensor: no number is copied to the device, none comes back."""

from __future__ import annotations

import math
from typing import Any

import torch

from isostep import nm
from isostep.values import MAPS

#: What Python's operators do: torch takes their numbers as arguments of the kernel.
OPERATORS = frozenset("add sub mul div mod pow neg lt le gt ge eq ne".split())
#: What may have an infinite derivative at 0.
ROOTS = frozenset(("sqrt", "cbrt", "pow"))


def call(op: str, *args: Any) -> Any:
    """``op`` on any mix of numbers and tensors; a number that has to be a tensor is filled in on the device.

    ``torch.asarray(0.5, device="cuda")`` copies from the host, which a CUDA graph cannot capture.
    """
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    if not tensors:
        return MAPS[op].host(*args)
    if op == "where" and isinstance(args[0], bool):
        return nm.chosen(*(args[1:] if args[0] else args[:0:-1]))
    if op in ROOTS and isinstance(args[0], torch.Tensor) and torch.is_grad_enabled():
        return _root(op, *args)
    if op in OPERATORS:
        return MAPS[op].array(None, *args)
    kind = next((t.dtype for t in tensors if t.is_floating_point()), None)
    if kind is None:  # a choice between two numbers, or logic
        kind = _kind_of_choice(tensors[0]) if op == "where" else torch.bool
    known = [
        a
        if isinstance(a, torch.Tensor)
        else torch.full((), a, dtype=kind, device=tensors[0].device)
        for a in args
    ]
    return MAPS[op].array(torch, *known)  # array_api_compat's sign indexes by a mask: a read


def number(x: Any, dtype: torch.dtype) -> Any:
    """A number as arrays of ``dtype`` have it; torch refuses one that is infinite there."""
    far = isinstance(x, float | int) and dtype.is_floating_point and abs(x) > torch.finfo(dtype).max
    return math.copysign(math.inf, x) if far else x


def _root(op: str, x: torch.Tensor, *exponent: Any) -> Any:
    """A root with a derivative of 0 at 0. Its own is infinite, and times the zero that a choice hands back, NaN."""
    zero = x == 0
    for y in exponent:
        zero = zero & (y < 1)
    at_zero, elsewhere = (
        MAPS[op].array(torch, part, *exponent) for part in (x.detach(), torch.where(zero, 1.0, x))
    )
    return torch.where(zero, at_zero, elsewhere)


def _kind_of_choice(condition: torch.Tensor) -> torch.dtype:
    """That of the parameter for which a rule is computing, else that of scalars."""
    like = getattr(nm._computing, "like", None)
    return double(condition).dtype if like is None else like.dtype


def double(value: Any) -> Any:
    """A scalar in float64, where scalars are computed; in float32 on a device that has no float64."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(torch.float32 if value.device.type == "mps" else torch.float64)
