"""Derivatives through a step where roots are taken of zero, and values that do not change for their sake."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isostep
import isostep_jax
from isostep import nm
from isostep_jax.evaluate import FORMS, power, quotient

ROOTS = {
    "sqrt": FORMS["sqrt"][1],
    "cbrt": FORMS["cbrt"][1],
    "fixed": lambda x: power(x, 0.5),
    "traced": lambda x: power(x, jnp.asarray(0.5, x.dtype)),
}
PLAIN = {
    "sqrt": jnp.sqrt,
    "cbrt": jnp.cbrt,
    "fixed": lambda x: nm.call("pow", x, 0.5),
    "traced": lambda x: x ** jnp.asarray(0.5, x.dtype),
}
#: Where roots have no derivative, or none that is finite, and a place where they have all.
AT = np.array([0.0, -0.0, 4.0, np.inf], np.float32)


@pytest.mark.parametrize("name", ROOTS)
def test_values_have_the_bits_of_the_plain_root(name):
    exponents = np.random.default_rng(0).uniform(-40, 38, 10_000)
    x = jnp.asarray(np.concatenate([AT, [np.nan, -1.0], 10.0**exponents]), jnp.float32)
    root, plain = ROOTS[name], PLAIN[name]
    for around in (lambda f: f, jax.jit, lambda f: jax.jit(lambda x: 2 / (f(x) + 1e-8))):
        found, wanted = around(root)(x), around(plain)(x)
        np.testing.assert_array_equal(
            np.array(found).view(np.int32), np.array(wanted).view(np.int32)
        )


@pytest.mark.parametrize("name", ROOTS)
def test_derivatives_of_every_order_are_zero_at_zero(name):
    root, plain = ROOTS[name], PLAIN[name]
    first, second = jax.grad(root), jax.grad(jax.grad(root))
    third = jax.jvp(second, (jnp.float32(0),), (jnp.float32(1),))[1]
    assert float(third) == 0
    for each, of_plain in ((first, jax.grad(plain)), (second, jax.grad(jax.grad(plain)))):
        for found in (jax.vmap(each)(AT), jax.jit(jax.vmap(each))(AT)):
            assert found[:2].tolist() == [0, 0]
            assert float(found[2]) == pytest.approx(float(of_plain(AT[2])), rel=2e-7)
    assert float(jax.vmap(first)(AT)[3]) == 0
    forward = jax.jvp(root, (jnp.asarray(AT),), (jnp.ones(4),))[1]
    np.testing.assert_array_equal(forward, jax.vmap(first)(AT))


def test_powers_are_derived_by_their_exponents_too():
    both = jax.grad(power, (0, 1))
    for x, e, wanted in (
        (0.0, 0.5, (0.0, 0.0)),
        (0.0, 0.0, (0.0, 0.0)),
        (0.0, 1.0, (1.0, 0.0)),
        (0.0, 2.0, (0.0, 0.0)),
        (1.0, 0.5, (0.5, 0.0)),
        (np.e, 2.0, (2 * np.e, np.e**2)),
    ):
        found = both(jnp.float32(x), jnp.float32(e))
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_quotient_by_what_has_no_square():
    tiny = jnp.float32(2.0**-126)
    found = jax.grad(quotient, (0, 1))(jnp.float32(0), tiny)
    assert list(map(float, found)) == [2.0**126, 0.0]
    found = jax.grad(quotient, (0, 1))(jnp.float32(3), jnp.float32(4))
    assert list(map(float, found)) == [0.25, -0.1875]
    assert float(jax.grad(lambda y: quotient(1.0, y))(jnp.float32(2))) == -0.25
    x = np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(quotient)(*x), jax.jit(lambda x, y: x / y)(*x))


X = jnp.array([[1.0, 2.0]])


def loss(p):
    return jnp.sum((X.astype(p["w"].dtype) @ p["w"] + p["b"] - 1) ** 2)


def after(tx, still=False, steps=1, into=lambda x: x, out=lambda x: x):
    """The loss after some steps as a function of the first parameters; ``still``: by gradients of zero."""

    def meta(params):
        p = into(params)
        state = tx.init(p)
        for _ in range(steps):
            grads = jax.grad(lambda p: loss(out(p)))(p)
            grads = jax.tree.map(lambda g: 0 * g, grads) if still else grads
            updates, state = tx.update(grads, state, p)
            p = optax.apply_updates(p, updates)
        return loss(out(p))

    return meta


BIAS = {"w": jnp.ones((2, 2)), "b": jnp.zeros(2)}


def test_lamb_through_a_bias_of_zero_is_optax_s():
    for b in (0.0, 0.5):
        params = BIAS | {"b": jnp.full(2, b)}
        wanted = jax.grad(after(optax.lamb(0.1)))(params)
        plain = isostep_jax.lamb(0.1)
        flat = isostep_jax.flat(plain, params)
        for meta in (
            after(plain),
            jax.jit(after(plain)),
            after(isostep_jax.lamb(0.1, grouped=True)),
            after(flat, into=flat.flatten, out=flat.unflatten),
        ):
            found = jax.grad(meta)(params)
            jax.tree.map(
                lambda a, w: np.testing.assert_allclose(a, w, rtol=1e-5, atol=1e-5), found, wanted
            )
    assert not b or np.isfinite(wanted["b"]).all()
    np.testing.assert_allclose(jax.grad(after(isostep_jax.lamb(0.1)))(BIAS)["b"], 3.2, rtol=1e-5)


def test_adam_s_slope_at_a_gradient_of_zero():
    tx = isostep_jax.adam(0.25, eps=0.5)

    def moved(g):
        p = jnp.ones(3)
        return jnp.sum(tx.update(g, tx.init(p), p)[0])

    for each in (jax.grad(moved), jax.jit(jax.grad(moved)), jax.jacfwd(moved)):
        np.testing.assert_allclose(each(jnp.zeros(3)), [-0.5] * 3, rtol=3e-7)  # -lr / eps
    second = jax.grad(lambda g: jnp.sum(jax.grad(moved)(g)))(jnp.zeros(3))
    assert np.isfinite(second).all()


def test_a_scan_of_steps_from_zero_is_differentiable():
    tx = isostep_jax.lars(0.1)

    def trained(p):
        def body(carry, _):
            p, state = carry
            updates, state = tx.update(jax.grad(loss)(p), state, p)
            return (optax.apply_updates(p, updates), state), None

        (p, _), _ = jax.lax.scan(body, (p, tx.init(p)), length=3)
        return loss(p)

    found = jax.grad(trained)(BIAS)
    unrolled = jax.grad(after(tx, steps=3))(BIAS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, unrolled)


@pytest.mark.parametrize("name", ["sgd_hd", "adam_hd"])
def test_the_first_hypergradient_divides_by_the_smallest_number(name):
    tx = getattr(isostep_jax, name)(0.01, multiplicative=True)
    found = jax.grad(after(tx))(BIAS)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda p: p.astype(jnp.float64), BIAS)
        wanted = jax.grad(after(tx))(wide)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, wanted)


@pytest.mark.parametrize("units", [False, True])
def test_the_deviation_of_one_element_has_a_derivative_in_a_flat_buffer_too(units):
    piece = isostep.pieces.normalize_gradient(units=units)
    tx = isostep_jax.transform(isostep.compose(piece, isostep.rule("sgd", lr=0.1)))
    params = {"b": jnp.full((1, 1), 0.5), "w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)}
    flat = isostep_jax.flat(tx, params)

    def updated(p):
        return tx.update(p, tx.init(params), params)[0]

    def updated_flat(p):
        start = flat.flatten(params)
        return flat.unflatten(flat.update(flat.flatten(p), flat.init(start), start)[0])

    total = lambda u: sum(jnp.sum(jnp.sin(v)) for v in jax.tree.leaves(u))  # noqa: E731
    wanted, found = (jax.grad(lambda p, f=f: total(f(p)))(params) for f in (updated, updated_flat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, wanted)


#: The eigenvectors of equal eigenvalues have no derivative, and such are zeros.
WITHOUT = ("shampoo", "soap")
TAKEN = [
    n
    for n in isostep.rules()
    if not (isostep.rule(n).input_names or isostep.rule(n).group_input_names)
    and not isostep.rule(n).sequential
    and isostep.definition(n).ndim in (None, (0, 1, 2, 3, 4))
    and n not in WITHOUT
]
STARTS = {
    "a bias of zero": (BIAS, False),
    "zeros": (jax.tree.map(jnp.zeros_like, BIAS), False),
    "gradients of zero": (BIAS, True),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", TAKEN)
def test_derivatives_through_every_rule_are_finite(name):
    tx = getattr(isostep_jax, name)()
    for params, still in STARTS.values():
        found = jax.grad(after(tx, still, steps=2))(params)
        assert all(np.isfinite(v).all() for v in jax.tree.leaves(found))
