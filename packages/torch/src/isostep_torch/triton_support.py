"""What generated Triton kernels call: arithmetic as the contract wants it, where Triton's own differs.

Triton's float32 division and square root are approximate unless told otherwise, and its elementary functions of
float32 are those of a library that flushes denormals. So division and roots are the correctly rounded ones, and an
elementary function is computed in float64 and rounded once (16 to 70 instructions: the passes wait for memory).
``triton_interpreted`` offers the same names where Triton's interpreter runs the same kernels on the CPU.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (Triton compiles these functions; an annotation would be a type of its own.)

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

#: Arguments that are no reason to compile a kernel again: integers, and where tables begin.
INTEGERS = ["count", "arrays", "width", "lead", "columns", "values", "kinds"]
TABLES = [
    "table", "facts", "chunks", "scalars", "shared", "group", "group_new", "partials", "sums", "totals", "unit_sums",
    "spans", "amp", "times", "hypers", "seen",
]  # fmt: skip
#: How a generated module marks a function that the host launches, and one that those call.
kernel = triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=TABLES)
device = triton.jit


@device
def item(table, index):
    """One number of a table."""
    return tl.load(table + index)


@device
def pointer(table, index, dtype: tl.constexpr, WHOLE: tl.constexpr):
    """An address from a table as a pointer; with WHOLE it is known to be a multiple of 16."""
    found = tl.load(table + index).to(tl.pointer_type(dtype))
    if WHOLE:  # what makes loads and stores 16 bytes wide
        found = tl.multiple_of(found, 16)
    return found


@device
def real(table, index):
    """A number of float64 whose bits a table of int64 holds."""
    return tl.load(table + index).to(tl.float64, bitcast=True)


@device
def below(i, n, WHOLE: tl.constexpr):
    """Whether indices are below a length; with WHOLE it is known that all are."""
    if WHOLE:
        found = tl.full(i.shape, True, tl.int1)
    else:
        found = i < n
    return found


@device
def widen(x):
    """Half precision as float32, exactly."""
    return x.to(tl.float32)


@device
def narrow(x, dtype: tl.constexpr):
    """A number as half precision, to nearest, ties to even."""
    if dtype == tl.bfloat16:  # of a float64 as of what float32 has for it
        x = x.to(tl.float32)
    return x.to(dtype)


@device
def mix(x):
    """The bijection of ``isostep.rounding`` on uint32."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@device
def key_of(seed, step, parameter):
    """The key of one parameter in one step."""
    key = mix(seed.to(tl.int64).to(tl.uint32))
    key = mix(key + step.to(tl.int64).to(tl.uint32))
    return mix(key + parameter.to(tl.uint32))


@device
def hash_of(key, i):
    """What the noise of all arrays at element i is made of."""
    return mix(i.to(tl.uint32) + key)


@device
def noise_of(hashed, key, PAIR: tl.constexpr, i):
    """The noise of two arrays at element i: the first one's in the lower half."""
    return mix(hashed + mix(key + PAIR) + (i >> 32).to(tl.uint32))


@device
def rounded(x, noise, dtype: tl.constexpr):
    """What float32 has for a number as half precision, up or down by the noise; see ``isostep.rounding``."""
    x = x.to(tl.float32)
    bits = x.to(tl.uint32, bitcast=True)
    if dtype == tl.bfloat16:
        near = ((bits + (noise & 0xFFFF)) & 0xFFFF0000).to(tl.float32, bitcast=True)
        near = tl.where(tl.abs(x) <= 3.3895313892515355e38, near, x)
    else:
        noise = noise & 0x1FFF
        near = ((bits + noise) & 0xFFFFE000).to(tl.float32, bitcast=True)
        units = tl.where(tl.abs(x) < 0.00006103515625, tl.abs(x) * 16777216.0, 0.0)  # of 2**-24
        whole = tl.floor(units)
        up = ((units - whole) * 8192.0).to(tl.int32) > 8191 - noise.to(tl.int32)
        small = ((whole + up.to(tl.float32)) * 5.9604644775390625e-08).to(tl.uint32, bitcast=True)
        small = (small | (bits & 0x80000000)).to(tl.float32, bitcast=True)
        near = tl.where(tl.abs(x) < 0.00006103515625, small, near)
        near = tl.where(tl.abs(x) <= 65504.0, near, x)
    return narrow(near, dtype)


