"""Figures of jitted steps and of transformations, against the reference's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isostep
import isostep_jax
from isostep import pieces

REFERENCE = isostep.backend("numpy:reference")
PLAIN = isostep.compose(pieces.clip_by_norm(0.5), isostep.rule("lamb", lr=0.1, weight_decay=0.1))
#: Two kinds of step, each compiled.
RULE = isostep.compose(PLAIN, pieces.lookahead(2))


def near(found, wanted, tolerance):
    for name, row in wanted.items():
        for figure, value in row.items():
            np.testing.assert_allclose(
                found[name][figure], value, rtol=tolerance, atol=1e-7, err_msg=f"{name} {figure}"
            )


@pytest.mark.parametrize(("path", "dtype"), [("jax:jit", "float64"), ("jax:grouped", "float32")])
def test_figures_are_the_reference_s(path, dtype):
    backend, observed = isostep.backend(path), isostep.observe(PLAIN)
    rng = np.random.default_rng(0)
    shapes = [(4, 3), (7,), (0,), (), (7,)]
    others = [np.asarray(rng.normal(size=s)).astype(dtype) for s in shapes]
    params = [backend.asarray(p) for p in others]
    state, other = backend.init(observed, params), REFERENCE.init(observed, others)
    for k in range(2):
        grads = [np.asarray(rng.normal(size=s)).astype(dtype) for s in shapes]
        if k == 1:
            grads[0][0, 0] = np.nan
        params, state = backend.step(observed, params, [backend.asarray(g) for g in grads], state)
        REFERENCE.step(observed, others, grads, other)
        near(state.figures.rows(), other.figures.rows(), 1e-12 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_transformation_keeps_its_sums_in_its_state(grouped):
    plain = isostep_jax.transform(RULE, grouped=grouped)
    tx = isostep_jax.observe(plain)
    rng = np.random.default_rng(0)
    make = lambda: {  # noqa: E731
        "a": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
        "b": {"c": jnp.asarray(rng.normal(size=4), jnp.float32), "d": jnp.ones(4)},
    }
    params = make()
    leaves = [np.array(p) for p in jax.tree.leaves(params)]
    state, kept, other = tx.init(params), plain.init(params), REFERENCE.init(RULE, leaves)
    assert all(
        np.isnan(v)
        for row in isostep_jax.figures(state, params).rows().values()
        for v in row.values()
    )
    update, alone = jax.jit(tx.update), jax.jit(plain.update)
    for _ in range(2):
        grads = make()
        updates, state = update(grads, state, params)
        wanted, kept = alone(grads, kept, params)
        jax.tree.map(np.testing.assert_array_equal, updates, wanted)
        before, params = params, optax.apply_updates(params, updates)
        given = [np.array(g) for g in jax.tree.leaves(grads)]
        REFERENCE.step(isostep.observe(RULE), leaves, given, other)
        found = isostep_jax.figures(state, params).rows()
        near(found, other.figures.rows(["a", "b.c", "b.d"]), 1e-5)
    assert jax.tree.structure(state.state) == jax.tree.structure(kept)
    norm = jax.jit(lambda s, p: isostep_jax.figures(s, p).group()["parameter_norm"])(state, params)
    np.testing.assert_allclose(norm, optax.tree.norm(before), rtol=1e-6)


def test_no_leaves_are_observed_too():
    tx = isostep_jax.observe(isostep_jax.adamw(0.1))
    state = tx.init({"a": None})
    after = tx.update({"a": None}, state, {"a": None})[1]
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert after.sums.shape == state.sums.shape


def test_a_state_has_no_nan():
    tx, params = isostep_jax.observe(isostep_jax.adamw(0.1)), {"w": jnp.ones(3)}
    with jax.debug_nans(True):
        for init in (tx.init, jax.jit(tx.init)):
            state = tx.update(params, init(params), params)[1]
            group = isostep_jax.figures(state, params).group()
            np.testing.assert_allclose(group["gradient_norm"], np.sqrt(3), rtol=1e-6)


def test_errors():
    tx = isostep_jax.adamw(0.1)
    params = {"w": jnp.ones(3)}
    with pytest.raises(
        isostep.RuleError,
        match="observe needs a transformation of isostep_jax, not in flat mode, got",
    ):
        isostep_jax.observe(optax.sgd(0.1))
    with pytest.raises(
        TypeError, match=r"figures needs the state of observe\(tx\), got TransformState"
    ):
        isostep_jax.figures(tx.init(params), params)
    with pytest.raises(isostep.RuleError, match="flat needs a transformation of isostep_jax that"):
        isostep_jax.flat(isostep_jax.observe(tx), params)
