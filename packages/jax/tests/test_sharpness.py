"""SAM on JAX arrays against optax.contrib.sam."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

import isostep
from isostep.sharpness import SAM


def test_sam_equals_optax():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        w = jnp.asarray(rng.standard_normal((4, 3)))
        start = {
            "a": jnp.asarray(rng.standard_normal(3)),
            "b": jnp.asarray(rng.standard_normal((3, 2))),
        }

        def loss(params):
            return jnp.sum(jnp.sin(w @ params["a"])) + jnp.sum(
                jnp.tanh(params["b"]) ** 2
            ) * jnp.sum(params["a"])

        gradient = jax.grad(loss)
        theirs = contrib.sam(
            optax.sgd(0.05, momentum=0.9),
            optax.chain(contrib.normalize(), optax.sgd(0.2)),
            sync_period=2,
            opaque_mode=True,
        )
        other, kept = start, theirs.init(start)
        backend = isostep.backend("jax:jit")
        rule, sam = isostep.rule("sgd", lr=0.05, momentum=0.9), SAM(backend, 0.2, eps=0.0)
        params, state = start, backend.init(rule, start)
        for _ in range(12):
            g = sam.gradient(gradient, params)
            params, state = backend.step(rule, params, g, state)
            updates, kept = theirs.update(
                gradient(other), kept, other, grad_fn=lambda p, _: gradient(p)
            )
            other = optax.apply_updates(other, updates)
            for name in params:
                np.testing.assert_allclose(
                    np.array(params[name]), np.array(other[name]), rtol=1e-10, atol=1e-10
                )
