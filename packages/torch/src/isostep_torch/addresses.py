"""Where a thousand tensors lie in memory, without a call from Python for each.

A tensor's Python object holds its C++ tensor, ``at::Tensor``, and torch has a C function for compiled code (part of the
interface that AOTInductor's models are linked to, ``torch/csrc/inductor/aoti_torch/c/shim.h``) that says where a
tensor's elements lie. So a compiled loop asks that function, tensor by tensor. Where in the object the C++ tensor
is is looked up on probes, and the loop is compared with Python for every type of tensor; if anything is not as
expected, or llvmlite is not installed, tensors are asked one by one in Python.

``p.data = p.data.T`` lies where it lay, and memory that is freed is handed out again: so a place is an address and a
number mixed from sizes and strides.
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
#: Fibonacci hashing: 2**64 divided by the golden ratio, and how far the high bits are folded back.
FACTOR, FOLD = 0x9E3779B97F4A7C15, 29
#: The types of tensors that were looked at, and whether the loop and Python agreed on them.
_KINDS: dict[type, bool] = {}


def in_python(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    """The address of the first element of each, as int64."""
    return np.fromiter(map(torch.Tensor.data_ptr, tensors), np.int64, len(tensors))


def places_in_python(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    """The addresses, and in a second row what tells how the elements lie there."""
    how = (hash((tuple(t.shape), t.stride())) for t in tensors)
    return np.stack([in_python(tensors), np.fromiter(how, np.int64, len(tensors))])


def finder(tensors: Sequence[torch.Tensor]) -> Callable[[], np.ndarray] | None:
    """What finds these very tensors' places, now and later; None where that takes Python.

    It holds no reference: whoever calls it knows that the objects are still there.
    """
    compiled = reader()
    if compiled is None or not tensors:
        return None
    read, offset = compiled
    objects = np.fromiter(map(id, tensors), np.int64, len(tensors))
    where = int(objects.ctypes.data)

    def find(objects: np.ndarray = objects) -> np.ndarray:
        found = np.empty((2, len(objects)), np.int64)
        read(where, found.ctypes.data, len(objects), offset)
        return found

    kinds = {*map(type, tensors)} - _KINDS.keys()
    if kinds:
        same = np.array_equal(find()[0], in_python(tensors))
        _KINDS.update(dict.fromkeys(kinds, same))
    return find if all(_KINDS[kind] for kind in {*map(type, tensors)}) else None


@cache
def reader() -> tuple[Any, int] | None:
    """The compiled loop (objects, where to write, how many, offset), and where in an object its C++ tensor is."""
    offset = place_of(attrgetter("_cdata"))
    functions = shim("data_ptr", "dim", "sizes", "strides")
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


def _text(data: int, dim: int, sizes: int, strides: int) -> str:
    """A loop that hands every object's C++ tensor to the functions at these addresses, in LLVM's language."""
    return f"""
define void @addresses(i64 %objects, i64 %found, i64 %count, i64 %offset) {{
start:
  %rank = alloca i64
  %lengths = alloca i64*
  %steps = alloca i64*
  %row = mul i64 %count, {WORD}
  %numbers = add i64 %found, %row
  %some = icmp sgt i64 %count, 0
  br i1 %some, label %each, label %end
each:
  %i = phi i64 [ 0, %start ], [ %next, %done ]
  %byte = mul i64 %i, {WORD}
  %at = add i64 %objects, %byte
  %pointer = inttoptr i64 %at to i64*
  %object = load i64, i64* %pointer
  %tensor = add i64 %object, %offset
  %to = add i64 %found, %byte
  %where = inttoptr i64 {data} to i32 (i64, i64)*
  %e0 = call i32 %where(i64 %tensor, i64 %to)
  %askrank = inttoptr i64 {dim} to i32 (i64, i64*)*
  %e1 = call i32 %askrank(i64 %tensor, i64* %rank)
  %asklengths = inttoptr i64 {sizes} to i32 (i64, i64**)*
  %e2 = call i32 %asklengths(i64 %tensor, i64** %lengths)
  %asksteps = inttoptr i64 {strides} to i32 (i64, i64**)*
  %e3 = call i32 %asksteps(i64 %tensor, i64** %steps)
  %e12 = or i32 %e1, %e2
  %e = or i32 %e12, %e3
  %good = icmp eq i32 %e, 0
  br i1 %good, label %shape, label %done
shape:
  %n = load i64, i64* %rank
  %size = load i64*, i64** %lengths
  %stride = load i64*, i64** %steps
  %any = icmp sgt i64 %n, 0
  br i1 %any, label %axis, label %done
axis:
  %k = phi i64 [ 0, %shape ], [ %k1, %axis ]
  %h = phi i64 [ %n, %shape ], [ %h2, %axis ]
  %psize = getelementptr i64, i64* %size, i64 %k
  %pstride = getelementptr i64, i64* %stride, i64 %k
  %vsize = load i64, i64* %psize
  %vstride = load i64, i64* %pstride
{_mixed("%h", "%vsize", "%h1")}
{_mixed("%h1", "%vstride", "%h2")}
  %k1 = add i64 %k, 1
  %further = icmp slt i64 %k1, %n
  br i1 %further, label %axis, label %done
done:
  %number = phi i64 [ -1, %each ], [ 0, %shape ], [ %h2, %axis ]
  %below = add i64 %numbers, %byte
  %put = inttoptr i64 %below to i64*
  store i64 %number, i64* %put
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %each, label %end
end:
  ret void
}}
"""


def _mixed(number: str, fact: str, result: str) -> str:
    """One more fact mixed into a number of 64 bits."""
    return f"""  {result}x = xor i64 {number}, {fact}
  {result}m = mul i64 {result}x, {FACTOR}
  {result}f = lshr i64 {result}m, {FOLD}
  {result} = xor i64 {result}m, {result}f"""
