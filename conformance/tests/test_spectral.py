"""Decompositions in the truth: as exact as its format, and with bounds that hold and are not idle."""

from __future__ import annotations

import numpy as np
import pytest

from isostep import nm
from isostep_conformance import spectral

EPS = 2.0**-52


def matrix(decades: float, rank: int, seed: int = 0) -> np.ndarray:
    """A sum of ``rank`` outer products of six numbers each, of sizes over some decades, and 0.001 I."""
    rng = np.random.default_rng(seed)
    g = rng.standard_normal((6, rank)) * 10.0 ** rng.uniform(-decades, decades, (6, 1))
    return g @ g.T + 1e-3 * np.eye(6)


@pytest.mark.parametrize(("decades", "rank"), [(0, 9), (3, 9), (3, 2), (0, 0)])
def test_eigenvalues_are_those_of_the_wide_format(decades: float, rank: int) -> None:
    a = matrix(decades, rank).astype(np.longdouble)
    values, q = spectral.eigh(a)
    tiny = 40 * np.finfo(np.longdouble).eps
    assert np.abs(q.T @ q - np.eye(6)).max() < tiny
    assert np.abs((q * values) @ q.T - a).max() < tiny * np.abs(a).max()


@pytest.mark.parametrize("exponent", [-0.25, -0.5, -1.0])
@pytest.mark.parametrize(("decades", "rank"), [(0, 9), (1, 9), (2, 9), (0, 2), (2, 2)])
def test_a_power_in_float64_is_within_its_bound(decades: float, rank: int, exponent: float) -> None:
    a = matrix(decades, rank)
    wide, low = a.astype(np.longdouble), np.longdouble(1e-3)
    truth = spectral.power(wide, np.longdouble(exponent), low)
    bound = spectral.power_error(wide, np.longdouble(exponent), low, (0.0, 0.0, 0.0), EPS)
    off = np.abs(nm.spectral_power(a, exponent, 1e-3) - truth)
    assert (off <= bound).all()
    if decades == 0 and rank > 6:
        assert bound.max() < 1e-9 * np.abs(truth).max()


def test_a_bound_follows_its_operands() -> None:
    a = matrix(0, 9).astype(np.longdouble)
    shift = 1e-6 * (np.ones((6, 6)) + np.eye(6))
    bound = spectral.power_error(a, -0.25, 1e-3, (shift, 0.0, 0.0), EPS)
    moved = np.abs(spectral.power(a + shift, -0.25, 1e-3) - spectral.power(a, -0.25, 1e-3))
    assert (moved <= bound).all()
    assert bound.max() < 100 * moved.max()


def test_a_matrix_that_is_not_finite_has_no_power() -> None:
    assert np.isnan(spectral.power(np.array([[np.inf, 0.0], [0.0, 1.0]]), -0.5, 1e-3)).all()
