"""Averages: against sums written out, in and out of place, and weights that are back whatever happens."""

from importlib.util import find_spec

import numpy as np
import pytest

import isostep
from isostep import averaging
from isostep.state import StepError

FUSED = pytest.param(
    "numpy:fused",
    marks=pytest.mark.skipif(find_spec("numba") is None, reason="needs the extra `fused`"),
)

PATHS = ["numpy:reference", FUSED]


def walk(steps=9, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [
        [rng.standard_normal((3, 2)).astype(dtype), rng.standard_normal(5).astype(dtype)]
        for _ in range(steps)
    ]


def taken(path, weight, places, **options):
    average = averaging.Average(path, weight, **options)
    for params in places:
        average.update(params)
    return average


@pytest.mark.parametrize("path", PATHS)
def test_equal_weights_are_the_mean(path):
    places = walk()
    average = taken(path, averaging.equal(), places)
    for i in range(2):
        np.testing.assert_allclose(
            average.arrays[i], np.mean([p[i] for p in places], axis=0), rtol=1e-13
        )


@pytest.mark.parametrize("path", PATHS)
def test_an_exponential_moving_average(path):
    places = walk()
    average = taken(path, averaging.ema(0.8), places)
    weights = [0.8**8, *(0.2 * 0.8 ** (8 - k) for k in range(1, 9))]
    for i in range(2):
        wanted = sum(w * p[i] for w, p in zip(weights, places, strict=True))
        np.testing.assert_allclose(average.arrays[i], wanted, rtol=1e-13, atol=1e-14)


def test_the_warmup_of_a_moving_average():
    weight = averaging.ema(0.9, warmup=True)
    assert [1 - weight(k) for k in range(3)] == pytest.approx([2 / 11, 3 / 12, 4 / 13])
    assert weight(10**6) == pytest.approx(0.1)


def test_polynomial_decay():
    # weights grow like n**eta: with eta = 1 the n-th of N counts n / (1 + ... + N)
    places = walk()
    average = taken("numpy:reference", averaging.polynomial_decay(1.0), places)
    wanted = sum((n + 1) * p[0] for n, p in enumerate(places)) / 45
    np.testing.assert_allclose(average.arrays[0], wanted, rtol=1e-13)
    places = walk()
    a = taken("numpy:reference", averaging.polynomial_decay(0.0), places)
    np.testing.assert_allclose(a.arrays[0], np.mean([p[0] for p in places], axis=0), rtol=1e-13)


def test_the_first_is_a_copy():
    places = walk(1)
    average = taken("numpy:reference", averaging.ema(0.999), places)
    np.testing.assert_array_equal(average.arrays[0], places[0][0])
    places[0][0][:] = 7
    assert not np.any(average.arrays[0] == 7)


def test_a_wide_average_of_narrow_parameters():
    places = walk(200, dtype=np.float16)
    average = taken("numpy:reference", averaging.equal(), places, dtype="float32")
    assert average.arrays[0].dtype == np.float32
    wanted = np.mean([p[0].astype(np.float64) for p in places], axis=0)
    np.testing.assert_allclose(average.arrays[0], wanted, rtol=1e-4, atol=1e-5)
    params = [p.copy() for p in places[0]]
    with average.swapped(params):
        assert params[0].dtype == np.float16
        np.testing.assert_array_equal(params[0], average.arrays[0].astype(np.float16))


def test_resumed_from_what_was_saved():
    places = walk()
    whole = taken("numpy:reference", averaging.equal(), places)
    first = taken("numpy:reference", averaging.equal(), places[:4])
    second = averaging.Average("numpy:reference", averaging.equal())
    second.restore(first.arrays, first.count)
    first.arrays[0][:] = 9
    for params in places[4:]:
        second.update(params)
    np.testing.assert_array_equal(second.arrays[0], whole.arrays[0])
    assert second.count == whole.count


@pytest.mark.parametrize("kind", [list, dict])
def test_swapped_in_and_out_to_the_bit(kind):
    places = walk()
    average = taken("numpy:reference", averaging.equal(), places)
    arrays = [np.array([[0.1, -0.0], [np.nan, 1e-310], [3, 4]]), np.arange(5.0)]
    params = arrays if kind is list else dict(zip("ab", arrays, strict=True))
    before = [a.tobytes() for a in arrays]
    statistics = np.arange(3)
    with average.swapped(params, keep=[statistics]) as inside:
        assert inside is params
        np.testing.assert_array_equal(arrays[0], average.arrays[0])
        statistics += 1
        arrays[1][:] = 5
    assert [a.tobytes() for a in arrays] == before
    assert statistics.tolist() == [0, 1, 2]


def test_weights_are_back_after_an_exception():
    places = walk()
    average = taken("numpy:reference", averaging.equal(), places)
    other = taken("numpy:reference", averaging.ema(0.5), places)
    params = [p.copy() for p in places[0]]

    def fails():
        with average.swapped(params), other.swapped(params):
            np.testing.assert_array_equal(params[0], other.arrays[0])
            message = "in the evaluation"
            raise KeyboardInterrupt(message)

    with pytest.raises(KeyboardInterrupt):
        fails()
    np.testing.assert_array_equal(params[0], places[0][0])
    average.update(params)  # and it goes on
    assert average.count == len(places) + 1


def test_weights_are_back_when_they_cannot_be_swapped_in():
    places = walk()
    average = taken("numpy:reference", averaging.equal(), places)
    params = [places[0][0].copy(), places[0][1].copy()]
    params[1].flags.writeable = False
    with pytest.raises(StepError, match="read-only"), average.swapped(params):
        pass  # pragma: no cover
    folded = [params[0], np.lib.stride_tricks.as_strided(np.ones(4), (5,), (0,))]
    with pytest.raises(StepError, match="elements share memory"), average.swapped(folded):
        pass  # pragma: no cover
    np.testing.assert_array_equal(params[0], places[0][0])
    average.update(places[0])


def test_a_rule_s_evaluation_weights_are_swapped_in_and_out():
    backend = isostep.backend("numpy:reference")
    rule, params = isostep.rule("schedule_free_sgd", lr=0.3), {"w": np.ones(3)}
    state = backend.init(rule, params)
    for k in range(3):
        backend.step(rule, params, {"w": np.array([0.5, -1.0, k])}, state)
    before, point = params["w"].copy(), backend.evaluation_point(rule, params, state)["w"]

    def evaluate():
        with averaging.evaluating(backend, rule, params, state) as swapped:
            assert swapped is params
            np.testing.assert_array_equal(params["w"], point)
            raise KeyError("in the evaluation")

    with pytest.raises(KeyError):
        evaluate()
    assert not np.array_equal(before, point)
    np.testing.assert_array_equal(params["w"], before)


def test_a_rule_s_evaluation_weights_go_by_names():
    backend = isostep.backend("numpy:reference")
    rule, params = isostep.rule("schedule_free_sgd", lr=0.3), {"b": np.ones(3), "a": np.ones(3)}
    state = backend.init(rule, params)
    for k in range(3):
        grads = {"a": np.array([0.5, -1.0, k]), "b": np.array([-k, 2.0, 0.25])}
        backend.step(rule, params, grads, state)
    points = backend.evaluation_point(rule, params, state)
    other = {"a": params["a"], "b": params["b"]}
    with averaging.evaluating(backend, rule, other, state) as swapped:
        for k in "ab":
            np.testing.assert_array_equal(swapped[k], points[k])


def test_errors():
    places = walk()
    average = averaging.Average("numpy:reference", averaging.equal())
    with pytest.raises(
        StepError, match=r"^average: nothing to swap in; call update\(params\) first"
    ):
        with average.swapped(places[0]):
            pass
    average.update(places[0])
    with pytest.raises(StepError, match=r"^average: is of 2 arrays, got 1; pass the same ones"):
        average.update(places[0][:1])
    params = [p.copy() for p in places[0]]
    with average.swapped(params):
        with pytest.raises(StepError, match=r"^average: update inside swapped"):
            average.update(params)
    with pytest.raises(
        ValueError, match=r"^ema: decay must be a finite number >= 0 and <= 1, got 1\.5"
    ):
        averaging.ema(1.5)
    with pytest.raises(
        isostep.DomainError, match=r"^average: weight\(0\) must be in \[0, 1\], got 2"
    ):
        taken("numpy:reference", lambda n: 2.0, places[:2])
    with pytest.raises(ValueError, match=r"^average: count must be an integer >= 0, got -1"):
        average.restore([], -1)


def test_dicts_are_matched_by_name():
    a, b = np.zeros(2), np.ones(2)
    average = averaging.Average("numpy:reference", averaging.equal())
    average.update({"a": a, "b": b})
    average.update({"b": b, "a": a})  # as jax.jit hands dicts out, sorted
    np.testing.assert_array_equal(average.arrays, [a, b])
    params = {"b": np.full(2, 5.0), "a": np.full(2, 7.0)}
    with average.swapped(params):
        np.testing.assert_array_equal(params["a"], a)
        np.testing.assert_array_equal(params["b"], b)
    assert list(average.like(params)) == ["b", "a"]
    again = averaging.Average("numpy:reference", averaging.equal())
    again.restore(average.like(params), average.count)
    again.update({"a": a, "b": b})
    np.testing.assert_array_equal(again.arrays, [b, a])
    with pytest.raises(StepError, match=r"^average: params has no 'b'; "):
        average.update({"a": a, "c": b})


def test_of_other_shapes_nothing_is_swapped_in():
    average = averaging.Average("numpy:reference", averaging.equal())
    with pytest.raises(StepError, match=r"^average: there is none yet"):
        average.like([np.ones(2)])
    average.update([np.ones(2)])
    for shape in [(3, 2), (3,)]:
        message = rf"^average: params\[0\] must have shape \(2,\), got \({shape[0]},"
        with pytest.raises(StepError, match=message), average.swapped([np.ones(shape)]):
            pass  # pragma: no cover
        with pytest.raises(StepError, match=message):
            average.update([np.ones(shape)])
    with pytest.raises(ValueError, match=r"^average: dtype must be None or one of float64, "):
        averaging.Average("numpy:reference", averaging.equal(), dtype="float8")
