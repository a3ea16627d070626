"""Where a thousand tensors lie in memory, without a call from Python for each.

torch has C functions for compiled code that say where a tensor's elements lie, and how: a compiled loop asks them,
tensor by tensor (``isostep_torch.asking``). It is compared with Python for every type of tensor; if anything is not as
expected, or llvmlite is not installed, tensors are asked one by one in Python.

``p.data = p.data.T`` lies where it lay, and memory that is freed is handed out again: so a place is an address and a
number mixed from the dtype, the negative bit, sizes and strides.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from ctypes import PYFUNCTYPE, c_int64
from functools import cache
from operator import attrgetter
from typing import Any

import numpy as np
import torch

#: The types of tensors that were looked at, and whether the loop and Python agreed on them.
_KINDS: dict[type, bool] = {}


def in_python(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    """The address of the first element of each, as int64."""
    return np.fromiter(map(torch.Tensor.data_ptr, tensors), np.int64, len(tensors))


def places_in_python(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    """The addresses, and in a second row what tells how the elements lie there."""
    how = (hash((t.dtype, t.is_neg(), tuple(t.shape), t.stride())) for t in tensors)
    return np.stack([in_python(tensors), np.fromiter(how, np.int64, len(tensors))])


def finder(tensors: Sequence[torch.Tensor]) -> Callable[[], np.ndarray] | None:
    """What finds these very tensors' places, now and later; None where that takes Python.

    It holds no reference: whoever calls it knows that the objects are still there.
    """
    read = _reader()
    if read is None or not tensors:
        return None
    objects = np.fromiter(map(id, tensors), np.int64, len(tensors))
    where = int(objects.ctypes.data)

    def find(objects: np.ndarray = objects) -> np.ndarray:
        found = np.empty((2, len(objects)), np.int64)
        read(where, found.ctypes.data, len(objects))
        return found

    kinds = {*map(type, tensors)} - _KINDS.keys()
    if kinds:
        same = np.array_equal(find()[0], in_python(tensors))
        _KINDS.update(dict.fromkeys(kinds, same))
    return find if all(_KINDS[kind] for kind in {*map(type, tensors)}) else None


@cache
def _reader() -> Any:
    """The compiled loop (objects, where to write, how many); None where it cannot be."""
    if importlib.util.find_spec("llvmlite") is None:
        return None
    from isostep_torch.asking import negative_bit, place_of, shim

    offset = place_of(attrgetter("_cdata"))
    functions, negative = shim("data_ptr", "dtype", "dim", "sizes", "strides"), negative_bit()
    if offset is None or functions is None or negative is None:
        return None
    made = _built(functions, negative, offset)
    return PYFUNCTYPE(None, *[c_int64] * 3)(made)  # which keeps the GIL


def _built(functions: list[int], negative: int, offset: int) -> int:
    """A loop (objects, where to write, how many) that asks these functions about every object's C++ tensor."""
    from llvmlite import ir

    from isostep_torch.asking import NONE, WIDTH, WORD, Loop

    loop = Loop("addresses", 3, ir.VoidType())
    data, dtype, *shape = functions
    build, (objects, found, count) = loop.build, loop.function.args
    each, done, end = map(loop.block, ("each", "done", "end"))
    start, numbers = build.block, build.add(found, build.mul(count, WORD(WIDTH)))
    build.cbranch(build.icmp_signed("<", NONE, count), each, end)

    build.position_at_end(each)
    i = build.phi(WORD)
    loop.start_asking()
    tensor = build.add(loop.load(objects, build.mul(i, WORD(WIDTH))), WORD(offset))
    loop.store(loop.ask(data, tensor), found, i)
    kind = build.shl(loop.ask(dtype, tensor, narrow=True), WORD(1))
    kind = build.or_(kind, loop.negative(negative, tensor))
    failed = build.block
    # Apart from the rank, which is mixed in next.
    number = loop.shape(build.shl(kind, WORD(8 * WIDTH // 2)), tensor, shape, done)
    told = build.block
    build.branch(done)

    build.position_at_end(done)
    how = build.phi(WORD)
    how.add_incoming(WORD(-1), failed)
    how.add_incoming(number, told)
    loop.store(how, numbers, i)
    following = build.add(i, WORD(1))
    i.add_incoming(NONE, start)
    i.add_incoming(following, done)
    build.cbranch(build.icmp_signed("<", following, count), each, end)

    build.position_at_end(end)
    build.ret_void()
    return loop.compiled()
