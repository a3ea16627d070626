"""Neutral maths: the same answers on Python floats, NumPy arrays and the strict array API."""

import itertools
import math
from fractions import Fraction

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isostep import nm
from isostep.values import MAPS

SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    2.0,
    -3.0,
    710.0,
    -746.0,
    1e-320,
    1e300,
    -1e300,
    math.inf,
    -math.inf,
    math.nan,
]
UNARY = [
    *("abs", "sign", "sqrt", "cbrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh"),
    *("floor", "isfinite", "isnan"),
]
NUMPY = {
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "pow": "power",
    "atan2": "arctan2",
}


def same(got, wanted, ulp=0):
    """Equal including NaN and the sign of zero, or within a few ulp of each other."""
    if math.isnan(wanted):
        return math.isnan(got)
    if wanted == 0 or math.isinf(wanted) or ulp == 0:
        return got == wanted and (wanted != 0 or math.copysign(1, got) == math.copysign(1, wanted))
    return abs(got - wanted) <= ulp * math.ulp(wanted)


@pytest.mark.parametrize("name", UNARY)
def test_host_functions_are_numpy_s(name):
    with np.errstate(all="ignore"):
        all_wanted = getattr(np, name)(np.array(SPECIAL))
    for x, wanted in zip(SPECIAL, all_wanted, strict=True):
        got = getattr(nm, name)(x)
        if name in ("sign", "floor"):  # the sign of their zeros is nobody's business
            got, wanted = got + 0.0, wanted + 0.0
        assert same(float(got), float(wanted), ulp=2), (x, got, wanted)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "pow", "atan2", "maximum", "minimum"])
def test_host_operations_of_two_are_numpy_s(name):
    seconds = [0.0, -0.0, 1.0, -1.0, 3.0, -3.0, 0.5, -2.0, 309.0, math.inf, math.nan]
    for x, y in itertools.product(SPECIAL, seconds):
        with np.errstate(all="ignore"):
            wanted = float(getattr(np, NUMPY.get(name, name))(np.array([x]), np.array([y]))[0])
        got = MAPS[name].host(x, y)
        if name in ("maximum", "minimum"):
            got, wanted = got + 0.0, wanted + 0.0
        assert same(got, wanted, ulp=2), (x, y, got, wanted)


@pytest.mark.parametrize("xp", [np, array_api_strict], ids=lambda xp: xp.__name__)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sign_of_zeros_and_nan(xp, dtype):
    values = [0.0, -0.0, math.nan, -2.0, 3.0, math.inf, -math.inf, 1e-40]
    found = nm.sign(xp.asarray(values, dtype=getattr(xp, dtype)))
    assert found.dtype == getattr(xp, dtype)
    np.testing.assert_array_equal(np.array(found), [0, 0, np.nan, -1, 1, 1, -1, 1])
    assert nm.sign(0.0) == 0
    assert nm.sign(-0.0) == 0
    assert math.isnan(nm.sign(math.nan))


@pytest.mark.parametrize("xp", [np, array_api_strict], ids=lambda xp: xp.__name__)
def test_maximum_and_minimum_keep_nan_on_either_side(xp):
    a = xp.asarray([math.nan, 1.0, 2.0])
    b = xp.asarray([1.0, math.nan, 3.0])
    np.testing.assert_array_equal(np.array(nm.maximum(a, b)), [np.nan, np.nan, 3.0])
    np.testing.assert_array_equal(np.array(nm.minimum(a, b)), [np.nan, np.nan, 2.0])
    np.testing.assert_array_equal(np.array(nm.maximum(a, 1.5)), [np.nan, 1.5, 2.0])
    np.testing.assert_array_equal(np.array(nm.clip(a, 1.25, 1.75)), [np.nan, 1.25, 1.75])
    assert math.isnan(nm.maximum(math.nan, 1.0))
    assert math.isnan(nm.maximum(1.0, math.nan))
    assert nm.clip(5.0, 0.0, 1.0) == 1.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("xp", [np, array_api_strict], ids=lambda xp: xp.__name__)
def test_a_choice_between_numbers_takes_the_computing_dtype(xp, dtype):
    p = xp.asarray([1.0, 2.0], dtype=getattr(xp, dtype))
    with nm.computing(p):
        found = nm.where(p > 1.5, 0.1, 0.7)
    assert found.dtype == p.dtype
    np.testing.assert_array_equal(np.array(found), np.array([0.7, 0.1], dtype))
    assert nm.where(p > 1.5, p, 0.0).dtype == p.dtype


