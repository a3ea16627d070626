"""The compiled kernels' own exponential: within an ulp everywhere, and special values as they should be."""

import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="of the extra `fused`")


@pytest.fixture(scope="module")
def compiled():
    from isostep.lower.numba_support import exp

    @numba.njit
    def run(x, out):
        for i in range(x.shape[0]):
            out[i] = exp(x[i])

    return lambda x: (out := np.empty_like(x), run(x, out))[0]


@pytest.mark.parametrize(
    ("dtype", "wide", "low", "high"),
    [(np.float32, np.float64, -110, 95), (np.float64, np.longdouble, -750, 712)],
)
def test_within_an_ulp_from_denormals_to_overflow(compiled, dtype, wide, low, high):
    if np.finfo(wide).nmant <= np.finfo(dtype).nmant:
        pytest.skip("this machine's long double is no wider than float64")
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(low, high, 50_000), rng.normal(size=50_000) / 100]).astype(
        dtype
    )
    with np.errstate(all="ignore"):
        true = np.exp(x.astype(wide))
        rounded = true.astype(dtype)
        found = compiled(x)
        finite = np.isfinite(rounded) & np.isfinite(found)
        ulp = np.spacing(np.where(finite & (rounded > 0), rounded, dtype(1)))
        worst = np.abs((found.astype(wide) - true) / ulp)[finite].max()
    assert worst < 1.0
    np.testing.assert_array_equal(np.isinf(found), np.isinf(rounded))
    assert ((0 < found) & (found < np.finfo(dtype).tiny)).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(compiled, dtype):
    largest = np.finfo(dtype).max
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, largest, -largest], dtype)
    wanted = np.array([1, 1, np.inf, 0, np.nan, np.inf, 0], dtype)
    np.testing.assert_array_equal(compiled(x), wanted)
    assert not np.signbit(compiled(x)[[3, 6]]).any()
