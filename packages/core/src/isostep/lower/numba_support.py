"""What generated Numba kernels are built from: typed loads and stores through addresses, and a few functions.

Every array of a kernel has an alias scope of its own in the metadata of its loads and stores. LLVM gives up on
vectorising a loop over more than four or five arrays that it cannot prove disjoint; the caller has proved it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import config, float32, int32, int64, njit, types, uint8, uint16, uint32
from numba.core import cgutils
from numba.extending import intrinsic, overload

from isostep.blocks import FORMATS, NAN

#: Options of a kernel. It is called by its address (``lower.objects``), so nothing is made that Python could call.
KERNEL = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

#: the dtype of the elements in memory, by name; halves are stored as bits
STORAGE = {
    "int64": types.int64,
    "float64": types.float64,
    "float32": types.float32,
    "bfloat16": types.uint16,
    "float16": types.uint16,
    "uint8": types.uint8,
}


def _scoped(builder: Any, instruction: Any, slot: int, slots: int) -> Any:
    if not slots:
        return instruction
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


def loader(dtype: str, slot: int = 0, slots: int = 0) -> Any:
    """``load(address, i)``: element i of the array in this slot; without slots it may be any array."""
    stored = STORAGE[dtype]

    @intrinsic
    def load(_typing: Any, address: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            pointer = _element(context, builder, stored, *args)
            return _scoped(builder, builder.load(pointer), slot, slots)

        return stored(types.int64, types.int64), codegen

    return load


def storer(dtype: str, slot: int = 0, slots: int = 0) -> Any:
    """``store(address, i, x)``: element i of the array in this slot becomes x; without slots it may be any array."""
    stored = STORAGE[dtype]

    @intrinsic
    def store(_typing: Any, address: Any, index: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            pointer = _element(context, builder, stored, args[0], args[1])
            _scoped(builder, builder.store(args[2], pointer), slot, slots)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, stored), codegen

    return store


def room(count: int) -> Any:
    """``room()``: the address of so many float32, which are this call's own until it returns."""

    @intrinsic
    def own(_typing: Any) -> Any:
        def codegen(_context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
            made = cgutils.alloca_once(builder, ir.ArrayType(ir.FloatType(), count))
            return builder.ptrtoint(made, ir.IntType(64))

        return types.int64(), codegen

    return own


@intrinsic
def fetch(_typing: Any, address: Any) -> Any:
    """Ask for the cache line at this address, to be there when it is needed; any address will do."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pointer, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        # to read, kept in all levels, data
        builder.call(function, [builder.inttoptr(args[0], pointer), flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


#: of the tables that a kernel is given: loads of whole numbers and of float64, stores of float64
word, number, put = loader("int64"), loader("float64"), storer("float64")


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


_MOST_BFLOAT16 = np.float32(float.fromhex("0x1.fep127"))


# Halves to float32 and back, ties to even, with integer arithmetic and selects only: it vectorises on every
# processor, and needs no runtime library. Where the processor converts float16 itself, that is three times as fast
# (bfloat16 it converts too, but takes denormals for zero). Numba adds two uint32 as 64 bits, hence the conversions of
# sums: lanes of 32 bits are twice as many.


@njit
def widen_bfloat16(h: Any) -> Any:
    """float32 from the bits of a bfloat16: exact."""
    return _float(uint32(h) << uint32(16))


@njit
def narrow_bfloat16(x: Any) -> Any:
    """The bits of the bfloat16 nearest to a float32."""
    b = _bits(x)
    half = uint32(uint32(0x7FFF) + ((b >> uint32(16)) & uint32(1)))
    rounded = uint32(b + half) >> uint32(16)
    return uint16((b >> uint32(16)) | uint32(0x40)) if x != x else uint16(rounded)


@njit
def widened_float16(h: Any) -> Any:
    """float32 from the bits of a float16: exact, subnormals included."""
    sign = uint32((uint32(h) & uint32(0x8000)) << uint32(16))
    magnitude = uint32((uint32(h) & uint32(0x7FFF)) << uint32(13))
    scaled = _bits(_float(magnitude) * _float(uint32(0x77800000)))  # times 2**112
    special = uint32(magnitude | uint32(0x7F800000))
    return _float((special if magnitude >= uint32(0x0F800000) else scaled) | sign)


@njit
def narrowed_float16(x: Any) -> Any:
    """The bits of the float16 nearest to a float32; above 65519 infinity."""
    b = _bits(x)
    sign = (b >> uint32(16)) & uint32(0x8000)
    a = b & uint32(0x7FFFFFFF)
    half = uint32(uint32(0xC8000FFF) + ((a >> uint32(13)) & uint32(1)))
    normal = uint32(a + half) >> uint32(13)
    subnormal = uint32(_bits(_float(a) + float32(0.5)) - uint32(0x3F000000))  # rounded at 2**-24
    small = subnormal if a < uint32(0x38800000) else normal
    finite = small if a < uint32(0x477FF000) else uint32(0x7C00)
    return uint16((uint32(0x7E00) if x != x else finite) | sign)


@intrinsic
def converted_to_float32(_typing: Any, h: Any) -> Any:
    """The same by the processor."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def converted_to_float16(_typing: Any, x: Any) -> Any:
    """The same by the processor."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), codegen


#: Whether what is compiled here may use the processor's own conversions, which F16C has.
F16C = (
    binding.get_host_cpu_features().get("f16c", False)
    and config.CPU_NAME is None
    and config.CPU_FEATURES is None
)
widen_float16 = converted_to_float32 if F16C else widened_float16
narrow_float16 = converted_to_float16 if F16C else narrowed_float16


# Stochastic rounding; the noise and what is done with it are ``isostep.rounding``'s, see there.


@njit
def mix(x: Any) -> Any:
    """A bijection of uint32 that leaves no trace of the order of its arguments."""
    x = uint32(uint32(x ^ (x >> uint32(16))) * uint32(0x7FEB352D))
    x = uint32(uint32(x ^ (x >> uint32(15))) * uint32(0x846CA68B))
    return uint32(x ^ (x >> uint32(16)))


@njit
def key_of(seed: Any, step: Any, parameter: Any) -> Any:
    """The key of one parameter in one step."""
    key = mix(uint32(int64(seed)))
    key = mix(uint32(key + uint32(int64(step))))
    return mix(uint32(key + uint32(parameter)))


@njit
def hash_of(key: Any, i: Any) -> Any:
    """What the noise of all arrays at element i is made of."""
    return mix(uint32(uint32(i) + key))


@njit
def noise_of(hashed: Any, key: Any, pair: Any, i: Any) -> Any:
    """The noise of two arrays at element i: the first one's in the lower half."""
    own = uint32(mix(uint32(key + uint32(pair))) + uint32(i >> 32))
    return mix(uint32(hashed + own))


@njit
def round_bfloat16(x: Any, noise: Any) -> Any:
    """The bits of a bfloat16 next to a float32: the noise added to what is dropped, and that cut off."""
    b = _bits(x)
    rounded = uint32(b + (noise & uint32(0xFFFF))) >> uint32(16)
    return uint16(rounded) if np.abs(x) <= _MOST_BFLOAT16 else narrow_bfloat16(x)


@njit
def round_float16(x: Any, noise: Any) -> Any:
    """The bits of a float16 next to a float32; below its normal numbers the spacing is 2**-24 everywhere."""
    noise = uint32(noise & uint32(0x1FFF))
    normal = _float(uint32(_bits(x) + noise) & uint32(0xFFFFE000))
    units = np.abs(x) * float32(2.0**24)
    units = units if units < float32(1024.0) else float32(0.0)
    whole = np.floor(units)
    part = np.floor((units - whole) * float32(8192.0))
    up = float32(1.0) if part > float32(int32(uint32(8191) - noise)) else float32(0.0)
    small = np.copysign((whole + up) * float32(2.0**-24), x)
    rounded = small if np.abs(x) < float32(2.0**-14) else normal
    return narrow_float16(rounded if np.abs(x) <= float32(65504.0) else x)


# State in blocks of eight bits; what is done is ``isostep.blocks``'s, see there.


@njit
def size_of(x: Any) -> Any:
    """The bits of a float32's size, which have the order of the numbers; 0 for what is not finite."""
    size = int32(_bits(x) & uint32(0x7FFFFFFF))
    return size if size < int32(0x7F800000) else int32(0)


@njit
def power_of(scale: Any) -> Any:
    """The power of two that a block's byte stands for."""
    return _float(uint32(scale) << uint32(23))


@njit
def back_of(scale: Any) -> Any:
    """One by it."""
    return _float(uint32(uint32(254) - uint32(scale)) << uint32(23))


def _form(kind: str) -> tuple[Any, Any, Any]:
    """``scale(top)``, ``pack(x, back, noise)`` and ``unpack(code, power)`` of a format."""
    form = FORMATS[kind]
    top, least, infinity, nan = form.top, form.least + form.top, form.infinity, NAN
    dropped, zero, step = 23 - form.mantissa, form.zero, 1 << form.mantissa
    smallest = np.float32(form.small)

    @njit
    def scale(largest: Any) -> Any:
        above = int32(1) if (largest & int32(0x7FFFFF)) > int32(0x600000) else int32(0)
        place = int32((largest >> int32(23)) + above)
        return uint8((place if place > int32(least) else int32(least)) - int32(top))

    @njit
    def pack(x: Any, back: Any, noise: Any) -> Any:
        bits, y = _bits(x), np.abs(x) * back
        size, small = uint32(bits & uint32(0x7FFFFFFF)), y < smallest
        lifted = _bits(y + (smallest if small else float32(0)))
        own = uint32(noise << uint32(dropped - 16))
        code = uint32(lifted + (own & uint32(0xFFFF << (dropped - 16)))) >> uint32(dropped)
        code = uint32(code - uint32(uint32(zero + step) if small else uint32(zero)))
        code = uint32(code if code < uint32(infinity) else uint32(infinity))
        one = uint32(size if size < uint32(1) else uint32(1))
        code = uint32(code if code > one else one)
        if infinity != nan:
            code = uint32(nan if size > uint32(0x7F800000) else code)
        return uint8(uint32(code | uint32(uint32(bits >> uint32(24)) & uint32(0x80))))

    @njit
    def unpack(code: Any, power: Any) -> Any:
        size = uint32(uint32(code) & uint32(0x7F))
        small = size < uint32(step)
        whole = uint32(size + (uint32(zero + step) if small else uint32(zero)))
        value = _float(whole << uint32(dropped)) - (smallest if small else float32(0))
        special = float32(np.nan)
        if infinity != nan:
            special = float32(np.inf) if size == uint32(infinity) else special
        value = value * power if size < uint32(infinity) else special
        return _float(_bits(value) | uint32((uint32(code) & uint32(0x80)) << uint32(24)))

    return scale, pack, unpack


scale_mxfp8_e4m3, pack_mxfp8_e4m3, unpack_mxfp8_e4m3 = _form("mxfp8_e4m3")
scale_mxfp8_e5m2, pack_mxfp8_e5m2, unpack_mxfp8_e5m2 = _form("mxfp8_e5m2")


@njit(fastmath={"reassoc", "nsz"})
def accumulate(total: Any, x: Any) -> Any:
    """``total + x``, which may be taken in lanes: the order is fixed by the loop's length, not by threads."""
    return total + np.float64(x)


@njit(fastmath={"reassoc", "nsz"})
def added(total: Any, x: Any) -> Any:
    """``total + x`` in their own dtype, likewise: for short runs, of which ``accumulate`` takes the sums."""
    return total + x


@njit
def sign(x: Any, one: Any) -> Any:
    """-1, 0 or 1 in the dtype of ``one``; 0 at both zeros and NaN at NaN."""
    return one if x > 0 else (-one if x < 0 else x - x)


@njit
def by_sign(s: Any, up: Any, down: Any, other: Any) -> Any:
    """``up`` where s is above 0, ``down`` where it is below, else the other."""
    return up if s > 0 else (down if s < 0 else other)


@njit
def maximum(x: Any, y: Any) -> Any:
    """The larger; NaN if either is."""
    return x if (x >= y) | (x != x) else y


@njit
def minimum(x: Any, y: Any) -> Any:
    """The smaller; NaN if either is."""
    return x if (x <= y) | (x != x) else y


# The largest of many. Whole numbers in the order of floats, NaN above all others: of them a loop's largest is found in
# lanes, of floats it is not, since it would depend on the order where there is NaN or a zero of each sign.


@njit
def place_float32(x: Any) -> Any:
    """A whole number for a float, larger for a larger one; the largest for NaN."""
    b = int32(_bits(x))
    own = b ^ ((b >> int32(31)) & int32(0x7FFFFFFF))
    return int32(0x7FFFFFFF) if x != x else int32(own)


@njit
def place_float64(x: Any) -> Any:
    """The same of float64."""
    b = _bits64(x)
    own = b ^ ((b >> 63) & 0x7FFFFFFFFFFFFFFF)
    return int64(0x7FFFFFFFFFFFFFFF) if x != x else int64(own)


@njit
def at_place_float32(k: Any) -> Any:
    """The float of a place."""
    return _float(uint32(k ^ ((k >> int32(31)) & int32(0x7FFFFFFF))))


@njit
def at_place_float64(k: Any) -> Any:
    """The same of float64."""
    return _float64(k ^ ((k >> 63) & 0x7FFFFFFFFFFFFFFF))


# The exponential. The library's is a call per element, which stops a loop from being vectorised; this is arithmetic.


@intrinsic
def _bits64(_typing: Any, x: Any) -> Any:
    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), codegen


