"""The fused kernels' own conversions between halves and float32: every half, and every rounding that is hard."""

import numpy as np
import pytest

pytestmark = pytest.mark.whole  # needs Numba and ml_dtypes

#: What kernels call; of float16 also what they call where the processor converts none.
CONVERSIONS = {
    "float16": ("widen_float16", "narrow_float16"),
    "float16 by arithmetic": ("widened_float16", "narrowed_float16"),
    "bfloat16": ("widen_bfloat16", "narrow_bfloat16"),
}
ALL_BITS = np.arange(65536, dtype=np.uint32).astype(np.uint16)


@pytest.fixture(scope="module", params=CONVERSIONS)
def half(request):
    """One half format: its dtype, and the conversions to and from float32 over arrays of bits."""
    import ml_dtypes
    import numba

    from isostep.lower import numba_support

    name = request.param.partition(" ")[0]
    wide, short = (getattr(numba_support, verb) for verb in CONVERSIONS[request.param])

    @numba.njit
    def widen(bits, out):
        for i in range(bits.size):
            out[i] = wide(bits[i])

    @numba.njit
    def narrow(x, out):
        for i in range(x.size):
            out[i] = short(x[i])

    def widened(bits):
        out = np.empty(bits.shape, np.float32)
        widen(bits, out)
        return out

    def narrowed(x):
        out = np.empty(x.shape, np.uint16)
        narrow(x, out)
        return out

    return np.dtype(getattr(ml_dtypes, name, np.float16)), widened, narrowed


def assert_same_halves(bits, wanted):
    """The same bits, except that one NaN is as good as another."""
    nan = np.isnan(wanted.astype(np.float32))
    np.testing.assert_array_equal(bits[~nan], wanted.view(np.uint16)[~nan])
    assert np.isnan(bits[nan].view(wanted.dtype).astype(np.float32)).all()


def test_widening_is_exact_for_every_half(half):
    dtype, widened, _ = half
    found, wanted = widened(ALL_BITS), ALL_BITS.view(dtype).astype(np.float32)
    nan = np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(found), nan)
    np.testing.assert_array_equal(found[~nan].view(np.uint32), wanted[~nan].view(np.uint32))


def test_every_half_survives_the_way_there_and_back(half):
    dtype, widened, narrowed = half
    assert_same_halves(narrowed(widened(ALL_BITS)), ALL_BITS.view(dtype))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # overflow to infinity is a result
def test_narrowing_rounds_to_nearest_even_at_every_midpoint(half):
    dtype, widened, narrowed = half
    finite = np.sort(widened(ALL_BITS)[np.isfinite(widened(ALL_BITS))].astype(np.float64))
    top = finite[-1] + (finite[-1] - finite[-2]) / 2  # where infinity begins
    middle = np.concatenate([(finite[1:] + finite[:-1]) / 2, [top, -top]]).astype(np.float32)
    inf = np.float32(np.inf)
    for x in (middle, np.nextafter(middle, inf), np.nextafter(middle, -inf)):
        assert_same_halves(narrowed(x), x.astype(dtype))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_narrowing_random_floats_of_all_sizes(half):
    dtype, _, narrowed = half
    bits = np.random.default_rng(0).integers(0, 2**32, 1_000_000, dtype=np.uint64)
    x = np.concatenate(
        [bits.astype(np.uint32).view(np.float32), np.float32([0, -0.0, np.inf, -np.inf, np.nan])]
    )
    assert_same_halves(narrowed(x), x.astype(dtype))
