"""Leaves of float64 beside others: they keep their digits, whatever is computed for all of them at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isostep
import isostep_jax


@pytest.mark.parametrize("other", ["float32", "bfloat16"])
def test_a_leaf_of_float64_takes_the_step_that_it_takes_alone(other):
    # Its weights are chosen on the device, by t: 1 - beta from the second step on.
    tx = isostep_jax.novograd(0.1, betas=(0.7, 0.6), grad_averaging=True)
    with jax.enable_x64(True):
        wide = jnp.linspace(-1.0, 2.0, 7, dtype="float64")
        mixed = [jnp.linspace(1.0, 2.0, 7, dtype=other), wide]  # in the order of their evaluation
        found, state = mixed, tx.init(mixed)
        alone, own = [wide], tx.init([wide])
        for _ in range(3):
            updates, state = tx.update(found, state, found)
            found = optax.apply_updates(found, updates)
            updates, own = tx.update(alone, own, alone)
            alone = optax.apply_updates(alone, updates)
        np.testing.assert_allclose(found[1], alone[0], rtol=1e-14)


def test_a_first_state_of_a_float32_hyperparameter_has_float64_s_digits():
    scale = jnp.float32(0.97)
    tx = isostep_jax.psgd_kron(0.1, precond_init_scale=scale)
    rule = isostep.rule("psgd_kron", lr=0.1, precond_init_scale=float(scale))
    with jax.enable_x64(True):
        params = [np.ones((2, 3)), np.ones((2, 2, 2))]
        wanted = isostep.backend("numpy:reference").init(rule, params)
        found = tx.init(list(map(jnp.asarray, params)))
        for n, arrays in found.arrays.items():
            for a, own in zip(arrays, wanted.arrays, strict=True):
                np.testing.assert_allclose(a, own[n], rtol=1e-15, err_msg=n)
