"""Accumulation and skipped steps on JAX arrays, against optax.MultiSteps and optax.apply_if_finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isostep
from isostep.guards import Accumulate, ApplyIfFinite


@pytest.mark.whole
@pytest.mark.parametrize("most", [0, 2, 9])
def test_equals_optax(most):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        theirs = optax.apply_if_finite(optax.adam(0.1, eps=1e-3), most)
        multi = optax.MultiSteps(optax.adam(0.1, eps=1e-3), 3)
        start = {"w": jnp.asarray(rng.standard_normal(4))}
        a, b, c, d = start, start, start, start
        kept, many = theirs.init(a), multi.init(c)
        backend, rule = (
            isostep.backend("jax:jit"),
            isostep.rule("adam", lr=0.1, eps=1e-3, dialect="optax"),
        )
        guard, accumulated = ApplyIfFinite(backend, most), Accumulate(backend, 3)
        state, other = backend.init(rule, b), backend.init(rule, d)
        for t in range(14):
            g = {"w": jnp.asarray(rng.standard_normal(4))}
            updates, many = multi.update(g, many, c)
            c = optax.apply_updates(c, updates)
            mean = accumulated.add(g)
            if mean is not None:
                d, other = backend.step(rule, d, mean, other)
            # optax holds the mean in float32, whatever the gradients are; the steps are of 0.1
            np.testing.assert_allclose(np.array(d["w"]), np.array(c["w"]), rtol=0, atol=2e-7)
            if t in (2, 5, 6, 10, 11, 12):
                g = {"w": g["w"].at[1].set(jnp.inf)}
            updates, kept = theirs.update(g, kept, a)
            a = optax.apply_updates(a, updates)
            b, state = guard.step(rule, b, g, state)
            np.testing.assert_allclose(np.array(b["w"]), np.array(a["w"]), rtol=1e-12, atol=1e-13)
            assert guard.in_a_row == int(kept.notfinite_count)
        assert np.isnan(np.array(a["w"])).any() == (most < 3)
