"""Averages of JAX arrays, which are handed out rather than swapped in."""

import jax
import jax.numpy as jnp
import numpy as np

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
