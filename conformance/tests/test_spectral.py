"""Decompositions in the truth: as exact as its format, and with bounds that hold and are not idle."""

from __future__ import annotations

import numpy as np
import pytest

from isostep import nm
from isostep.rule import Rule
from isostep_conformance import exact, spectral
from isostep_conformance.bounds import Bounded
from isostep_conformance.formats import FORMATS

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


def swapped(q: np.ndarray) -> np.ndarray:
    return q[:, [1, 0, 2, 3, 4, 5]]


def turned(q: np.ndarray) -> np.ndarray:
    """The first two columns by a millionth of a radian."""
    found = q.copy()
    found[:, 0], found[:, 1] = q[:, 0] + 1e-6 * q[:, 1], q[:, 1] - 1e-6 * q[:, 0]
    return found


WRONG = {"swapped": swapped, "turned": turned, "longer": lambda q: 1.000001 * q}


@pytest.mark.parametrize(("decades", "rank"), [(0, 9), (3, 9), (3, 2), (0, 0)])
def test_a_basis_is_held_to_what_makes_it_one(decades: float, rank: int) -> None:
    a, form = matrix(decades, rank), FORMATS["float64"]
    q = nm.eigenbasis(a)
    assert spectral.eigenbasis_faults(q, a, 0.0, form).max() < 3
    assert spectral.eigenbasis_faults(-q, a, 0.0, form).max() < 3
    start = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    product = a @ start
    estimates = np.sum(start * product, axis=0)
    given = (product, 0.0), (estimates, 1e-12 * np.abs(estimates).max()), form
    turned_on = nm.iterated_basis(a, start)
    assert spectral.triangle_faults(turned_on, *given).max() < 3
    if rank:
        for wrong in WRONG.values():
            assert spectral.eigenbasis_faults(wrong(q), a, 0.0, form).max() > 1000
        assert spectral.triangle_faults(np.linalg.qr(product)[0], *given).max() > 1000
        assert spectral.triangle_faults(turned(turned_on), *given).max() > 1000


def test_nothing_may_depend_on_a_basis_of_the_same_step() -> None:
    rule = Rule(
        name="hasty",
        update=lambda p, g, t, /: nm.matmul(nm.eigenbasis(p), g),
        ndim=(2,),
        paper="none",
    ).bind()
    arith = Bounded(FORMATS["float64"])
    item = exact.Before(arith.array(np.eye(3)), arith.array(np.ones((3, 3))), {}, 0)
    with pytest.raises(exact.ExactError, match="one of several right answers"):
        exact.step(rule, [item], {}, 0, arith)
