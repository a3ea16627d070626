"""What generated Numba kernels are built from: typed loads and stores through addresses, and a few functions.

Every array of a kernel has an alias scope of its own in the metadata of its loads and stores. LLVM gives up on
vectorising a loop over more than four or five arrays that it cannot prove disjoint; the caller has proved it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, njit, types, uint16, uint32
from numba.extending import intrinsic

#: the dtype of the elements in memory, by name; halves are stored as bits
STORAGE = {
    "float64": types.float64,
    "float32": types.float32,
    "bfloat16": types.uint16,
    "float16": types.uint16,
}


def _scoped(builder: Any, instruction: Any, slot: int, slots: int) -> Any:
    module = builder.module
    domain = module.add_metadata(["isostep"])
    scopes = [module.add_metadata([f"array {k}", domain]) for k in range(slots)]
    instruction.set_metadata("alias.scope", module.add_metadata([scopes[slot]]))
    others = [s for k, s in enumerate(scopes) if k != slot]
    if others:
        instruction.set_metadata("noalias", module.add_metadata(others))
    return instruction


def _element(context: Any, builder: Any, dtype: Any, address: Any, index: Any) -> Any:
    base = builder.inttoptr(address, context.get_value_type(dtype).as_pointer())
    return builder.gep(base, [index])


def loader(dtype: str, slot: int, slots: int) -> Any:
    """``load(address, i)``: element i of the array in this slot."""
    stored = STORAGE[dtype]

    @intrinsic
    def load(_typing: Any, address: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            pointer = _element(context, builder, stored, *args)
            return _scoped(builder, builder.load(pointer), slot, slots)

        return stored(types.int64, types.int64), codegen

    return load


def storer(dtype: str, slot: int, slots: int) -> Any:
    """``store(address, i, x)``: element i of the array in this slot becomes x."""
    stored = STORAGE[dtype]

    @intrinsic
    def store(_typing: Any, address: Any, index: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            pointer = _element(context, builder, stored, args[0], args[1])
            _scoped(builder, builder.store(args[2], pointer), slot, slots)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, stored), codegen

    return store


@intrinsic
def _bits(_typing: Any, x: Any) -> Any:
    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@intrinsic
def _float(_typing: Any, x: Any) -> Any:
    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


# Halves to float32 and back, ties to even, with integer arithmetic and selects only: it vectorises on every
# processor, and needs neither F16C nor a runtime library.


@njit
def widen_bfloat16(h: Any) -> Any:
    """float32 from the bits of a bfloat16: exact."""
    return _float(uint32(h) << uint32(16))


@njit
def narrow_bfloat16(x: Any) -> Any:
    """The bits of the bfloat16 nearest to a float32."""
    b = _bits(x)
    rounded = (b + uint32(0x7FFF) + ((b >> uint32(16)) & uint32(1))) >> uint32(16)
    return uint16((b >> uint32(16)) | uint32(0x40)) if x != x else uint16(rounded)


@njit
def widen_float16(h: Any) -> Any:
    """float32 from the bits of a float16: exact, subnormals included."""
    sign = (uint32(h) & uint32(0x8000)) << uint32(16)
    magnitude = (uint32(h) & uint32(0x7FFF)) << uint32(13)
    scaled = _bits(_float(magnitude) * _float(uint32(0x77800000)))  # times 2**112
    special = magnitude | uint32(0x7F800000)
    return _float((special if magnitude >= uint32(0x0F800000) else scaled) | sign)


@njit
def narrow_float16(x: Any) -> Any:
    """The bits of the float16 nearest to a float32; above 65519 infinity."""
    b = _bits(x)
    sign = (b >> uint32(16)) & uint32(0x8000)
    a = b & uint32(0x7FFFFFFF)
    normal = (a + uint32(0xC8000FFF) + ((a >> uint32(13)) & uint32(1))) >> uint32(13)
    subnormal = _bits(_float(a) + float32(0.5)) - uint32(0x3F000000)  # the FPU rounds at 2**-24
    small = subnormal if a < uint32(0x38800000) else normal
    finite = small if a < uint32(0x477FF000) else uint32(0x7C00)
    return uint16((uint32(0x7E00) if x != x else finite) | sign)


@njit(fastmath={"reassoc", "nsz"})
def accumulate(total: Any, x: Any) -> Any:
    """``total + x``, which may be taken in lanes: the order is fixed by the loop's length, not by threads."""
    return total + np.float64(x)


@njit
def sign(x: Any, one: Any) -> Any:
    """-1, 0 or 1 in the dtype of ``one``; 0 at both zeros and NaN at NaN."""
    return one if x > 0 else (-one if x < 0 else x - x)


@njit
def maximum(x: Any, y: Any) -> Any:
    """The larger; NaN if either is."""
    return x if (x >= y) | (x != x) else y


@njit
def minimum(x: Any, y: Any) -> Any:
    """The smaller; NaN if either is."""
    return x if (x <= y) | (x != x) else y
