"""Triangular systems and the column of the largest norm in the truth, with bounds that hold and are not idle."""

from __future__ import annotations

import numpy as np
import pytest

from isostep import nm
from isostep_conformance import triangular
from isostep_conformance.bounds import Bounded, Num
from isostep_conformance.formats import FORMATS

ARITH = Bounded(FORMATS["float32"].compute)


def system(beside: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Five rows, and a triangular matrix of six with numbers of this size beside its diagonal."""
    rng = np.random.default_rng(seed)
    upper = np.triu(beside * rng.standard_normal((6, 6)), 1) + np.diag(rng.uniform(0.3, 2.0, 6))
    return rng.standard_normal((5, 6)), upper


@pytest.mark.parametrize("beside", [0.1, 1.0, 5.0])
def test_a_solver_in_float32_is_within_its_bound(beside: float) -> None:
    x, upper = (a.astype(np.float32) for a in system(beside))
    truth = ARITH.over_triangle(Num(x.astype(np.float64)), Num(upper.astype(np.float64)))
    off = np.abs(nm.over_triangle(x, upper) - truth.v)
    assert (off <= truth.e).all()
    if beside < 1:
        assert np.max(truth.e) < 1e-5 * np.abs(truth.v).max()


def test_its_bound_follows_its_operands() -> None:
    x, upper = system(0.5)
    shift = 1e-4 * np.triu(np.ones((6, 6)))
    truth = ARITH.over_triangle(Num(x, 1e-4), Num(upper, shift))
    moved = np.abs(triangular.over(x + 1e-4, upper - shift) - truth.v)
    assert (moved <= 1.01 * truth.e).all()
    assert np.max(truth.e) < 100 * moved.max()


def test_what_cannot_be_divided_is_nan() -> None:
    x, upper = system(1.0)
    x[1, 2] = np.inf
    assert np.isnan(triangular.over(x, upper)[1]).any()
    upper[3, 3] = 0.0
    assert np.isnan(ARITH.over_triangle(Num(x), Num(upper)).v).all()


def test_a_column_that_another_is_within_rounding_of_is_exempt() -> None:
    x = np.array([[3.0, 0.0, 4.0], [4.0, 1.0, 3.0]])
    exactly = ARITH.largest_column(Num(x))
    assert exactly.v.tolist() == [[3.0], [4.0]]
    assert not np.any(exactly.f)
    assert np.all(ARITH.largest_column(Num(x, 1e-7)).f)
    assert not np.any(ARITH.largest_column(Num(x[:, :2], 1e-7)).f)
    assert ARITH.largest_column(Num(np.zeros((2, 0)))).v.shape == (2, 1)