def test_computing_ends_with_its_block_also_when_nested():
    inner, outer = np.zeros(1, np.float32), np.zeros(1, np.float64)
    with nm.computing(outer):
        with nm.computing(inner):
            assert nm.where(inner == 0, 1.0, 2.0).dtype == np.float32
        assert nm.where(inner == 0, 1.0, 2.0).dtype == np.float64
    assert nm.where(inner == 0, 1.0, 2.0).dtype == np.float64  # no parameter: NumPy's own


def test_a_choice_known_on_the_host_is_a_plain_choice():
    x, y = np.zeros(2), np.ones(2)
    assert nm.where(True, x, y) is x
    assert nm.where(False, x, y) is y
    assert nm.where(2 > 1, 0.5, 2.0) == 0.5
    np.testing.assert_array_equal(nm.where(2 > 1, 0.5, x), [0.5, 0.5])  # in the shape of both, as in kernels
    np.testing.assert_array_equal(nm.where(True, np.ones((1, 2)), np.zeros((3, 1))), np.ones((3, 2)))


@given(
    st.floats(0.5, 1, exclude_max=True) | st.sampled_from([0.0, 0.9, 0.999, 1 - 2**-53]),
    st.integers(1, 10**6),
)
def test_one_minus_pow_is_accurate_where_beta_is_near_one(beta, t):
    # For large t the power vanishes; 1 - beta**t from the exact rational needs small t.
    t = t if t * math.log(max(beta, 1e-9)) < -40 else min(t, 64)
    exact = 1 - Fraction(beta) ** t if t <= 64 else Fraction(1)
    assert abs(Fraction(nm.one_minus_pow(beta, t)) - exact) <= 4 * Fraction(2) ** -53 * exact


def test_one_minus_pow_at_the_first_step_is_not_cancelled():
    assert nm.one_minus_pow(1 - 2**-50, 1) == pytest.approx(2**-50, rel=1e-15)
    assert nm.one_minus_pow(0.0, 1) == 1.0


@pytest.mark.parametrize("xp", [np, array_api_strict], ids=lambda xp: xp.__name__)
def test_sums_keep_dtype_and_axes(xp):
    x = xp.reshape(xp.arange(24, dtype=xp.float32), (2, 3, 4))
    a = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert nm.sum(x).dtype == xp.float32
    assert float(nm.sum(x)) == 276
    for axis in (0, 1, 2, -1, -3):
        others = tuple(i for i in range(3) if i != axis % 3)
        found = nm.sum_units(x, axis)
        np.testing.assert_array_equal(np.array(found), a.sum(others, keepdims=True))
        assert nm.unit_size(x, axis) == 24 // a.shape[axis]
    np.testing.assert_array_equal(
        np.array(nm.sum_axis(x, axis=(0, -1))), a.sum((0, 2), keepdims=True)
    )
    np.testing.assert_array_equal(
        np.array(nm.max_axis(x, axis=(0, -1))), a.max((0, 2), keepdims=True)
    )
    np.testing.assert_array_equal(np.array(nm.mean(x, axis=1)), a.mean(1, keepdims=True))
    with pytest.raises(ValueError, match=r"^nm.mean keeps the axes it reduces"):
        nm.mean(x, axis=0, keepdims=False)


def test_the_largest_of_nothing_and_of_nan():
    found = nm.max_axis(np.zeros((0, 2), np.float32), axis=0)
    assert found.tolist() == [[-math.inf, -math.inf]]
    assert found.dtype == np.float32
    assert np.isnan(nm.max_axis(np.array([1.0, math.nan, 2.0]), axis=-1)).tolist() == [True]


def test_arrays_with_fewer_than_two_axes_are_one_unit():
    for x in (np.array(3.0, np.float32), np.arange(5, dtype=np.float32)):
        assert np.shape(nm.sum_units(x)) == (1,) * x.ndim
        assert float(np.sum(nm.sum_units(x))) == float(np.sum(x))
        assert nm.unit_size(x) == x.size
        assert nm.ndim(x) == x.ndim
        assert nm.size(x) == x.size


def test_facts_of_arrays():
    x = np.zeros((3, 4), np.float32)
    assert (nm.size(x), nm.ndim(x), nm.unit_size(x), nm.unit_size(x, -1)) == (12, 2, 4, 3)
    assert nm.eps(x) == 2.0**-23
    assert nm.unit_size(np.zeros((0, 4))) == 0
    assert nm.size(np.zeros((3, 0))) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_a_0_d_result_is_does_not_depend_on_the_dtype(dtype):
    # NumPy's float64 scalars are Python floats too; taken for numbers, a sum of norms would break in float64 only.
    norm = nm.sqrt(nm.sum(np.array([3.0, 4.0], dtype) ** 2))
    assert norm.dtype == dtype
    assert nm.sum(norm) == 5
    assert nm.sum(2.5) == 2.5