@intrinsic
def _float64(_typing: Any, x: Any) -> Any:
    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


#: Added to a small float64 it rounds it to a whole number, which then stands in the lowest bits.
_WHOLE = 1.5 * 2.0**52
#: ln 2 in two parts: whole multiples of the first are exact up to 2**21.
_LN2 = (float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33"))


@njit
def _power_of_two(n: Any) -> Any:
    """2.0**n for a whole float64 n in [-1022, 1023]."""
    return _float64((_bits64(n + _WHOLE) + 1023) << 52)


#: The same of float32: ln 2 in a part of nine bits, so that its multiples are exact, and the rest.
_WHOLE32 = np.float32(1.5 * 2.0**23)
_LN2_32 = (np.float32(0.693359375), np.float32(-2.12194440e-4))


@njit
def _power_of_two32(n: Any) -> Any:
    """2.0**n for an int32 n in [-126, 127]."""
    return _float(uint32(n + int32(127)) << uint32(23))


@njit
def _exp32(x: Any) -> Any:
    """e**r with |r| <= ln(2) / 2 as Taylor's polynomial of degree 7 (6e-9), times 2**n in two factors.

    All in float32: a vector has twice as many lanes as in float64. ``lost`` is what r lost in rounding; large terms
    are added last. Comparisons leave NaN as it is.
    """
    y = float32(-105.0) if x < float32(-105.0) else x
    y = float32(90.0) if y > float32(90.0) else y
    whole = y * float32(1.4426950408889634) + _WHOLE32
    n = whole - _WHOLE32
    high, low = y - n * _LN2_32[0], n * _LN2_32[1]
    r = high - low
    lost = (high - r) - low
    p = float32(1.0 / 720.0) + r * float32(1.0 / 5040.0)
    p = float32(1.0 / 24.0) + r * (float32(1.0 / 120.0) + r * p)
    p = float32(0.5) + r * (float32(1.0 / 6.0) + r * p)
    p = float32(1.0) + (r + (r * r * p + lost))
    k = int32(_bits(whole) - uint32(0x4B400000))  # the bits of _WHOLE32 taken off
    half = k >> int32(1)
    return p * _power_of_two32(half) * _power_of_two32(int32(k - half))


@njit
def _exp64(x: Any) -> Any:
    """The same with degree 13 (4e-18) and ln 2 in two parts; 2**n in two factors, so that denormals round once."""
    y = x if x > -746.0 else -746.0
    y = y if y < 710.0 else 710.0
    n = (y * 1.4426950408889634 + _WHOLE) - _WHOLE
    r = (y - n * _LN2[0]) - n * _LN2[1]
    p = 1.0 / 479001600.0 + r * (1.0 / 6227020800.0)
    p = 1.0 / 3628800.0 + r * (1.0 / 39916800.0 + r * p)
    p = 1.0 / 40320.0 + r * (1.0 / 362880.0 + r * p)
    p = 1.0 / 720.0 + r * (1.0 / 5040.0 + r * p)
    p = 1.0 / 24.0 + r * (1.0 / 120.0 + r * p)
    p = 0.5 + r * (1.0 / 6.0 + r * p)
    p = 1.0 + (r + r * r * p)
    half = (0.5 * n + _WHOLE) - _WHOLE
    return x if x != x else p * _power_of_two(half) * _power_of_two(n - half)


def exp(x: Any) -> Any:
    """e**x within an ulp; infinity above, zero below, NaN at NaN, denormals as they are. NumPy's where not compiled."""
    return np.exp(x)


#: The bits of the root of 1/2: above it, up to twice as much, is 2**0 times something.
_HALF_ROOT = 0x3FE6A09E667F3BCD
#: What two thirds of float64's bias add to a third of an exponent, less what makes the guess as often too small.
_GUESS = 682 * 2**20 - 35_500


@njit(error_model="numpy")
def _log1p32(x: Any) -> Any:
    """log(1 + x) = n ln 2 + 2 artanh(f / (2 + f)), where 1 + x = 2**n (1 + f) with f within [-0.3, 0.42]; in float64.

    Where n is 0, f is x itself, so that nothing of a small x is lost. The series ends at 3e-12.
    """
    w = np.float64(x)
    u = 1.0 + w
    n = (_bits64(u) - _HALF_ROOT) >> 52
    f = w if n == 0 else _float64(_bits64(u) - (n << 52)) - 1.0
    s = f / (2.0 + f)
    z = s * s
    p = 1.0 / 9.0 + z * (1.0 / 11.0 + z * (1.0 / 13.0 + z * (1.0 / 15.0)))
    p = 1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * p))
    r = 2.0 * s + 2.0 * s * z * p
    found = r if n == 0 else n * 0.6931471805599453 + r
    found = found if u > 0.0 else (-np.inf if u == 0.0 else np.nan)
    return float32(found if u < np.inf else w)


