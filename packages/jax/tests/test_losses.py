"""Rules that look at the loss, by our name and by optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isostep
import isostep_jax


@pytest.mark.parametrize("name", ["loss", "value"])
def test_the_loss_arrives_under_either_name_and_nothing_recompiles(name):
    chain = optax.chain(optax.clip(10.0), isostep_jax.momo(lr=0.3, weight_decay=0.1))
    rule = isostep.rule("momo", lr=0.3, weight_decay=0.1)
    reference = isostep.backend("numpy:reference")
    point = [np.array([3.0, -2.0, 1.0], np.float32)]
    state = reference.init(rule, point)
    params = {"w": jnp.array(point[0])}
    update, carried = jax.jit(chain.update), chain.init(params)
    for _ in range(5):
        loss, grads = jax.value_and_grad(lambda p: jnp.sum(p["w"] ** 2))(params)
        updates, carried = update(grads, carried, params, **{name: loss})
        params = optax.apply_updates(params, updates)
        reference.step(rule, point, [2 * point[0]], state, loss=float(np.sum(point[0] ** 2)))
        np.testing.assert_allclose(params["w"], point[0], rtol=1e-5)
    assert update._cache_size() == 1


def test_a_missing_or_a_wide_loss_is_an_error():
    tx = isostep_jax.momo(lr=0.3)
    params = {"w": jnp.ones(3)}
    with pytest.raises(isostep.StepError, match="momo needs the input 'loss'"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(isostep.StepError, match=r"loss must be .* a 0-d array, got shape \(3,\)"):
        tx.update(params, tx.init(params), params, value=jnp.ones(3))
