"""L-BFGS on trees of JAX arrays: the iterates of the NumPy form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isostep
import isostep_jax
from isostep.state import StepError


def loss_of(params):
    x = params["x"]
    return jnp.sum(jnp.cosh(x - 1.0)) + 0.25 * jnp.sum((params["y"]["z"] - x[0]) ** 4)


def by_hand(params):
    x, z = params
    c = (z - x[0]) ** 3
    return np.sum(np.cosh(x - 1.0)) + 0.25 * np.sum((z - x[0]) ** 4), [
        np.sinh(x - 1.0) - np.array([c.sum(), 0.0, 0.0]),
        c,
    ]


@pytest.mark.parametrize("line_search_fn", [None, "strong_wolfe"])
def test_lbfgs_on_a_tree_is_that_of_numpy(line_search_fn):
    hyper = {"line_search_fn": line_search_fn, "lr": 0.5, "max_iter": 4, "history_size": 3}
    x, z = np.array([2.0, -1.0, 0.5]), np.array([[0.25, 3.0]])
    with jax.enable_x64(True):
        tree, state = {"x": jnp.asarray(x), "y": {"z": jnp.asarray(z)}}, None
        solver, compiled = isostep_jax.lbfgs(**hyper), jax.jit(jax.value_and_grad(loss_of))
        params, own = [x, z], None
        for _ in range(4):
            loss, tree, state = solver.step(compiled, tree, state)
            again, params, own = isostep.solvers.lbfgs(**hyper).step(by_hand, params, own)
            np.testing.assert_allclose(loss, again, rtol=1e-10)
            np.testing.assert_allclose(tree["x"], params[0], atol=1e-10)
            np.testing.assert_allclose(tree["y"]["z"], params[1], atol=1e-10)
            assert (state.func_evals, state.n_iter) == (own.func_evals, own.n_iter)
        with pytest.raises(StepError, match="expected 2 gradients, got 1"):
            solver.step(lambda p: (1.0, {"x": p["x"]}), tree, state)
    assert "lbfgs" in dir(isostep_jax)


@pytest.mark.parametrize("leaf", [2.0, np.array([2.0, -1.0])], ids=["Python", "NumPy"])
def test_leaves_that_are_not_jax_s_are_taken_as_jax_has_them(leaf):
    compiled = jax.jit(jax.value_and_grad(lambda p: jnp.sum((p["a"] - 1.0) ** 2)))
    found = isostep_jax.lbfgs().step(compiled, {"a": leaf})
    wanted = isostep_jax.lbfgs().step(compiled, {"a": jnp.asarray(leaf)})
    assert found[0] == wanted[0]
    assert found[1]["a"].dtype == jnp.float32
    np.testing.assert_array_equal(found[1]["a"], wanted[1]["a"])
