"""Under ``jax_numpy_dtype_promotion="strict"``, where JAX widens nothing that it is not told to widen; and of ranks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isostep
import isostep_jax
from isostep.schedules import sign_decays


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def params_of(name, dtype):
    ndim = isostep.definition(name).ndim
    shapes = {"m": (3, 2), "v": (3,), "s": ()}
    return {k: jnp.ones(s, dtype) for k, s in shapes.items() if ndim is None or len(s) in ndim}


def extra_of(rule, params):
    return dict.fromkeys(rule.input_names, params) | dict.fromkeys(rule.group_input_names, 0.5)


def check(tx, rule, params):
    """A step is traced, that in place too; what comes out has the dtypes that it has otherwise."""
    extra = extra_of(rule, params)
    state = jax.eval_shape(tx.init, params)
    found = jax.eval_shape(tx.update, params, state, params, **extra)
    stepped = jax.eval_shape(isostep_jax.step(tx), params, params, state, **extra)
    with jax.numpy_dtype_promotion("standard"):
        assert found == jax.eval_shape(tx.update, params, state, params, **extra)
    assert stepped == jax.eval_shape(lambda: (params, state))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", isostep.rules())
def test_every_rule_steps(name, dtype):
    rule = isostep.rule(name)
    if rule.sequential:
        pytest.skip("no transformation")
    check(isostep_jax.transform(rule), rule, params_of(name, dtype))


OPTIONS = [
    {"grouped": True},
    {"exact_updates": False},
    {"master_weights": True},
    {"kahan": True},
    {"stochastic_rounding": True},
    {"state_dtype": "float32"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: next(iter(o)))
@pytest.mark.parametrize("name", ["lamb", "sgd_hd", "ranger"])
def test_every_option_steps(name, options):
    rule = isostep.rule(name)
    check(isostep_jax.transform(rule, **options), rule, params_of(name, "bfloat16"))


@pytest.mark.parametrize("name", sign_decays.__all__)
def test_schedules_multiply_floats_by_whole_numbers(name):
    rule = isostep.rule("addsign", sign_internal_decay=getattr(sign_decays, name)(7))
    check(isostep_jax.transform(rule), rule, params_of("addsign", "float32"))


@pytest.mark.parametrize("name", isostep.rules())
def test_no_rank_is_raised(name):
    rule = isostep.rule(name)
    if rule.sequential:
        pytest.skip("no transformation")
    with jax.numpy_rank_promotion("raise"):
        check(isostep_jax.transform(rule), rule, params_of(name, "float32"))


def test_flat_and_observed_steps():
    rule, params = isostep.rule("lamb"), params_of("lamb", "bfloat16")
    flat = isostep_jax.flat(isostep_jax.transform(rule), params)
    check(flat, rule, flat.flatten(params))
    check(isostep_jax.observe(isostep_jax.transform(rule)), rule, params)


def quadratic(p):
    return jnp.sum(p["x"].astype(jnp.float32) ** 2) + jnp.sum(p["y"].astype(jnp.float32) ** 3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_second_gradients_are_the_same_numbers(dtype, adaptive):
    params = {"x": jnp.linspace(-1, 1, 5, dtype=dtype), "y": jnp.linspace(1, 2, 3, dtype=dtype)}
    sam = isostep_jax.sam_gradient(quadratic, rho=0.3, adaptive=adaptive)
    look = isostep_jax.looksam_gradient(quadratic, rho=0.3, k=2, adaptive=adaptive)
    tasks = isostep_jax.pcgrad([quadratic, lambda p: -0.5 * quadratic(p)])
    diagonal = isostep_jax.hutchinson(quadratic)

    def every():
        first, state = look.gradient(params, look.init(params))
        second, _ = look.gradient(params, state)
        key = jax.random.key(0)
        return sam(params), first, second, tasks(params, key), diagonal(params, key)

    found = every()
    with jax.numpy_dtype_promotion("standard"):
        wanted = every()
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(dtype)}


def test_pcgrad_takes_leaves_of_several_dtypes():
    params = {"x": jnp.linspace(-1, 1, 5, dtype="bfloat16"), "y": jnp.linspace(1, 2, 3)}
    of = isostep_jax.pcgrad([quadratic, lambda p: -0.5 * quadratic(p)])
    found = of(params, jax.random.key(0))
    with jax.numpy_dtype_promotion("standard"):
        wanted = of(params, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert jax.tree.map(jnp.result_type, found) == jax.tree.map(jnp.result_type, params)