@device
def spread(scales, BLOCK: tl.constexpr):
    """What is one for 32 neighbours (``isostep.blocks``), for each of them."""
    each = tl.broadcast_to(tl.expand_dims(scales, 1), (BLOCK // 32, 32))
    return tl.reshape(each, (BLOCK,))


@device
def scale_of(x, inside, MANTISSA: tl.constexpr, BLOCK: tl.constexpr):
    """The scales of numbers in blocks, as bytes."""
    TOP: tl.constexpr = 8 if MANTISSA == 3 else 15
    LEAST: tl.constexpr = 10 if MANTISSA == 3 else 17
    size = x.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF
    size = tl.where(both(inside, size < 0x7F800000), size, 0)
    top = largest(tl.reshape(size, (BLOCK // 32, 32)), 1)
    place = (top >> 23) + ((top & 0x7FFFFF) > 0x600000).to(tl.int32)
    return (tl.maximum(place, LEAST + TOP) - TOP).to(tl.uint8)


@device
def packed(x, scales, noise, MANTISSA: tl.constexpr, BLOCK: tl.constexpr):
    """Numbers in blocks of these scales, as bytes.

    A float of a byte is the upper part of a float32 of the same exponent, which is smaller by a power of two; below the
    normal numbers too, where the product rounds as ``isostep.blocks`` does.
    """
    SMALLER: tl.constexpr = 2.0**-120 if MANTISSA == 3 else 2.0**-112
    INFINITE: tl.constexpr = 0x7F if MANTISSA == 3 else 0x7C
    x = x.to(tl.float32)
    bits = x.to(tl.uint32, bitcast=True)
    size = bits & 0x7FFFFFFF
    back = ((254 - scales.to(tl.int32)) << 23).to(tl.float32, bitcast=True)
    small = (tl.abs(x) * spread(back, BLOCK)) * SMALLER
    code = small.to(tl.uint32, bitcast=True) + ((noise & 0xFFFF) << (7 - MANTISSA))
    code = tl.minimum(code >> (23 - MANTISSA), INFINITE)
    if MANTISSA == 2:
        code = tl.where(size > 0x7F800000, 0x7F, code)
    code = tl.maximum(code, tl.minimum(size, 1))  # what is not zero stays so
    return (code | ((bits >> 24) & 0x80)).to(tl.uint8)


@device
def unpacked(codes, scales, MANTISSA: tl.constexpr, BLOCK: tl.constexpr):
    """The numbers again, in float32."""
    power = (scales.to(tl.int32) << 23).to(tl.float32, bitcast=True)
    codes = codes.to(tl.int32)
    if MANTISSA == 2:  # the upper half of a float16
        x = widen((codes << 8).to(tl.int16).to(tl.float16, bitcast=True))
    else:
        bits = ((codes & 0x7F) << 20) | ((codes & 0x80) << 24)
        x = bits.to(tl.float32, bitcast=True) * 2.0**120
        x = tl.where((codes & 0x7F) == 0x7F, float("nan"), x)
    return x * spread(power, BLOCK)


@device
def _add(x, y):
    return x + y


@device
def total(x, axis: tl.constexpr):
    """The sum along an axis, as a tree whose shape is that of the block."""
    return tl.reduce(x, axis, _add)


@device
def kept_total(x, axis: tl.constexpr):
    """The same, the axis kept."""
    return tl.reduce(x, axis, _add, keep_dims=True)


@device
def largest(x, axis: tl.constexpr):
    """The largest along an axis; NaN if any is."""
    return tl.reduce(x, axis, maximum)


@device
def kept_largest(x, axis: tl.constexpr):
    """The same, the axis kept."""
    return tl.reduce(x, axis, maximum, keep_dims=True)


@device
def quotient(at, lane, inner, BLOCK: tl.constexpr):
    """``(at + lane) // inner`` for lanes below BLOCK, without a division of 64 bits for each."""
    into = at % inner
    near = tl.minimum(inner, 2 * BLOCK).to(tl.int32)
    often = (into.to(tl.int32) + lane) // near
    once = (into + lane >= inner).to(tl.int32)
    return at // inner + tl.where(inner < 2 * BLOCK, often, once)


@device
def unit_of(at, lane, inner, units, BLOCK: tl.constexpr):
    """``(at + lane) // inner % units`` for lanes below BLOCK, likewise."""
    unit = quotient(at, lane, inner, BLOCK)
    first = at // inner
    unit = unit - (first - first % units)
    near = tl.minimum(units, 2 * BLOCK).to(tl.int32)
    wrapped = (unit.to(tl.int32) % near).to(tl.int64)
    return tl.where(units < 2 * BLOCK, wrapped, tl.where(unit >= units, unit - units, unit))


@device
def both(x, y):
    """Whether x and y."""
    return x & y


@device
def either(x, y):
    """Whether x or y."""
    return x | y


@device
def div(x, y):
    """Division, correctly rounded."""
    if x.dtype == tl.float32:
        return tl.div_rn(x, y)
    return x / y


@device
def mod(x, y):
    """What is left of whole multiples of y, with the sign of y as in Python; the device's has that of x."""
    rest = x % y
    return tl.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)


@device
def sqrt(x):
    """The square root, correctly rounded."""
    if x.dtype == tl.float32:
        return tl.sqrt_rn(x)
    return tl.sqrt(x)


@device
def maximum(x, y):
    """The larger one; NaN if either is."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@device
def minimum(x, y):
    """The smaller one; NaN if either is."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@device
def sign(x):
    """-1, 0 or 1; NaN of NaN, 0 of -0."""
    return tl.where(x != x, x, (x > 0).to(x.dtype) - (x < 0).to(x.dtype))


@device
def isnan(x):
    """Whether it is NaN."""
    return x != x


@device
def isfinite(x):
    """Whether it is neither infinite nor NaN."""
    return tl.abs(x) < float("inf")


@device
def floor(x):
    """The next integer below."""
    return tl.floor(x)


@device
def exp(x):
    """e**x."""
    return tl.exp(x.to(tl.float64)).to(x.dtype)


@device
def log(x):
    """The natural logarithm."""
    return tl.log(x.to(tl.float64)).to(x.dtype)


@device
def sin(x):
    """The sine."""
    return tl.sin(x.to(tl.float64)).to(x.dtype)


@device
def cos(x):
    """The cosine."""
    return tl.cos(x.to(tl.float64)).to(x.dtype)


@device
def expm1(x):
    """e**x - 1."""
    return libdevice.expm1(x.to(tl.float64)).to(x.dtype)


@device
def log1p(x):
    """log(1 + x)."""
    return libdevice.log1p(x.to(tl.float64)).to(x.dtype)


@device
def tanh(x):
    """The hyperbolic tangent."""
    return libdevice.tanh(x.to(tl.float64)).to(x.dtype)


@device
def cbrt(x):
    """The cube root."""
    return libdevice.cbrt(x.to(tl.float64)).to(x.dtype)


@device
def atan2(y, x):
    """The angle of (x, y)."""
    return libdevice.atan2(y.to(tl.float64), x.to(tl.float64)).to(y.dtype)


@device
def pow(x, y):
    """x**y with C's special cases."""
    if x.dtype == tl.float64:
        found = libdevice.pow(x, y)
    else:  # not after a return above: Triton would compile it for float64 too
        found = pow_of_float32(x, y)
    return found


@device
def pow_of_float32(x, y):
    """A tenth of the work where all elements have one exponent, 1 or 1/2: the default of most rules that have any."""
    if len(y.shape) == 0:
        if y == 1:
            found = x
        elif y == 0.5:
            found = sqrt(tl.where(either(x == 0, x == float("-inf")), tl.abs(x), x))
        else:
            found = general_pow(x, y)
    else:
        found = general_pow(x, y)
    return found


@device
def general_pow(x, y):
    """float64 leaves 29 bits to spare, so that the plain formula is exact enough, and half as long as pow's own."""
    a, b = x.to(tl.float64), y.to(tl.float64)
    size = tl.exp(b * tl.log(tl.abs(a)))
    size = tl.where(both(tl.abs(a) == 1, tl.abs(b) == float("inf")), 1.0, size)
    whole = tl.floor(b) == b
    odd = both(whole, tl.floor(b * 0.5) * 2 != b)
    signed = tl.where(both(x.to(tl.int32, bitcast=True) < 0, odd), -size, size)
    below = both(a < 0, a > float("-inf"))
    signed = tl.where(both(below, whole == 0), float("nan"), signed)
    return tl.where(either(b == 0, a == 1), 1.0, signed).to(x.dtype)
