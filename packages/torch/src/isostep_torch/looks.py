"""What a thousand gradients look like, without a line of Python for each: a number and an address for every tensor.

Gradients are other tensors in each step. What a plan of kernels depends on is their type, dtype, device, layout,
shape and strides; a compiled loop mixes all of these into one number of 64 bits, its *look*, asking torch's C functions
as ``isostep_torch.addresses`` does. Tensors that look the same are taken alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL, PYFUNCTYPE, c_int64, c_void_p, cast, py_object, pythonapi
from functools import cache
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from isostep.lower.plan import Looks
from isostep_torch.addresses import FACTOR, FOLD, place_of, shim

#: What a look is mixed from beside the type, the sizes and the strides: C functions that give a 32-bit number.
FACTS = ("layout", "dtype", "device_type", "device_index")
#: ``at::native::is_neg``, as compilers of Linux and macOS name it: elements whose sign is not that in memory.
NEGATIVE = "_ZN2at6native6is_negERKNS_6TensorE"


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
    tensor, kind = place_of(attrgetter("_cdata")), place_of(lambda probe: id(type(probe)))
    functions = shim("data_ptr", "dim", "sizes", "strides", *FACTS)
    library = CDLL(torch._C.__file__)
    negative = getattr(library, NEGATIVE, None)
    if negative is None or tensor is None or kind is None or functions is None:
        return None
    from isostep.lower.objects import compiled

    strided = library.aoti_torch_layout_strided()
    item, negative = (cast(f, c_void_p).value or 0 for f in (pythonapi.PyList_GetItem, negative))
    made = compiled(_text(item, tensor, kind, strided, negative, functions), "looks")
    return PYFUNCTYPE(c_int64, py_object, *[c_int64] * 3)(made)  # which keeps the GIL


def _text(
    item: int, tensor_at: int, kind_at: int, strided: int, negative: int, functions: Sequence[int]
) -> str:
    """The loop in LLVM's language."""
    from llvmlite import ir

    word, half, byte = ir.IntType(64), ir.IntType(32), ir.IntType(8)
    module = ir.Module("looks")
    function = ir.Function(module, ir.FunctionType(word, [word] * 4), "looks")
    tensors, count, numbers, addresses = function.args
    names = ("start", "each", "plain", "shape", "axes", "axis", "last", "taken", "end")
    start, each, plain, shape, axes, axis, last, taken, end = (
        function.append_basic_block(n) for n in names
    )
    ends = []  # (tensors done, from which block)
    build = ir.IRBuilder(start)
    get = build.inttoptr(word(item), ir.FunctionType(word, [word, word]).as_pointer())
    data, dim, sizes, strides, *facts = functions
    wide, narrow, errors = build.alloca(word), build.alloca(half), build.alloca(half)
    build.store(half(0), errors)

    def load(base: ir.Value, offset: ir.Value | int) -> ir.Value:
        at = build.add(base, word(offset) if isinstance(offset, int) else offset)
        return build.load(build.inttoptr(at, word.as_pointer()))

    def store(value: ir.Value, base: ir.Value, index: ir.Value) -> None:
        at = build.add(base, build.mul(index, word(8)))
        build.store(value, build.inttoptr(at, word.as_pointer()))

    def ask(function: int, tensor: ir.Value, result: ir.Value) -> ir.Value:
        """What torch's function says; ``errors`` gathers whether all could."""
        kind = ir.FunctionType(half, [word, result.type]).as_pointer()
        error = build.call(build.inttoptr(word(function), kind), [tensor, result])
        build.store(build.or_(build.load(errors), error), errors)
        return build.load(result)

    def none_failed() -> ir.Value:
        return build.icmp_signed("==", build.load(errors), half(0))

    def mixed(number: ir.Value, fact: ir.Value) -> ir.Value:
        number = build.mul(build.xor(number, fact), word(FACTOR))
        return build.xor(number, build.lshr(number, word(FOLD)))

    def unless(good: ir.Value, done: ir.Value, on: ir.Block) -> None:
        ends.append((done, build.block))
        build.cbranch(good, on, end)

    unless(build.icmp_signed("<", word(0), count), word(0), each)

    build.position_at_end(each)
    i = build.phi(word, "i")
    i.add_incoming(word(0), start)
    thing = build.call(get, [tensors, i])
    kind = load(thing, kind_at)
    unless(build.icmp_signed("==", kind, word(id(torch.Tensor))), i, plain)

    build.position_at_end(plain)
    tensor = build.add(thing, word(tensor_at))
    layout, *others = (ask(f, tensor, narrow) for f in facts)
    look = kind
    for fact in others:
        look = mixed(look, build.sext(fact, word))
    is_negative = build.inttoptr(word(negative), ir.FunctionType(byte, [word]).as_pointer())
    sign = build.and_(build.call(is_negative, [tensor]), byte(1))
    as_it_is = build.and_(
        build.icmp_signed("==", layout, half(strided)), build.icmp_signed("==", sign, byte(0))
    )
    unless(as_it_is, i, shape)

    build.position_at_end(shape)
    rank = ask(dim, tensor, wide)
    lengths, steps = ask(sizes, tensor, wide), ask(strides, tensor, wide)
    look = mixed(look, rank)
    unless(none_failed(), i, axes)  # else there are no sizes to be read

    build.position_at_end(axes)
    build.cbranch(build.icmp_signed("<", word(0), rank), axis, last)

    build.position_at_end(axis)
    k, so_far = build.phi(word), build.phi(word)
    at = build.mul(k, word(8))
    further = mixed(mixed(so_far, load(lengths, at)), load(steps, at))
    k_next = build.add(k, word(1))
    for phi, first, then in ((k, word(0), k_next), (so_far, look, further)):
        phi.add_incoming(first, axes)
        phi.add_incoming(then, axis)
    build.cbranch(build.icmp_signed("<", k_next, rank), axis, last)

    build.position_at_end(last)
    number = build.phi(word)
    number.add_incoming(look, axes)
    number.add_incoming(further, axis)
    store(number, numbers, i)
    store(ask(data, tensor, wide), addresses, i)
    unless(none_failed(), i, taken)

    build.position_at_end(taken)
    i_next = build.add(i, word(1))
    i.add_incoming(i_next, taken)
    unless(build.icmp_signed("<", i_next, count), i_next, each)

    build.position_at_end(end)
    done = build.phi(word)
    for value, block in ends:
        done.add_incoming(value, block)
    build.ret(done)
    return str(module)