@njit(error_model="numpy")
def _cbrt32(x: Any) -> Any:
    """Two of Halley's steps, in float64, from a guess with a third of the exponent, which is off by 3 % at most."""
    w = np.float64(x)
    a = np.abs(w)
    t = _float64((((_bits64(a) >> 32) * 0x55555556 >> 32) + _GUESS) << 32)
    c = t * t * t
    t = t * (c + 2.0 * a) / (2.0 * c + a)
    c = t * t * t
    t = t * (c + 2.0 * a) / (2.0 * c + a)
    t = t if (a > 0.0) & (a < np.inf) else a
    return float32(np.copysign(t, w))


def log1p(x: Any) -> Any:
    """log(1 + x); of float32 without a library call. NumPy's where not compiled."""
    return np.log1p(x)


def cbrt(x: Any) -> Any:
    """The cube root; of float32 without a library call. NumPy's where not compiled."""
    return np.cbrt(x)


def _compiled_as(function: Any, single: Any, double: Any) -> None:
    """In compiled code ``function`` is ``single`` of float32 and ``double`` of float64."""

    @overload(function)
    def choose(x: Any) -> Any:
        own = single if x == types.float32 else double

        def call(x: Any) -> Any:
            return own(x)

        return call


_compiled_as(exp, _exp32, _exp64)
_compiled_as(log1p, _log1p32, np.log1p)
_compiled_as(cbrt, _cbrt32, np.cbrt)


