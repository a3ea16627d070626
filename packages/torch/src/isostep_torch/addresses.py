"""Where a thousand tensors lie in memory, without a call from Python for each.

A tensor's Python object holds its C++ tensor, ``at::Tensor``, and torch has a C function for compiled code (part of the
interface that AOTInductor's models are linked to, ``torch/csrc/inductor/aoti_torch/c/shim.h``) that says where a
tensor's elements lie. So a compiled loop asks that function, tensor by tensor. Where in the object the C++ tensor
is is looked up on probes, and the loop is compared with Python for every type of tensor; if anything is not as
expected, or llvmlite is not installed, tensors are asked one by one in Python.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from ctypes import CDLL, PYFUNCTYPE, c_int64, c_void_p, cast
from functools import cache
from operator import attrgetter
from typing import Any

import numpy as np
import torch

WORD = 8
#: The types of tensors that were looked at, and whether the loop and Python agreed on them.
_KINDS: dict[type, bool] = {}


def in_python(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    """The address of the first element of each, as int64."""
    return np.fromiter(map(torch.Tensor.data_ptr, tensors), np.int64, len(tensors))


def finder(tensors: Sequence[torch.Tensor]) -> Callable[[], np.ndarray] | None:
    """What finds these very tensors' elements, now and later; None where that takes Python.

    It holds no reference: whoever calls it knows that the objects are still there.
    """
    compiled = reader()
    if compiled is None or not tensors:
        return None
    read, offset = compiled
    objects = np.fromiter(map(id, tensors), np.int64, len(tensors))
    where = int(objects.ctypes.data)

    def find(objects: np.ndarray = objects) -> np.ndarray:
        found = np.empty(len(objects), np.int64)
        read(where, found.ctypes.data, len(objects), offset)
        return found

    kinds = {*map(type, tensors)} - _KINDS.keys()
    if kinds:
        same = np.array_equal(find(), in_python(tensors))
        _KINDS.update(dict.fromkeys(kinds, same))
    return find if all(_KINDS[kind] for kind in {*map(type, tensors)}) else None


@cache
def reader() -> tuple[Any, int] | None:
    """The compiled loop (objects, where to write, how many, offset), and where in an object its C++ tensor is."""
    offset = place_of(attrgetter("_cdata"))
    functions = shim("data_ptr")
    if offset is None or functions is None:
        return None
    from isostep.lower.objects import compiled

    loop = compiled(_text(*functions), "addresses")
    return PYFUNCTYPE(None, *[c_int64] * 4)(loop), offset  # which keeps the GIL


def shim(*names: str) -> list[int] | None:
    """Where torch's C functions ``aoti_torch_get_NAME`` begin; None if it lacks one, or nothing can be compiled."""
    if importlib.util.find_spec("llvmlite") is None:
        return None
    try:
        library = CDLL(torch._C.__file__)
        functions = [getattr(library, f"aoti_torch_get_{n}") for n in names]
    except (AttributeError, OSError):
        return None
    return [cast(f, c_void_p).value or 0 for f in functions]


def place_of(word: Callable[[Any], int]) -> int | None:
    """How many bytes into a tensor's object this word of it lies; None if that cannot be told."""
    if sys.implementation.name != "cpython" or sys.maxsize != 2**63 - 1:
        return None
    found = set()
    for probe in (torch.zeros(3), torch.zeros(5)[2:], torch.nn.Parameter(torch.zeros(()))):
        words = range(0, torch.Tensor.__basicsize__ - WORD + 1, WORD)
        at = [k for k in words if c_int64.from_address(id(probe) + k).value == word(probe)]
        found.add(at[0] if len(at) == 1 else None)
    return found.pop() if len(found) == 1 else None


def _text(function: int) -> str:
    """A loop that hands every object's C++ tensor to the function at this address, in LLVM's language."""
    return f"""
define void @addresses(i64 %objects, i64 %found, i64 %count, i64 %offset) {{
start:
  %some = icmp sgt i64 %count, 0
  br i1 %some, label %each, label %end
each:
  %i = phi i64 [ 0, %start ], [ %next, %each ]
  %byte = mul i64 %i, {WORD}
  %at = add i64 %objects, %byte
  %pointer = inttoptr i64 %at to i64*
  %object = load i64, i64* %pointer
  %tensor = add i64 %object, %offset
  %to = add i64 %found, %byte
  %ask = inttoptr i64 {function} to i32 (i64, i64)*
  %error = call i32 %ask(i64 %tensor, i64 %to)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %each, label %end
end:
  ret void
}}
"""
