"""Stochastic rounding to half precision: up or down with the probability that leaves the value unbiased.

The noise is a hash of (seed, step, parameter, array, element), not a generator's stream, so that a step gives the
same bits on every backend, path and device, run after run. With 32-bit arithmetic modulo 2**32 and

    mix(x):  x ^= x >> 16;  x *= 0x7FEB352D;  x ^= x >> 15;  x *= 0x846CA68B;  x ^= x >> 16

(the bijection "lowbias32" of C. Wellons' search for integer hashes, 2018), element i of an array has the noise

    key = mix(mix(mix(seed) + step) + parameter)
    noise = mix(mix(i + key) + mix(key + array // 2) + i // 2**32) >> 16 * (array % 2)

and the lowest bits of it, as many as rounding drops (16 at most), are added to the float32's bits before these are cut
off. So two arrays share a hash, the inner one is the same for all, and a kernel that stores three mixes three times.
Exact values stay as they are; NaN, infinity and what lies beyond the largest finite number round to nearest.

Here that is for any library with ``uint32`` arrays (``xp``: NumPy, CuPy, JAX); kernels have it in their own languages.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: What rounding drops of a float32's 23 bits, and the largest finite number.
DROPPED = {"bfloat16": 16, "float16": 13}
LARGEST = {"bfloat16": 3.3895313892515355e38, "float16": 65504.0}


def word(xp: Any, number: Any) -> Any:
    """A number or a 0-d integer array, modulo 2**32."""
    if isinstance(number, int):
        return xp.asarray(number % (1 << 32), dtype=xp.uint32)
    return number.astype(xp.uint32)


def mix(xp: Any, x: Any) -> Any:
    """The bijection of the module's text on uint32 arrays."""
    x = (x ^ (x >> 16)) * word(xp, 0x7FEB352D)
    x = (x ^ (x >> 15)) * word(xp, 0x846CA68B)
    return x ^ (x >> 16)


def key_of(xp: Any, seed: Any, step: Any, parameter: Any) -> Any:
    """The key of one parameter in one step; the arguments are numbers or integer arrays, which broadcast."""
    return mix(xp, mix(xp, mix(xp, word(xp, seed)) + word(xp, step)) + word(xp, parameter))


def noise_of(xp: Any, key: Any, array: int, low: Any, high: Any = 0) -> Any:
    """The noise of an array's elements, of which the lowest 16 bits are its own; see ``rounded``."""
    high = word(xp, high) if isinstance(high, int) else high
    hashed = mix(xp, mix(xp, low + key) + mix(xp, key + word(xp, array // 2)) + high)
    return hashed >> 16 if array % 2 else hashed


def rounded(xp: Any, x: Any, dtype: str, key: Any, array: int, low: Any, high: Any = 0) -> Any:
    """float32 ``x``, rounded stochastically to numbers of ``dtype``, still as float32.

    Args:
        xp: the library of the arrays.
        x: float32 values.
        dtype: ``"bfloat16"`` or ``"float16"``.
        key: of the parameter and step (``key_of``), of a shape that broadcasts against ``x``.
        array: which array of the parameter it is: 0 for the parameter, 1 and on for its state in the rule's order.
        low: the elements' numbers modulo 2**32, as uint32, of a shape that broadcasts against ``x``.
        high: their upper halves.
    """
    dropped = (1 << DROPPED[dtype]) - 1
    noise = noise_of(xp, key, array, low, high) & word(xp, dropped)
    bits = (x.view(xp.uint32) + noise) & word(xp, ~dropped)
    found = bits.view(xp.float32)
    if dtype == "float16":  # below the normal numbers the spacing is 2**-24 everywhere
        units = abs(x) * xp.float32(2.0**24)
        whole = xp.floor(units)
        above = xp.floor((units - whole) * xp.float32(dropped + 1))
        up = above > (word(xp, dropped) - noise).astype(xp.float32)
        small = xp.copysign((whole + up.astype(xp.float32)) * xp.float32(2.0**-24), x)
        found = xp.where(abs(x) < xp.float32(2.0**-14), small, found)
    return xp.where(abs(x) <= xp.float32(LARGEST[dtype]), found, x)


def numbered(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of an array's elements, row by row: their lower and their upper halves."""
    every = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.uint64).reshape(shape)
    return (every & np.uint64(0xFFFFFFFF)).astype(np.uint32), (every >> np.uint64(32)).astype(
        np.uint32
    )