def test_functions_take_numbers_beside_arrays_rounded_once():
    x = np.array([0.25], np.float32)
    assert nm.maximum(x, 0.3).dtype == np.float32
    assert nm.maximum(x, 0.3)[0] == np.float32(0.3)
    assert nm.pow(x, 0.5)[0] == np.float32(0.5)
    assert nm.atan2(x, 0.3)[0] == np.arctan2(x, np.float32(0.3))[0]
    np.testing.assert_array_equal(nm.logical_and(x > 0, True), [True])
    np.testing.assert_array_equal(nm.logical_not(x > 0), [False])


def test_cube_roots_without_the_library_s_own_are_as_good():
    x = np.array([1e-300, 3e-8, 2.0, 1e300, 0.0, math.inf, math.nan])
    x = np.concatenate([x, -x])
    found = np.asarray(nm.cbrt(array_api_strict.asarray(x)))
    np.testing.assert_array_max_ulp(found[np.isfinite(x)], np.cbrt(x[np.isfinite(x)]), 1)
    np.testing.assert_array_equal(found, np.where(np.isfinite(x), found, np.cbrt(x)))


def test_a_spectral_power_is_a_power_of_the_symmetric_part():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 6))
    a = a @ a.T
    root = nm.spectral_power(a, -0.5, 0.0)
    np.testing.assert_allclose(root @ root @ a, np.eye(4), atol=1e-10)
    skew = rng.standard_normal((4, 4))
    np.testing.assert_allclose(nm.spectral_power(a + skew - skew.T, -0.5, 0.0), root, atol=1e-10)
    given = array_api_strict.asarray(np.diag([4.0, 1e-9, -1.0]))
    found = nm.spectral_power(given, -0.5, 0.25)
    np.testing.assert_allclose(np.array(found), np.diag([0.5, 2.0, 2.0]), atol=1e-12)
    assert nm.spectral_power(np.zeros((0, 0)), -0.5, 1.0).shape == (0, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_spectral_power_of_what_is_not_finite_is_nan(bad):
    a = np.eye(3, dtype=np.float32)
    a[1, 2] = bad
    found = nm.spectral_power(a, -0.25, 1.0)
    assert found.dtype == np.float32
    assert np.isnan(found).all()


def test_bases_are_orthonormal_and_in_order():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 6))
    a = a @ a.T
    for xp in (np, array_api_strict):
        q = np.array(nm.eigenbasis(xp.asarray(a)))
        values = np.diag(q.T @ a @ q)
        np.testing.assert_allclose(q.T @ q, np.eye(4), atol=1e-14)
        np.testing.assert_allclose(q @ np.diag(values) @ q.T, a, atol=1e-13)
        assert (np.diff(values) < 0).all()
        start = np.eye(4)[:, [2, 0, 3, 1]]
        order = np.argsort(-np.diag(start.T @ a @ start))
        found = np.array(nm.iterated_basis(xp.asarray(a), xp.asarray(start)))
        upper = found[:, order].T @ a @ start[:, order]
        np.testing.assert_allclose(np.tril(upper, -1), np.zeros((4, 4)), atol=1e-13)
    a[0, 1] = math.nan
    assert np.isnan(nm.eigenbasis(a)).all()
    assert np.isnan(nm.iterated_basis(a, np.eye(4))).all()


def test_a_quotient_by_a_triangular_matrix_is_a_product_with_its_inverse():
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal((3, 4)), np.triu(rng.standard_normal((4, 4))) + 2 * np.eye(4)
    for xp in (np, array_api_strict):
        found = np.array(nm.over_triangle(xp.asarray(x), xp.asarray(u)))
        np.testing.assert_allclose(found @ u, x, atol=1e-14)
    assert nm.over_triangle(np.zeros((2, 0)), np.zeros((0, 0))).shape == (2, 0)
    x[1, 2] = math.nan
    assert np.isnan(nm.over_triangle(x, u)).any(axis=1).tolist() == [False, True, False]
    u[2, 2] = 0.0
    assert np.isnan(nm.over_triangle(x, u)).all()


def test_the_largest_column_is_the_first_of_the_largest_norm():
    x = np.array([[3.0, 0.0, 4.0, 1.0], [4.0, -5.1, 3.0, 1.0]])
    for xp in (np, array_api_strict):
        assert np.array(nm.largest_column(xp.asarray(x))).tolist() == [[0.0], [-5.1]]
    assert nm.largest_column(x[:, [0, 2, 3]]).tolist() == [[3.0], [4.0]]
    assert nm.largest_column(np.zeros((2, 0))).tolist() == [[0.0], [0.0]]
    assert nm.upper_triangle(x[:, :2]).tolist() == [[3.0, 0.0], [0.0, -5.1]]
