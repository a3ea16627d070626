"""``isostep.blocks`` with int32 tensors, torch's uint32 having no arithmetic: the same bits, piece by piece."""

from __future__ import annotations

import torch

from isostep.blocks import BLOCK, FORMATS, NAN, count
from isostep_torch import rounding

#: The floats of a byte, which torch knows how to widen.
FLOATS = {"mxfp8_e4m3": torch.float8_e4m3fn, "mxfp8_e5m2": torch.float8_e5m2}
NO_SHARDS = (
    "state in blocks of eight bits is for tensors that lie whole on one device, got a distributed one (DTensor); use "
    "another state_dtype"
)


def packed(
    value: torch.Tensor, form: str, key: torch.Tensor, array: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 values as bytes, and their blocks' scales.

    Args:
        value: of any shape and strides.
        form: one of ``FORMATS``.
        key: of the noise of the parameter and step, see ``isostep_torch.rounding.key_of``.
        array: which array of the parameter it is.
    """
    codes = torch.empty(value.shape, dtype=torch.uint8, device=value.device)
    scales = torch.empty(count(value.shape), dtype=torch.uint8, device=value.device)
    given, out = value.contiguous().view(-1), codes.view(-1)
    for start in range(0, out.numel(), rounding.BLOCK):
        stop = min(start + rounding.BLOCK, out.numel())
        own = scales[start // BLOCK : -(-stop // BLOCK)]
        _pack(out[start:stop], own, given[start:stop], form, key, array, start)
    return codes, scales


def _in_blocks(flat: torch.Tensor) -> torch.Tensor:
    lacking = -len(flat) % BLOCK
    whole = torch.nn.functional.pad(flat, (0, lacking)) if lacking else flat
    return whole.view(-1, BLOCK)


def _pack(
    codes: torch.Tensor,
    scales: torch.Tensor,
    x: torch.Tensor,
    kind: str,
    key: torch.Tensor,
    array: int,
    start: int,
) -> None:
    form, rows = FORMATS[kind], _in_blocks(x)
    noise = rounding.noise(rows.numel(), x.device, key, array, start).bitwise_and_(0xFFFF)
    noise = noise.view(-1, BLOCK)
    bits = rows.view(torch.int32)
    size = bits & 0x7FFFFFFF
    finite = size < 0x7F800000
    largest = torch.where(finite, size, 0).amax(-1, keepdim=True)
    above = (largest & 0x7FFFFF) > 0x600000
    place = (largest >> 23) + above.to(torch.int32)
    scale = place.clamp_min_(form.least + form.top).sub_(form.top)
    back = ((254 - scale) << 23).view(torch.float32)
    y = rows.abs().mul_(back)
    # Below the normal numbers the spacing is the same everywhere, as it is above them for a binade.
    small = y < form.small
    y += small * form.small
    dropped = 23 - form.mantissa
    code = (y.view(torch.int32) + noise.bitwise_left_shift_(dropped - 16)) >> dropped
    code -= small.to(torch.int32).mul_(1 << form.mantissa).add_(form.zero)
    code = torch.maximum(code.clamp_max_(form.infinity), size.clamp_max(1))
    code = torch.where(size > 0x7F800000, NAN, code).bitwise_or_((bits >> 24) & 0x80)
    codes.copy_(code.view(-1)[: len(codes)])
    scales.copy_(scale.view(-1))


def unpacked(codes: torch.Tensor, scales: torch.Tensor, form: str) -> torch.Tensor:
    """float32 values of bytes and their blocks' scales."""
    value = torch.empty(codes.shape, dtype=torch.float32, device=codes.device)
    given, out, each = codes.contiguous().view(-1), value.view(-1), scales.contiguous()
    for start in range(0, out.numel(), rounding.BLOCK):
        stop = min(start + rounding.BLOCK, out.numel())
        own = each[start // BLOCK : -(-stop // BLOCK)]
        rows = _in_blocks(given[start:stop]).view(FLOATS[form]).to(torch.float32)
        found = rows * (own.to(torch.int32) << 23).view(torch.float32).unsqueeze(-1)
        if FORMATS[form].infinity != NAN:
            found = torch.where(rows.isinf(), rows, found)  # of a block of scale 0 too
        out[start:stop] = found.view(-1)[: stop - start]
    return value