@njit(error_model="numpy")
def _pow32(x: Any, y: Any) -> Any:
    """|x|**y as e**(y log |x|), in float64: log as in ``_log1p32``. Then C's rules for zero, infinity and signs."""
    w, e = np.float64(x), np.float64(y)
    u = np.abs(w)
    n = (_bits64(u) - _HALF_ROOT) >> 52
    f = _float64(_bits64(u) - (n << 52)) - 1.0
    s = f / (2.0 + f)
    z = s * s
    p = 1.0 / 9.0 + z * (1.0 / 11.0 + z * (1.0 / 13.0 + z * (1.0 / 15.0)))
    p = 1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * p))
    log = n * 0.6931471805599453 + (2.0 * s + 2.0 * s * z * p)
    log = log if (u > 0.0) & (u < np.inf) else (-np.inf if u == 0.0 else u)
    found = _exp64(e * log)
    whole, odd = np.floor(e) == e, np.floor(0.5 * e) != 0.5 * e
    found = found if (w >= 0.0) | whole | (u == 0.0) | (u == np.inf) else np.nan
    found = np.copysign(found, w) if whole & odd else found
    one = (e == 0.0) | (w == 1.0) | ((u == 1.0) & (np.abs(e) == np.inf))
    return float32(1.0 if one else found)


def _raised(x: Any, y: Any) -> Any:
    """x**y; of float32 without a library call. Python's where not compiled."""
    return x**y


@njit(error_model="numpy")
def _pow64(x: Any, y: Any) -> Any:
    return x**y


@overload(_raised)
def _choose_raised(x: Any, y: Any) -> Any:
    own = _pow32 if x == types.float32 and y == types.float32 else _pow64

    def call(x: Any, y: Any) -> Any:
        return own(x, y)

    return call


@njit(error_model="numpy")
def power(x: Any, y: Any) -> Any:
    """x**y; where y is 1 or 1/2, and of float32, without the C library's function, which takes one number at a time.

    y is the same for all elements, so that the loop over them is compiled twice: with this condition and without.
    """
    if (y == 1) | (y == 0.5):
        root = np.sqrt(np.abs(x) if (x == 0) | (x == -np.inf) else x)
        found = x if y == 1 else root
    else:
        found = _raised(x, y)
    return found
