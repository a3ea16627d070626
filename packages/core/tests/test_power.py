"""Numba's power: C's special cases, and no call of the C library where one exponent of 1 or 1/2 is all elements'."""

import math

import numpy as np
import pytest

pytest.importorskip("numba", reason="needs numba (isostep[fused])")

from numba import njit

from isostep.lower.numba_support import power

ODD = [0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 1e-40, -1e-40, 1e30, math.inf, -math.inf, math.nan, 1e-45]


@njit
def powers(x, y, out):
    for i in range(len(x)):
        out[i] = power(x[i], y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("exponent", [1.0, 0.5, 2.5, -0.5, 0.0])
def test_cs_special_cases(exponent, dtype):
    x = np.array(ODD, dtype)
    found = np.empty_like(x)
    powers(x, x.dtype.type(exponent), found)
    with np.errstate(all="ignore"):
        wanted = np.power(x.astype(np.float64), np.full(len(x), exponent)).astype(dtype)
    np.testing.assert_allclose(found, wanted, rtol=2 * np.finfo(dtype).eps)
    number = ~np.isnan(wanted)  # a NaN's sign says nothing
    np.testing.assert_array_equal(np.signbit(found[number]), np.signbit(wanted[number]))


def test_a_loop_with_one_exponent_is_vectorised():
    powers(np.ones(1, np.float32), np.float32(1), np.ones(1, np.float32))
    texts = powers.inspect_llvm().values()
    assert any("x float> @llvm.sqrt" in text for text in texts)
