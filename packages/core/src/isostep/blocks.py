"""State in eight bits: blocks of numbers that share a power of two, each number in a float of one byte.

The layout is OCP's Microscaling (MX Specification 1.0, 2023, MXFP8): ``BLOCK`` neighbours of an array, taken row by
row, share a scale 2**(s - 127), of which s is one byte (E8M0), and each is a float of a sign, four or five bits of
exponent and three or two of mantissa (E4M3, E5M2). What the specification leaves open, or is done otherwise here:

- The scale is the smallest with which the block's largest finite number is at most the format's largest; the
  specification's own, floor(log2) of it, makes numbers of the last eighth of a binade too small.
- No scale is so small that a number of its block is below float32's normal ones: devices take those for zero.
- A number is rounded up or down by chance, with the noise of ``isostep.rounding``, of which the 16 highest of the bits
  that are dropped meet 16. To nearest, an average that moves by a thousandth at a step would never move.
- What is not zero does not become zero: a rule divides by the roots of such numbers.
- E4M3 has no infinity, which becomes NaN there. NaN and infinity leave the scale to the block's other numbers.

Scales are powers of two, so that nothing but the number itself is rounded, and every backend has the same bits.
Here that is for any library with ``uint32`` arrays (``xp``: NumPy, CuPy, JAX); kernels have it in their own languages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Numbers that share a scale.
BLOCK = 32
#: What the name of a state array's scales ends in.
SCALE = "_scale"
#: The number of a rule's first array in blocks, which its noise goes by; two that follow each other share a hash.
FIRST = 1024


@dataclass(frozen=True)
class Format:
    """A float of one byte: bits of its mantissa, what its exponent is larger by, and the byte's bits at infinity."""

    mantissa: int
    bias: int
    infinity: int

    @property
    def top(self) -> int:
        """The exponent of the largest number, which is 1.75 times a power of two in both formats."""
        return 8 if self.mantissa == 3 else 15

    @property
    def least(self) -> int:
        """The smallest scale's byte."""
        return self.bias + self.mantissa

    @property
    def zero(self) -> int:
        """What the exponent and mantissa of a float32 are larger by than a byte."""
        return (127 - self.bias) << self.mantissa

    @property
    def small(self) -> float:
        """The smallest normal number."""
        return 2.0 ** (1 - self.bias)


NAN = 0x7F
FORMATS = {"mxfp8_e4m3": Format(3, 7, NAN), "mxfp8_e5m2": Format(2, 15, 0x7C)}


def count(shape: Sequence[int]) -> int:
    """How many blocks an array has."""
    return -(-int(np.prod(shape, dtype=np.int64)) // BLOCK)


def _in_blocks(xp: Any, x: Any, batch: int) -> Any:
    """Every array's numbers in rows of ``BLOCK``, zeros at the end; the first ``batch`` axes number arrays."""
    own = tuple(x.shape)[:batch]
    flat = xp.reshape(x, (*own, -1)) if x.size else xp.reshape(x, (*own, 0))
    lacking = -flat.shape[-1] % BLOCK
    if lacking:
        flat = xp.concatenate([flat, xp.zeros((*own, lacking), dtype=flat.dtype)], axis=-1)
    return xp.reshape(flat, (*own, flat.shape[-1] // BLOCK, BLOCK))


def _as_it_was(xp: Any, rows: Any, shape: Sequence[int], batch: int) -> Any:
    size = int(np.prod(shape[batch:], dtype=np.int64))
    own = tuple(shape)[:batch]
    flat = xp.reshape(rows, (*own, rows.shape[-2] * BLOCK))
    return xp.reshape(flat[..., :size], tuple(shape))


def packed(xp: Any, x: Any, kind: str, noise: Any, batch: int = 0) -> tuple[Any, Any]:
    """float32 numbers as bytes, and their blocks' scales.

    Args:
        xp: the library of the arrays.
        x: float32 values, of any shape.
        kind: one of ``FORMATS``.
        noise: uint32 of the same shape, of which the lowest 16 bits count.
        batch: how many of the first axes number arrays, each of which has blocks of its own.
    """
    form, u32, f32 = FORMATS[kind], xp.uint32, xp.float32
    shape = tuple(x.shape)
    rows = _in_blocks(xp, x, batch)
    noise = _in_blocks(xp, noise & u32(0xFFFF), batch)
    bits = rows.view(u32)
    size = bits & u32(0x7FFFFFFF)
    finite = size < u32(0x7F800000)
    largest = xp.max(xp.where(finite, size, u32(0)), axis=-1, keepdims=True)
    above = (largest & u32(0x7FFFFF)) > u32(0x600000)
    place = (largest >> u32(23)) + above.astype(u32)  # E8M0 of it, ``top`` too high
    scale = xp.maximum(place, u32(form.least + form.top)) - u32(form.top)
    back = ((u32(254) - scale) << u32(23)).view(f32)
    y = xp.abs(rows) * back
    # Below the normal numbers the spacing is the same everywhere, as it is above them for a binade.
    small = y < f32(form.small)
    lifted = y + xp.where(small, f32(form.small), f32(0))
    dropped = 23 - form.mantissa
    code = (lifted.view(u32) + (noise << u32(dropped - 16))) >> u32(dropped)
    code = code - xp.where(small, u32(form.zero + (1 << form.mantissa)), u32(form.zero))
    code = xp.maximum(xp.minimum(code, u32(form.infinity)), xp.minimum(size, u32(1)))
    code = xp.where(size > u32(0x7F800000), u32(NAN), code)
    code = (code | ((bits >> u32(24)) & u32(0x80))).astype(xp.uint8)
    return _as_it_was(xp, code, shape, batch), scale[..., 0].astype(xp.uint8)


def unpacked(xp: Any, codes: Any, scales: Any, kind: str, batch: int = 0) -> Any:
    """float32 numbers of bytes and their blocks' scales."""
    form, u32, f32 = FORMATS[kind], xp.uint32, xp.float32
    shape = tuple(codes.shape)
    rows = _in_blocks(xp, codes, batch).astype(u32)
    size = rows & u32(0x7F)
    small = size < u32(1 << form.mantissa)
    zero = xp.where(small, u32(form.zero + (1 << form.mantissa)), u32(form.zero))
    value = ((size + zero) << u32(23 - form.mantissa)).view(f32)
    value = value - xp.where(small, f32(form.small), f32(0))
    value = value * (scales.astype(u32)[..., None] << u32(23)).view(f32)
    special = f32(np.nan)
    if form.infinity != NAN:
        special = xp.where(size == u32(form.infinity), f32(np.inf), special)
    value = xp.where(size < u32(form.infinity), value, special)
    value = xp.where((rows & u32(0x80)) != u32(0), -value, value)
    return _as_it_was(xp, value, shape, batch)
