"""The helpers for extra inputs, each against a derivation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isostep
import isostep_jax
from isostep.sharpness import SAM, LookSAM

A = np.array([[2.0, 0.5, 0.0], [0.5, -1.0, 0.25], [0.0, 0.25, 3.0]])


def quadratic(p, scale=1.0):
    return scale * (0.5 * p["x"] @ jnp.asarray(A, p["x"].dtype) @ p["x"] + jnp.sum(p["y"] ** 3))


PARAMS = {"x": jnp.array([1.0, -2.0, 0.5]), "y": jnp.array([0.5, 2.0])}


def test_hutchinson_is_exact_for_a_diagonal_hessian():
    found = isostep_jax.hutchinson(quadratic)(PARAMS, jax.random.key(0), 2.0)
    np.testing.assert_allclose(found["y"], 2.0 * 6 * PARAMS["y"], rtol=1e-6)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, PARAMS)


@pytest.mark.parametrize(("kind", "error"), [("rademacher", 0.03), ("gaussian", 0.25)])
def test_hutchinson_tends_to_the_diagonal(kind, error):
    # Variances of z_i (Az)_i: the squares of a row beside its diagonal, and for normal z twice that of the diagonal.
    estimate = isostep_jax.hutchinson(quadratic, samples=4000, distribution=kind)
    found = jax.jit(estimate)(PARAMS, jax.random.key(1))
    np.testing.assert_allclose(found["x"], np.diag(A), atol=error)


def test_hutchinson_feeds_adahessian():
    tx = isostep_jax.adahessian(0.1)
    diag = isostep_jax.hutchinson(quadratic)(PARAMS, jax.random.key(0))
    tx.update(jax.grad(quadratic)(PARAMS), tx.init(PARAMS), PARAMS, hessian_diag=diag)
    with pytest.raises(ValueError, match="distribution must be one of 'rademacher', 'gaussian'"):
        isostep_jax.hutchinson(quadratic, distribution="uniform")


def test_noise_is_that_of_optax():
    rule = isostep.compose(isostep.pieces.gradient_noise(0.3, gamma=0.8), isostep.rule("sgd", lr=1))
    ours, theirs = isostep_jax.transform(rule), optax.add_noise(0.3, 0.8, key=jax.random.key(4))
    state, other, key = ours.init(PARAMS), theirs.init(PARAMS), jax.random.key(4)
    for _ in range(3):
        key, now = jax.random.split(key)
        noise = isostep_jax.noise(now, PARAMS)
        found, state = ours.update(PARAMS, state, PARAMS, noise=noise)
        wanted, other = theirs.update(PARAMS, other)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(-a, b, rtol=1e-5)


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_second_gradient_of_sam(adaptive):
    x, y = (np.array(PARAMS[k], np.float64) for k in "xy")
    gx, gy = A @ x, 3 * y**2
    tx, ty = (np.abs(x) + 0.01, np.abs(y) + 0.01) if adaptive else (np.ones(3), np.ones(2))
    norm = np.sqrt(np.sum((tx * gx) ** 2) + np.sum((ty * gy) ** 2))
    x, y = x + 0.3 * tx**2 * gx / norm, y + 0.3 * ty**2 * gy / norm
    made = isostep_jax.sam_gradient(quadratic, rho=0.3, adaptive=adaptive, eta=0.01)
    found = made(PARAMS)
    np.testing.assert_allclose(found["x"], A @ x, rtol=1e-5)
    np.testing.assert_allclose(found["y"], 3 * y**2, rtol=1e-5)


def test_sam_at_a_stationary_point_is_finite():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    found = isostep_jax.sam_gradient(quadratic)(zero)
    assert all(np.all(np.array(v) == 0) for v in found.values())


def test_pcgrad_projects_conflicts_away():
    directions = [np.array([1.0, 0.0, 0.0]), np.array([-1.0, 1.0, 0.0]), np.array([0.0, 0.0, 0.0])]
    losses = [lambda p, d=d: p @ jnp.asarray(d, jnp.float32) for d in directions]
    found = isostep_jax.pcgrad(losses, reduction="sum")(jnp.zeros(3), jax.random.key(0))
    a, b, _ = directions
    # a . b = -1, |a|^2 = 1, |b|^2 = 2: a + b/2 and b + a; the third task has no gradient and no part.
    np.testing.assert_allclose(found, (a + b / 2) + (b + a), rtol=1e-6)
    agreeing = [lambda p: jnp.sum(p), lambda p: 2 * jnp.sum(p)]
    np.testing.assert_allclose(isostep_jax.pcgrad(agreeing)(jnp.zeros(3), jax.random.key(0)), 1.5)
    mean = isostep_jax.pcgrad(losses)(jnp.zeros(3), jax.random.key(0))
    np.testing.assert_allclose(mean, found / 3, rtol=1e-6)
    with pytest.raises(ValueError, match="reduction must be one of 'mean', 'sum', got 'max'"):
        isostep_jax.pcgrad(losses, reduction="max")
    with pytest.raises(
        ValueError, match=r"^pcgrad: losses must be one function for each task, got none"
    ):
        isostep_jax.pcgrad([])
    each = isostep_jax.task_gradients(losses)(jnp.zeros(3))
    for g, d in zip(each, directions, strict=True):
        np.testing.assert_array_equal(g, d)


def test_pcgrad_of_halves_multiplies_in_float32():
    first = lambda p: jnp.sum(p.astype(jnp.float32) * jnp.array([300.0, 0.0]))  # noqa: E731
    second = lambda p: jnp.sum(p.astype(jnp.float32) * jnp.array([-300.0, 300.0]))  # noqa: E731
    gradient = isostep_jax.pcgrad([first, second], reduction="sum")
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
        found = gradient(jnp.ones(2, dtype), jax.random.key(0))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, jnp.array([150, 450], dtype))


def test_looksam_is_the_host_s():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: p.astype(jnp.float64), PARAMS)
        backend = isostep.backend("jax:jit")
        host = LookSAM(SAM(backend, 0.3), k=3, alpha=0.6)
        made = isostep_jax.looksam_gradient(quadratic, rho=0.3, k=3, alpha=0.6)
        state, gradient = made.init(params), jax.jit(made.gradient)
        for _ in range(7):
            found, state = gradient(params, state)
            wanted = host.gradient(jax.grad(quadratic), params)
            for name, w in wanted.items():
                np.testing.assert_allclose(found[name], w, rtol=1e-12)
            params = jax.tree.map(lambda p, g: p - 0.05 * g, params, found)
    with pytest.raises(ValueError, match="looksam: k must be an integer >= 1, got 0"):
        isostep_jax.looksam_gradient(quadratic, k=0)


def test_hutchinson_s_spatial_average_is_per_kernel():
    kernel = {"w": jnp.arange(1.0, 37.0).reshape(3, 2, 2, 3), "b": jnp.array([1.0, -2.0])}

    def cubes(p):
        return jnp.sum(p["w"] ** 3) - jnp.sum(p["b"] ** 3)

    found = isostep_jax.hutchinson(cubes, spatial_axes=(0, 1))(kernel, jax.random.key(0))
    wanted = np.mean(6 * np.array(kernel["w"]), axis=(0, 1), keepdims=True)
    np.testing.assert_allclose(found["w"], np.broadcast_to(wanted, (3, 2, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found["b"], [6.0, 12.0], rtol=1e-6)


def test_numbers_are_checked_where_they_are_given():
    loss = lambda params: jnp.sum(params**2)  # noqa: E731
    for samples in (0, 2.5, "3"):
        with pytest.raises((TypeError, ValueError), match=r"^hutchinson: samples must be an"):
            isostep_jax.hutchinson(loss, samples=samples)
    for make in (isostep_jax.sam_gradient, isostep_jax.looksam_gradient):
        with pytest.raises(ValueError, match=r"^sam: rho must be a finite number >= 0, got -1; "):
            make(loss, rho=-1)
        with pytest.raises(TypeError, match=r"^sam: eta must be a finite number >= 0, got '0'; "):
            make(loss, eta="0")
    along = jax.jit(lambda rho: isostep_jax.sam_gradient(loss, rho=rho)(jnp.ones(2)))
    np.testing.assert_allclose(along(0.5), isostep_jax.sam_gradient(loss, rho=0.5)(jnp.ones(2)))


@pytest.mark.parametrize("leaf", [2.0, np.array([1.0, 2.0])], ids=["Python", "NumPy"])
def test_leaves_that_are_not_jax_s_are_as_under_jit(leaf):
    params, key = {"a": leaf, "b": jnp.ones(2)}, jax.random.key(0)
    loss = lambda p: jnp.sum(p["a"] ** 3) + jnp.sum(p["b"])  # noqa: E731
    look = isostep_jax.looksam_gradient(loss)
    for of in (
        lambda p: isostep_jax.hutchinson(loss, distribution="gaussian")(p, key),
        lambda p: isostep_jax.noise(key, p),
        isostep_jax.sam_gradient(loss, adaptive=True),
        lambda p: look.gradient(p, look.init(p))[0],
    ):
        found, wanted = of(params), jax.jit(of)(params)
        assert jax.tree.map(jnp.result_type, found) == jax.tree.map(jnp.result_type, wanted)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, wanted)
    shapes = jax.eval_shape(lambda p: p, params)
    jax.tree.map(
        np.testing.assert_array_equal, *(isostep_jax.noise(key, p) for p in (params, shapes))
    )
