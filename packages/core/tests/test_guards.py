"""Accumulated gradients, and steps that are left out."""

from importlib.util import find_spec

import numpy as np
import pytest

import isostep
from isostep.guards import Accumulate, ApplyIfFinite
from isostep.state import StepError

FUSED = pytest.param(
    "numpy:fused",
    marks=pytest.mark.skipif(find_spec("numba") is None, reason="needs the extra `fused`"),
)


def normal(seed, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(4).astype(dtype)


def test_every_k_gradients_make_a_mean():
    accumulated = Accumulate("numpy:reference", 3)
    for start in (0, 3):
        given = [[normal(start + k)] for k in range(3)]
        assert accumulated.add(given[0]) is None
        assert accumulated.count == 1
        assert accumulated.add(given[1]) is None
        (found,) = accumulated.add(given[2])
        np.testing.assert_allclose(found, np.mean([g[0] for g in given], axis=0), rtol=1e-14)
        assert accumulated.count == 0
    accumulated.add([normal(0)])
    accumulated.reset()
    (found,) = [accumulated.add([np.full(4, float(k))]) for k in range(3)][-1]
    np.testing.assert_allclose(found, 1.0)
    assert (
        Accumulate("numpy:reference", 1).add({"a": normal(0)})["a"].tolist() == normal(0).tolist()
    )


def test_a_wide_mean_of_narrow_gradients():
    given = [{"a": normal(k, np.float16)} for k in range(64)]
    accumulated = Accumulate("numpy:reference", 64, dtype="float32")
    found = [accumulated.add(g) for g in given][-1]["a"]
    assert found.dtype == np.float16
    wanted = np.mean([g["a"].astype(np.float64) for g in given], axis=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("path", ["numpy:reference", FUSED])
def test_what_is_not_finite_leaves_everything_as_it_is(bad, path):
    rule, backend = isostep.rule("adam", lr=0.1), isostep.backend(path)
    guard = ApplyIfFinite(backend)
    params = [normal(0), np.zeros(0), np.array(1.0)]
    state = backend.init(rule, params)
    twin = [p.copy() for p in params]
    other = backend.init(rule, twin)
    for t in range(6):
        g = [normal(t + 1), np.zeros(0), np.array(0.5)]
        if t in (0, 3, 4):
            wrong = [x.copy() for x in g]
            wrong[0][2] = bad
            guard.step(rule, params, wrong, state)
            wrong = [g[0], g[1], np.array(bad)]
            guard.step(rule, params, wrong, state)
        guard.step(rule, params, [*g[:2], None] if t == 5 else g, state)
        backend.step(rule, twin, [*g[:2], None] if t == 5 else g, other)
        np.testing.assert_array_equal(params[0], twin[0])
        np.testing.assert_array_equal(state.arrays[0]["exp_avg"], other.arrays[0]["exp_avg"])
        assert state.t == other.t
    assert guard.left_out == 6
    assert guard.in_a_row == 0


def test_a_run_that_has_gone_wrong_shows():
    rule, backend = isostep.rule("sgd", lr=0.1), isostep.backend("numpy:reference")
    guard, params = ApplyIfFinite(backend, most=2), [np.zeros(1)]
    state = backend.init(rule, params)
    for t in range(3):
        assert params[0] == 0
        guard.step(rule, params, [np.full(1, np.nan)], state)
        assert np.isnan(params[0]) == (t == 2)


def test_errors():
    with pytest.raises(ValueError, match=r"^accumulate: k must be an integer >= 1, got 0; "):
        Accumulate("numpy:reference", 0)
    with pytest.raises(StepError, match=r"^accumulate: every parameter needs a gradient, got None"):
        Accumulate("numpy:reference", 2).add([None])
    with pytest.raises(ValueError, match=r"^apply_if_finite: most must be None or an integer >= 0"):
        ApplyIfFinite("numpy:reference", -1)


def test_gradients_are_matched_by_name():
    accumulated = Accumulate("numpy:reference", 2)
    a, b = np.zeros(2), np.ones(2)
    accumulated.add({"a": a, "b": b})
    found = accumulated.add({"b": b, "a": a})
    assert list(found) == ["b", "a"]
    np.testing.assert_array_equal(found["b"], b)
    assert accumulated.add((a, b)) is None
    assert isinstance(accumulated.add((a, b)), tuple)


def test_a_step_that_fails_changes_no_count():
    backend, rule = isostep.backend("numpy:reference"), isostep.rule("sgd", lr=0.1)
    guard, params = ApplyIfFinite(backend), [np.ones(2)]
    state = backend.init(rule, params)
    guard.step(rule, params, [np.full(2, np.nan)], state)
    with pytest.raises(StepError):
        guard.step(rule, params, [np.ones(3)], state)
    assert (guard.in_a_row, guard.left_out) == (1, 1)
