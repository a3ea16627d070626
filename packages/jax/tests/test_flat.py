"""Flat mode beside its steps: what does not fit, as a part of optax's transformations, as an object."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isostep
import isostep_jax

PARAMS = {"a": jnp.arange(3.0) + 1, "b": jnp.ones((2, 2))}
FLAT = isostep_jax.flat(isostep_jax.lamb(0.1), PARAMS)
BUFFERS = FLAT.flatten(PARAMS)
STATE = FLAT.init(BUFFERS)
FLOATS = {"float32": jnp.arange(7.0)}
LAYOUT = "flat(tx, params) makes another layout"


def tree(a, b):
    return {"a": jnp.asarray(a), "b": jnp.asarray(b)}


TREES = [
    (
        tree(np.ones(4, "f4"), np.ones(3, "f4")),
        f"lamb: flatten: leaf 0 must have shape (3,), got (4,); {LAYOUT}",
    ),
    (
        tree(np.ones(3, "f4"), np.ones((2, 2, 1), "f4")),
        f"lamb: flatten: leaf 1 must have shape (2, 2), got (2, 2, 1); {LAYOUT}",
    ),
    (
        tree(np.ones(3, int), np.ones((2, 2), "f4")),
        "lamb: flatten: leaf 0 must be floating, got int32; cast it first",
    ),
    (
        tree(np.ones(3, "f2"), np.ones((2, 2), "f4")),
        "lamb: flatten: leaves in buffer 'float32' must have one dtype, got float16, float32; cast them first",
    ),
    (
        {"a": 1.0, "b": jnp.ones((2, 2))},
        "lamb: flatten: leaf 0 must be an array, got float",
    ),
]


@pytest.mark.parametrize(("values", "text"), TREES)
def test_trees_that_do_not_fit_are_one_line(values, text):
    for flatten in (FLAT.flatten, jax.jit(FLAT.flatten)):
        if isinstance(values["a"], float) and flatten is not FLAT.flatten:
            continue  # jit makes an array of it
        with pytest.raises(isostep.StepError) as caught:
            flatten(values)
        assert str(caught.value) == text


NAMES = "lamb: buffers must be a dict of float32, got {}; make them with flat.flatten(tree)"
BAD = [
    ({"float32": jnp.arange(6.0)}, f"lamb: buffer 'float32' must have shape (7,), got (6,); {LAYOUT}"),
    ({"float32": jnp.arange(9.0)}, f"lamb: buffer 'float32' must have shape (7,), got (9,); {LAYOUT}"),
    ({"float32": jnp.ones((7, 1))}, f"lamb: buffer 'float32' must have shape (7,), got (7, 1); {LAYOUT}"),
    ({"float32": jnp.arange(7)}, "lamb: buffer 'float32' must be {}, got int32; cast it first"),
    ({}, NAMES.format("dict of nothing")),
    ({**FLOATS, "more": jnp.ones(2)}, NAMES.format("dict of float32, more")),
    (PARAMS, NAMES.format("dict of a, b")),
    (OrderedDict(FLOATS), NAMES.format("OrderedDict of float32")),
]  # fmt: skip


@pytest.mark.parametrize(("buffers", "text"), BAD)
def test_buffers_that_do_not_fit_are_one_line(buffers, text):
    calls = {
        "unflatten": lambda: FLAT.unflatten(buffers),
        "stacked": lambda: FLAT.stacked(buffers),
        "init": lambda: FLAT.init(buffers),
        "update": lambda: FLAT.update(BUFFERS, STATE, buffers),
        "jit": lambda: jax.jit(FLAT.update)(BUFFERS, STATE, buffers),
        "step": lambda: isostep_jax.step(FLAT)(buffers, BUFFERS, STATE),
    }
    for name, call in calls.items():
        with pytest.raises(isostep.StepError) as caught:
            call()
        dtype = "floating" if name in ("unflatten", "stacked") else "float32"
        assert str(caught.value) == text.format(dtype)


def test_parameters_of_another_dtype_are_refused_and_gradients_may_have_one():
    half = {"float32": BUFFERS["float32"].astype(jnp.bfloat16)}
    text = "^lamb: buffer 'float32' must be float32, got bfloat16; cast it first$"
    for call in (lambda: FLAT.init(half), lambda: FLAT.update(BUFFERS, STATE, half)):
        with pytest.raises(isostep.StepError, match=text):
            call()
    grads = FLAT.flatten(jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS))
    assert grads["float32"].dtype == jnp.bfloat16
    assert FLAT.unflatten(grads)["b"].dtype == jnp.bfloat16
    found, _ = FLAT.update(grads, STATE, BUFFERS)
    wanted, _ = FLAT.update({"float32": grads["float32"].astype(jnp.float32)}, STATE, BUFFERS)
    np.testing.assert_array_equal(found["float32"], wanted["float32"])


def test_checks_see_what_is_traced():
    many = {"float32": jnp.stack([BUFFERS["float32"]] * 3)}
    trees = jax.vmap(FLAT.unflatten)(many)
    assert {k: v.shape for k, v in trees.items()} == {"a": (3, 3), "b": (3, 2, 2)}
    np.testing.assert_array_equal(jax.vmap(FLAT.flatten)(trees)["float32"], many["float32"])
    one = jax.vmap(lambda b: FLAT.update(b, FLAT.init(b), b)[0])(many)
    wanted, _ = FLAT.update(BUFFERS, STATE, BUFFERS)
    np.testing.assert_allclose(one["float32"][1], wanted["float32"], rtol=1e-6)
    total = lambda b: sum(map(jnp.sum, FLAT.unflatten(b).values()))  # noqa: E731
    for slope in (jax.grad(total)(BUFFERS), jax.jacfwd(total)(BUFFERS)):
        np.testing.assert_array_equal(slope["float32"], np.ones(7))


# Inside optax's transformations

WRAPPED = {
    "chain": lambda tx: optax.chain(optax.clip(10.0), tx),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 1),
    "masked": lambda tx: optax.masked(tx, {"float32": True}),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(lambda lr: tx)(lr=0.1),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("rule", ["adahessian", "momo"])
def test_extra_arguments_reach_it(name, rule):
    flat = isostep_jax.flat(getattr(isostep_jax, rule)(0.1), PARAMS)
    assert isinstance(flat, optax.GradientTransformationExtraArgs)
    assert isinstance(flat, isostep_jax.FlatTransform)
    extra = {"hessian_diag": FLOATS} if rule == "adahessian" else {"value": 0.5}
    tx = WRAPPED[name](flat)
    found, _ = tx.update(FLOATS, tx.init(BUFFERS), BUFFERS, **extra)
    wanted, _ = flat.update(FLOATS, flat.init(BUFFERS), BUFFERS, **extra)
    np.testing.assert_allclose(found["float32"], wanted["float32"], rtol=5e-7)  # some compile it
    assert np.any(found["float32"])


def test_it_is_a_pair_that_is_neither_laid_out_again_nor_observed():
    init, update = FLAT
    assert init(BUFFERS).count == 0
    found, _ = update(BUFFERS, STATE, BUFFERS)
    np.testing.assert_array_equal(
        found["float32"], FLAT.update(BUFFERS, STATE, BUFFERS)[0]["float32"]
    )
    with pytest.raises(isostep.RuleError, match="that is neither observed nor flat, got FlatInit"):
        isostep_jax.flat(FLAT, PARAMS)
    with pytest.raises(isostep.RuleError, match="not in flat mode, got FlatInit"):
        isostep_jax.observe(FLAT)


# As objects

MADE = {
    "plain": isostep_jax.adamw(0.1, betas=(0.5, 0.75)),
    "options": isostep_jax.adam(0.1, grouped=True, state_dtype="bfloat16", rounding_seed=3),
    "composed": isostep_jax.transform(
        isostep.compose(isostep.rule("sgd", lr=0.1), isostep.pieces.lookahead(k=2))
    ),
    "observed": isostep_jax.observe(isostep_jax.lamb(0.1)),
    "flat": FLAT,
}
COPIES = {
    "pickle": lambda tx: pickle.loads(pickle.dumps(tx)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", MADE)
def test_transformations_can_be_pickled_and_copied(name, way):
    tx = MADE[name]
    back = COPIES[way](tx)
    assert type(back) is type(tx)
    params = BUFFERS if name == "flat" else PARAMS
    pairs = [jax.tree.leaves(each.update(params, each.init(params), params)) for each in (tx, back)]
    for found, wanted in zip(*pairs, strict=True):
        np.testing.assert_array_equal(found, wanted)
    if name == "flat":
        jax.tree.map(np.testing.assert_array_equal, back.unflatten(BUFFERS), PARAMS)
        jax.tree.map(np.testing.assert_array_equal, back.stacked(BUFFERS), PARAMS)
