"""``isostep.rounding`` with int32 tensors, torch's uint32 having no arithmetic: the same bits, block by block."""

from __future__ import annotations

from typing import Any

import torch

from isostep.rounding import DROPPED

#: Elements that are rounded at a time, so that the temporaries of a large array stay small.
BLOCK = 1 << 20
_ODD = (0x7FEB352D, 0x846CA68B - (1 << 32))  # as int32


def _as_int32(number: int) -> int:
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits).bitwise_and_((1 << (32 - bits)) - 1)  # torch shifts the sign in


def mix(x: torch.Tensor) -> torch.Tensor:
    """The bijection of ``isostep.rounding`` on int32 tensors."""
    x = (x ^ _shifted(x, 16)).mul_(_ODD[0])
    x = x.bitwise_xor_(_shifted(x, 15)).mul_(_ODD[1])
    return x.bitwise_xor_(_shifted(x, 16))


def key_of(seed: int, step: Any, parameter: int, device: torch.device) -> torch.Tensor:
    """The key of one parameter in one step, a 0-d tensor; ``step`` is a number or a 0-d tensor."""
    key = mix(torch.full((), _as_int32(seed), dtype=torch.int32, device=device))
    for word in (step, parameter):
        key = mix(
            key + (word.to(torch.int32) if isinstance(word, torch.Tensor) else _as_int32(word))
        )
    return key


def stochastic_(target: torch.Tensor, value: torch.Tensor, key: torch.Tensor, array: int) -> None:
    """Store float32 ``value`` in half-precision ``target``, rounded stochastically; ``array`` numbers the target."""
    if not target.is_contiguous():
        made = torch.empty_like(target, memory_format=torch.contiguous_format)
        stochastic_(made, value, key, array)
        target.copy_(made)
        return
    out, given = target.view(-1), value.contiguous().view(-1)
    for start in range(0, out.numel(), BLOCK):
        part = slice(start, min(start + BLOCK, out.numel()))
        _block(out[part], given[part], key, array, start)


def noise(
    count: int, device: torch.device, key: torch.Tensor, array: int, start: int
) -> torch.Tensor:
    """The noise of ``count`` elements of an array from ``start`` on, a multiple of ``BLOCK``: the lowest bits are its.

    They are int32. BLOCK divides 2**32, so that all elements of a block have the same upper half.
    """
    element = torch.arange(count, dtype=torch.int32, device=device).add_(_as_int32(start))
    hashed = mix(mix(element + key) + mix(key + array // 2) + (start >> 32))
    return _shifted(hashed, 16) if array % 2 else hashed


def _block(out: torch.Tensor, x: torch.Tensor, key: torch.Tensor, array: int, start: int) -> None:
    dropped = (1 << DROPPED[str(out.dtype).removeprefix("torch.")]) - 1
    added = noise(len(x), x.device, key, array, start).bitwise_and_(dropped)
    rounded = ((x.view(torch.int32) + added) & ~dropped).view(torch.float32)
    if out.dtype is torch.float16:  # below the normal numbers the spacing is 2**-24 everywhere
        units = x.abs() * 2.0**24
        whole = units.floor()
        up = ((units - whole) * (dropped + 1)).floor_() > (dropped - added)
        small = torch.copysign((whole + up) * 2.0**-24, x)
        rounded = torch.where(x.abs() < 2.0**-14, small, rounded)
    known = x.abs() <= torch.finfo(out.dtype).max
    out.copy_(torch.where(known, rounded, x))
