"""Averages of JAX arrays, which are handed out rather than swapped in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isostep_jax
from isostep import averaging


def test_averages_are_handed_out():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        places = [{"w": jnp.asarray(rng.standard_normal((3, 2)))} for _ in range(6)]
    average = averaging.Average("jax:jit", averaging.ema(0.8))
    for params in places:
        average.update(params)
    wanted = np.array(places[0]["w"])
    for params in places[1:]:
        wanted = 0.8 * wanted + 0.2 * np.array(params["w"])
    params = places[-1]
    with average.swapped(params) as averaged:
        assert set(averaged) == {"w"}
        np.testing.assert_allclose(np.array(averaged["w"]), wanted, rtol=1e-13)
        assert averaged is not params
    assert params is places[-1]


def test_batch_statistics_are_the_mean_over_batches():
    """Two layers of different momentum, and an array that no pass changes."""
    rng = np.random.default_rng(0)
    batches = [jnp.asarray(rng.normal(300.0, 2.0, (8, 3)), jnp.float32) for _ in range(4)]
    old = {
        "a": {"mean": jnp.full(3, 7.0), "var": jnp.full(3, 9.0)},
        "b": {"mean": jnp.zeros(3)},
        "fixed": jnp.full(2, 5.0),
    }

    def forward(stats, x):
        a, b = stats["a"], stats["b"]
        return {
            "a": {
                "mean": 0.99 * a["mean"] + 0.01 * x.mean(0),
                "var": 0.99 * a["var"] + 0.01 * x.var(0),
            },
            "b": {"mean": 0.8 * b["mean"] + 0.2 * jnp.tanh(x).mean(0)},
            "fixed": stats["fixed"],
        }

    found = isostep_jax.fresh_batch_stats(forward, old, iter(batches))
    mean = lambda f: np.mean([np.asarray(f(x), np.float64) for x in batches], axis=0)  # noqa: E731
    np.testing.assert_allclose(found["a"]["mean"], mean(lambda x: x.mean(0)), rtol=5e-5)
    np.testing.assert_allclose(found["a"]["var"], mean(lambda x: x.var(0)), rtol=5e-5)
    np.testing.assert_allclose(found["b"]["mean"], mean(lambda x: jnp.tanh(x).mean(0)), rtol=1e-5)
    np.testing.assert_array_equal(found["fixed"], old["fixed"])
    with pytest.raises(ValueError, match="fresh_batch_stats: needs at least one batch"):
        isostep_jax.fresh_batch_stats(forward, old, [])
