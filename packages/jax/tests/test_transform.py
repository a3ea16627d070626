"""The transformations: against optax and the reference, and inside what JAX users put them in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isostep
import isostep_jax

SHAPES = {"a": (5, 3), "b": {"c": (7,), "d": ()}}


def tree(seed, dtype, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    return jax.tree.map(
        lambda s: jnp.asarray(rng.standard_normal(s), dtype), shapes, is_leaf=is_shape
    )


def gradients(k, dtype, shapes=SHAPES):
    return jax.tree.map(lambda x: x * 10.0 ** (k % 5 - 2), tree(100 + k, dtype, shapes))


def run(tx, params, steps, dtype, shapes=SHAPES):
    state = tx.init(params)
    update = jax.jit(tx.update)
    for k in range(steps):
        updates, state = update(gradients(k, dtype, shapes), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


PEERS = {
    "adam": (
        lambda: isostep_jax.adam(0.1, betas=(0.8, 0.95), eps=1e-3, dialect="optax"),
        lambda: optax.adam(0.1, b1=0.8, b2=0.95, eps=1e-3),
    ),
    "adamw": (
        lambda: isostep_jax.adamw(0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.2),
        lambda: optax.adamw(0.1, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.2),
    ),
    "amsgrad": (
        lambda: isostep_jax.adam(0.1, betas=(0.8, 0.95), eps=1e-3, amsgrad=True, dialect="optax"),
        lambda: optax.amsgrad(0.1, b1=0.8, b2=0.95, eps=1e-3),
    ),
    "sgd": (
        lambda: isostep_jax.sgd(lambda done: 0.1 / (1 + done), momentum=0.7, nesterov=True),
        lambda: optax.sgd(lambda done: 0.1 / (1 + done), momentum=0.7, nesterov=True),
    ),
    "lamb": (
        lambda: isostep_jax.lamb(0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.2),
        lambda: optax.lamb(0.1, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.2),
    ),
    "clipped": (
        lambda: isostep_jax.transform(
            isostep.compose(
                isostep.pieces.clip_by_global_norm(max_norm=0.5, dialect="optax"),
                isostep.rule("adamw", lr=0.1, eps=1e-3),
            )
        ),
        lambda: optax.chain(
            optax.clip_by_global_norm(0.5), optax.adamw(0.1, eps=1e-3, weight_decay=1e-2)
        ),
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_thirty_steps_as_optax(name):
    ours, theirs = PEERS[name]
    with jax.enable_x64(True):
        a, _ = run(ours(), tree(0, jnp.float64), 30, jnp.float64)
        b, _ = run(theirs(), tree(0, jnp.float64), 30, jnp.float64)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


WITH_GRADIENTS = [
    n
    for n in isostep.rules()
    if not isostep.rule(n).input_names and not isostep.rule(n).group_input_names
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_every_rule_equals_the_reference(name):
    ndim = isostep.definition(name).ndim
    shapes = {
        k: s for k, s in {"m": (4, 3), "v": (6,), "s": ()}.items() if ndim is None or len(s) in ndim
    }
    rule = isostep.rule(name, lr=0.01)
    reference = isostep.backend("numpy:reference")
    with jax.enable_x64(True):
        params = tree(0, jnp.float64, shapes)
        arrays = {k: np.array(v) for k, v in params.items()}
        state = reference.init(rule, arrays)
        for k in range(6):
            grads = {n: np.array(g) for n, g in gradients(k, jnp.float64, shapes).items()}
            reference.step(rule, arrays, grads, state)
        params, found = run(isostep_jax.transform(rule), params, 6, jnp.float64, shapes)
    for k in shapes:
        np.testing.assert_allclose(params[k], arrays[k], rtol=1e-11, atol=1e-11)
    for n, v in state.group.items():
        np.testing.assert_allclose(found.group[n], v, rtol=1e-12)


def test_phases_inside_scan_and_a_stable_carry():
    rule = isostep.compose(isostep.rule("adamw", lr=0.1), isostep.pieces.lookahead(k=3, alpha=0.5))
    tx = isostep_jax.transform(rule)
    params = {"w": jnp.arange(4.0)}
    grads = jnp.linspace(-1.0, 1.0, 28).reshape(7, 4)

    def body(carry, g):
        params, state = carry
        updates, state = tx.update({"w": g}, state, params)
        return (optax.apply_updates(params, updates), state), None

    (scanned, state), _ = jax.lax.scan(body, (params, tx.init(params)), grads)
    backend = isostep.backend("jax:jit")
    plain, own = [params["w"]], backend.init(rule, [params["w"]])
    for g in grads:
        plain, own = backend.step(rule, plain, [g], own)
    np.testing.assert_allclose(scanned["w"], plain[0], rtol=2e-6)
    assert int(state.count) == 7


def test_inside_chain_masked_and_inject_hyperparams():
    params = tree(0, jnp.float32)
    tx = optax.chain(optax.clip(0.5), isostep_jax.adam(0.1))
    peer = optax.chain(optax.clip(0.5), optax.adam(0.1))
    for a, b in zip(
        jax.tree.leaves(run(tx, params, 5, jnp.float32)[0]),
        jax.tree.leaves(run(peer, params, 5, jnp.float32)[0]),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    injected = optax.inject_hyperparams(lambda lr: isostep_jax.addsign(lr))(lr=0.1)
    state = injected.init(params)
    calls = 0

    @jax.jit
    def update(g, s, p):
        nonlocal calls
        calls += 1
        return injected.update(g, s, p)

    first, state = update(gradients(0, jnp.float32), state, params)
    again = injected.init(params)
    again = again._replace(hyperparams={"lr": again.hyperparams["lr"] * 2})
    second, _ = update(gradients(0, jnp.float32), again, params)
    assert calls == 1
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(2 * a, b, rtol=1e-6)


def test_differentiable_and_vmapped():
    tx = isostep_jax.sgd(0.1, momentum=0.5)

    def after(p):
        updates, _ = tx.update({"w": 2.0 * p}, tx.init({"w": p}), {"w": p})
        return jnp.sum(p + updates["w"])

    np.testing.assert_allclose(jax.grad(after)(jnp.ones(3)), 0.8 * np.ones(3), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(after)(jnp.ones((2, 3))), [2.4, 2.4], rtol=1e-6)


def test_halves_zero_gradients_and_none_leaves():
    for dtype in (jnp.bfloat16, jnp.float16):
        tx = isostep_jax.adam(0.1)
        params = {"w": jnp.ones(3, dtype), "frozen": None}
        state = tx.init(params)
        updates, after = tx.update({"w": jnp.zeros(3, dtype), "frozen": None}, state, params)
        assert not np.asarray(updates["w"], np.float32).any()
        assert updates["frozen"] is None
        assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)


def test_extra_inputs_pass_through_and_errors_are_one_line():
    tx = isostep_jax.adahessian(0.1)
    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    grads = {"w": jnp.ones(3)}
    tx.update(grads, state, params, hessian_diag={"w": jnp.ones(3)}, value=3.0)
    with pytest.raises(isostep.StepError, match="adahessian needs the input 'hessian_diag'"):
        tx.update(grads, state, params)
    with pytest.raises(
        isostep.StepError, match=r"adam needs the parameters: update\(grads, state, params\)"
    ):
        isostep_jax.adam().update(grads, isostep_jax.adam().init(params))
    with pytest.raises(isostep.StepError, match="grads must have the structure of params"):
        tx.update({"v": grads["w"]}, state, params, hessian_diag=grads)
    with pytest.raises(isostep.StepError, match=r"must have shape \(3,\), got \(4,\)"):
        tx.update({"w": jnp.ones(4)}, state, params, hessian_diag=grads)
    with pytest.raises(isostep.StepError, match="must be one of float64"):
        tx.init({"w": jnp.arange(3)})
    with pytest.raises(AttributeError, match="no attribute 'adamx'; rules: ada"):
        isostep_jax.adamx  # noqa: B018


def test_a_formula_is_a_transformation_like_any_rule():
    made = isostep.from_formula("exp(ld(4)*sign(g)*sign(m)) * g", lr=0.05, beta1=0.8)
    decay = isostep.schedules.LinearInternalDecay(4)
    pair = (
        isostep_jax.transform(made),
        isostep_jax.powersign(0.05, beta=0.8, sign_internal_decay=decay),
    )
    params = tree(0, jnp.float32, {"a": (7,)})
    (ours, state), (other, _) = (run(tx, params, 3, jnp.float32, {"a": (7,)}) for tx in pair)
    np.testing.assert_array_equal(ours["a"], other["a"])
    assert list(state.arrays) == ["m"]
