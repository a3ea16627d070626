"""Half precision in Numba's kernels: every number of it widened, and float32 narrowed as NumPy and ml_dtypes do."""

from __future__ import annotations

import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="of the extra `fused`")
ml_dtypes = pytest.importorskip("ml_dtypes", reason="of the extra `halves`")

from isostep.lower import numba_support as support  # noqa: E402

EVERY = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
PAIRS = {
    "bfloat16": (ml_dtypes.bfloat16, support.widen_bfloat16, support.narrow_bfloat16),
    "float16": (np.float16, support.widened_float16, support.narrowed_float16),
}
if support.F16C:
    own = (np.float16, support.converted_to_float32, support.converted_to_float16)
    PAIRS["float16 by the processor"] = own


def compiled(function, result):
    @numba.njit
    def all_of(values):
        out = np.empty(len(values), result)
        for i in range(len(values)):
            out[i] = function(values[i])
        return out

    return all_of


@pytest.fixture(params=PAIRS.values(), ids=PAIRS)
def pair(request):
    dtype, widen, narrow = request.param
    return np.dtype(dtype), compiled(widen, np.float32), compiled(narrow, np.uint16)


def same(found, wanted):
    """Equal bits, but for what a NaN carries beside being one."""
    nan = np.isnan(wanted.astype(np.float32))
    assert np.array_equal(np.isnan(found.astype(np.float32)), nan)
    kind = f"u{found.itemsize}"
    assert np.array_equal(found.view(kind)[~nan], wanted.view(kind)[~nan])


def test_every_half_is_widened(pair):
    dtype, widen, _ = pair
    same(widen(EVERY), EVERY.view(dtype).astype(np.float32))


def test_float32_is_narrowed_to_nearest_even(pair):
    dtype, _, narrow = pair
    halves = EVERY.view(dtype).astype(np.float32)
    above = np.sort(halves[np.isfinite(halves)])
    with np.errstate(over="ignore", invalid="ignore"):
        ties = ((above[:-1].astype(np.float64) + above[1:]) / 2).astype(np.float32)
        near = [np.nextafter(ties, np.float32(x)) for x in (-np.inf, np.inf)]
        random = np.random.default_rng(0).integers(0, 2**32, 500_000, dtype=np.uint64)
        bits = random.astype(np.uint32).view(np.float32)
        values = np.concatenate([halves, ties, *near, bits])
        wanted = values.astype(dtype)
    same(narrow(values).view(dtype), wanted)
