"""What a thousand gradients look like, without a line of Python for each: a number and an address for every tensor.

Gradients are other tensors in each step. What a plan of kernels depends on is their type, dtype, device, layout,
shape and strides; a compiled loop (``isostep_torch.asking``) mixes all of these into one number of 64 bits, its *look*.
Tensors that look the same are taken alike.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from ctypes import CDLL, PYFUNCTYPE, c_int64, c_void_p, cast, py_object, pythonapi
from functools import cache
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from isostep.lower.plan import Looks

#: What a look is mixed from beside the type, the sizes and the strides: C functions that give a 32-bit number.
FACTS = ("layout", "dtype", "device_type", "device_index")


def looks(tensors: list[Any]) -> Looks | None:
    """Of a list of tensors; None if one is no plain, strided ``torch.Tensor`` whose elements lie in memory as they are.

    None also where nothing can be compiled.
    """
    loop = _loop()
    if loop is None:
        return None
    count = len(tensors)
    found = np.empty((2, count), np.int64)
    where = found.ctypes.data
    if loop(tensors, count, where, where + count * found.itemsize) < count:
        return None
    return Looks(found[0], found[1])


@cache
def _loop() -> Any:
    """The compiled loop (list, length, where looks go, where addresses go), which returns how many tensors it took."""
    if importlib.util.find_spec("llvmlite") is None:
        return None
    from isostep_torch.asking import negative_bit, place_of, shim

    tensor, kind = place_of(attrgetter("_cdata")), place_of(lambda probe: id(type(probe)))
    functions = shim("data_ptr", "dim", "sizes", "strides", *FACTS)
    negative = negative_bit()
    if negative is None or tensor is None or kind is None or functions is None:
        return None
    strided = CDLL(torch._C.__file__).aoti_torch_layout_strided()
    item = cast(pythonapi.PyList_GetItem, c_void_p).value or 0
    made = _built(item, tensor, kind, strided, negative, functions)
    return PYFUNCTYPE(c_int64, py_object, *[c_int64] * 3)(made)  # which keeps the GIL


def _built(
    item: int, tensor_at: int, kind_at: int, strided: int, negative: int, functions: Sequence[int]
) -> int:
    """Where the loop begins; ``item``, ``negative`` and ``functions`` are the addresses of what it calls."""
    from llvmlite import ir

    from isostep_torch.asking import NONE, WORD, Loop

    loop = Loop("looks", 4, WORD)
    build, (tensors, count, numbers, addresses) = loop.build, loop.function.args
    each, plain, taken, end = map(loop.block, ("each", "plain", "taken", "end"))
    data, dim, sizes, strides, *facts = functions
    start = build.block
    ends = []  # (tensors done, from which block)

    def unless(good: ir.Value, done: ir.Value, on: ir.Block) -> None:
        ends.append((done, build.block))
        build.cbranch(good, on, end)

    unless(build.icmp_signed("<", NONE, count), NONE, each)

    build.position_at_end(each)
    i = build.phi(WORD)
    loop.start_asking()
    thing = loop.call(item, WORD, [tensors, i])
    kind = loop.load(thing, kind_at)
    unless(build.icmp_signed("==", kind, WORD(id(torch.Tensor))), i, plain)

    build.position_at_end(plain)
    tensor = build.add(thing, WORD(tensor_at))
    layout, *others = (loop.ask(f, tensor, narrow=True) for f in facts)
    look = kind
    for fact in others:
        look = loop.mixed(look, fact)
    sign = loop.negative(negative, tensor)
    dense = build.icmp_signed("==", layout, WORD(strided))
    shape = loop.block("shape")
    unless(build.and_(dense, build.icmp_signed("==", sign, NONE)), i, shape)

    build.position_at_end(shape)
    ends.append((i, shape))
    look = loop.shape(look, tensor, [dim, sizes, strides], end)
    loop.store(look, numbers, i)
    loop.store(loop.ask(data, tensor), addresses, i)
    unless(loop.none_failed(), i, taken)

    build.position_at_end(taken)
    following = build.add(i, WORD(1))
    i.add_incoming(NONE, start)
    i.add_incoming(following, taken)
    unless(build.icmp_signed("<", following, count), following, each)

    build.position_at_end(end)
    done = build.phi(WORD)
    for value, block in ends:
        done.add_incoming(value, block)
    build.ret(done)
    return loop.compiled()
