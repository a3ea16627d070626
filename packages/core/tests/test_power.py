"""Compiled kernels' own powers, roots and logarithms: right, and without a call of the C library for each number."""

import math
import re

import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="of the extra `fused`")

ODD = [0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 1e-40, -1e-40, 1e30, math.inf, -math.inf, math.nan, 1e-45]


@pytest.fixture(scope="module")
def compiled():
    from isostep.lower.numba_support import cbrt, log1p, power

    @numba.njit
    def power_of(x, y, out):
        for i in range(len(x)):
            out[i] = power(x[i], y)

    @numba.njit
    def cbrt_of(x, out):
        for i in range(len(x)):
            out[i] = cbrt(x[i])

    @numba.njit
    def log1p_of(x, out):
        for i in range(len(x)):
            out[i] = log1p(x[i])

    return {"power": power_of, "cbrt": cbrt_of, "log1p": log1p_of}


def same(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=2 * np.finfo(found.dtype).eps)
    number = ~np.isnan(wanted)  # a NaN's sign says nothing
    np.testing.assert_array_equal(np.signbit(found[number]), np.signbit(wanted[number]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "exponent", [1.0, 0.5, 2.5, -0.5, 0.0, 3.0, -3.0, 2.0, math.inf, -math.inf, math.nan]
)
def test_powers_have_cs_special_cases(compiled, exponent, dtype):
    x = np.array(ODD, dtype)
    found = np.empty_like(x)
    compiled["power"](x, x.dtype.type(exponent), found)
    with np.errstate(all="ignore"):
        wanted = np.power(x.astype(np.float64), np.full(len(x), exponent)).astype(dtype)
    same(found, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["cbrt", "log1p"])
def test_roots_and_logarithms_have_them_too(compiled, name, dtype):
    x = np.array([*ODD, -0.5, -0.999, -1e-9, 3e-8, -2.0], dtype)
    found = np.empty_like(x)
    compiled[name](x, found)
    with np.errstate(all="ignore"):
        same(found, getattr(np, name)(x.astype(np.float64)).astype(dtype))


@pytest.mark.parametrize("name", ["cbrt", "log1p"])
def test_of_float32_they_are_rounded_once(compiled, name):
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-45, 38, 200_000)
    x = (sizes * np.where(rng.random(len(sizes)) < 0.5, -1, 1)).astype(np.float32)
    if name == "log1p":
        x = np.concatenate([x[x > -1], rng.uniform(-1, 3, 200_000).astype(np.float32)])
    found = np.empty_like(x)
    compiled[name](x, found)
    with np.errstate(all="ignore"):
        true = getattr(np, name)(x.astype(np.float64))
        finite = np.isfinite(true)
        ulps = np.abs(found - true)[finite] / np.spacing(np.abs(true[finite]).astype(np.float32))
    assert ulps.max() < 0.501


@pytest.mark.parametrize("exponent", [0.25, -0.4, 1.7, 3.0, -1.3])
def test_powers_of_float32_are_rounded_once(compiled, exponent):
    rng = np.random.default_rng(0)
    x = (10.0 ** rng.uniform(-45, 38, 200_000)).astype(np.float32)
    found, own = np.empty_like(x), np.float32(exponent)
    compiled["power"](x, own, found)
    with np.errstate(all="ignore"):
        true = x.astype(np.float64) ** np.float64(own)
        usual = (true > 1e-30) & (true < 1e30)
        ulps = np.abs(found - true)[usual] / np.spacing(true[usual].astype(np.float32))
    assert ulps.max() < 0.501


def test_a_loop_of_powers_is_vectorised(compiled):
    one = np.ones(1, np.float32)
    compiled["power"](one, np.float32(1), one.copy())
    assert any("x float> @llvm.sqrt" in text for text in compiled["power"].inspect_llvm().values())


@pytest.mark.parametrize(
    ("name", "more"), [("cbrt", ()), ("log1p", ()), ("power", (np.float32(2.5),))]
)
def test_of_float32_no_library_is_called(compiled, name, more):
    one = np.ones(1, np.float32)
    compiled[name](one, *more, one.copy())
    texts = {s: t for s, t in compiled[name].inspect_llvm().items() if s[0].dtype == numba.float32}
    assert len(texts) == 1
    (text,) = texts.values()
    assert not re.findall(rf"^declare .*@\w*{name[:3]}", text, re.MULTILINE)
