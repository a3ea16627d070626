"""Steps in place: the same bits as steps in new arrays, and on a CPU without the copies that XLA makes by default."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isostep
import isostep_jax
from isostep_jax import donated
from isostep_jax.mesh import multiplies

SHAPES = {"m": (5, 7), "v": (3,), "s": ()}


def arrays(name, seed):
    rng, ndim = np.random.default_rng(seed), isostep.definition(name).ndim
    shapes = {k: s for k, s in SHAPES.items() if ndim is None or len(s) in ndim}
    return {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", isostep.rules())
def test_a_step_in_place_has_the_bits_of_one_in_new_arrays(name):
    rule = isostep.rule(name)
    if rule.sequential:
        pytest.skip("no transformation")
    tx = isostep_jax.transform(rule)
    step = isostep_jax.step(tx)
    whole = lambda p, g, s, x: added(tx.update(g, s, p, **x), p)  # noqa: E731
    apart = jax.jit(whole, donate_argnums=(0, 2))
    params = arrays(name, 0)
    ours, state = jax.tree.map(jnp.copy, params), tx.init(params)
    own = jax.tree.map(jnp.copy, state)
    for k in range(1, 5):
        grads = arrays(name, k)
        extra = dict.fromkeys(rule.input_names, arrays(name, -k % 99))
        extra |= dict.fromkeys(rule.group_input_names, 0.5)
        params, state = apart(params, grads, state, extra)
        ours, own = step(ours, grads, own, **extra)
        jax.tree.map(np.testing.assert_array_equal, (ours, own), (params, state))


def added(made, params):
    updates, state = made
    return jax.tree.map(jnp.add, params, updates), state


@pytest.mark.parametrize("name", ["lion", "adabelief", "adopt"])
def test_what_is_written_over_is_not_copied_before(name):
    if jax.default_backend() != "cpu":
        pytest.skip("the options are the CPU compiler's")
    tx, p = getattr(isostep_jax, name)(0.1), {"w": jnp.ones((100, 100))}
    whole = lambda p, g, s: added(tx.update(g, s, p), p)  # noqa: E731
    temporary = []
    for options in (None, isostep_jax.in_place()):
        jitted = jax.jit(whole, donate_argnums=(0, 2), compiler_options=options)
        made = jitted.lower(p, p, tx.init(p)).compile()
        temporary.append(made.memory_analysis().temp_size_in_bytes)
    assert temporary[0] >= 40_000  # else XLA no longer needs the option
    assert temporary[1] < 400


def test_a_step_within_another_jit_or_a_derivative_has_no_options_of_its_own():
    tx = isostep_jax.lion(0.1)
    step, grads = isostep_jax.step(tx), jnp.asarray([1.0, 0.0, -2.0])
    start = lambda: (jnp.ones(3), tx.init(jnp.ones(3)))  # noqa: E731
    p, state = start()
    once = np.asarray([0.9, 1.0, 1.1], np.float32)
    np.testing.assert_array_equal(jax.jit(lambda: step(p, grads, state))()[0], once)
    np.testing.assert_array_equal(jax.jit(step)(p, grads, state)[0], once)
    looped = jax.lax.fori_loop(0, 1, lambda _, c: step(c[0], grads, c[1]), (p, state))
    np.testing.assert_array_equal(looped[0], once)
    slope = jax.grad(lambda x: step(x * jnp.ones(3), grads, start()[1])[0].sum())(1.0)
    assert slope == 3.0
    np.testing.assert_array_equal(step(*start()[:1], grads, start()[1])[0], once)


def test_an_xla_that_does_not_know_the_option_is_not_given_it(monkeypatch):
    def refused(*_, compiler_options=None, **__):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")

    donated._known.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(donated.jax, "jit", refused)
        patched.setattr(donated.jax, "default_backend", lambda: "gpu")
        assert isostep_jax.in_place() is None  # without asking
        assert not donated._known.cache_info().currsize
        patched.setattr(donated.jax, "default_backend", lambda: "cpu")
        assert isostep_jax.in_place() is None
    donated._known.cache_clear()
    assert (isostep_jax.in_place() is None) == (jax.default_backend() != "cpu")


@pytest.mark.parametrize(("name", "arrays"), [("lamb", 1), ("rprop", 1), ("mars", 0), ("adam", 0)])
def test_leaves_share_the_memory_beside_parameters_and_state(name, arrays, monkeypatch):
    """With eight leaves as with one: what ``step`` compiles is looked at as it is made."""
    if jax.default_backend() != "cpu":
        pytest.skip("the options are the CPU compiler's")
    made = []
    plain = jax.jit
    monkeypatch.setattr(donated.jax, "jit", lambda *a, **k: made.append(plain(*a, **k)) or made[-1])
    tx = getattr(isostep_jax, name)(0.1)
    start = lambda: [jnp.ones((100, 100)) for _ in range(8)]  # noqa: E731
    params, state = start(), tx.init(start())
    isostep_jax.step(tx)(params, start(), state)
    compiled = made[-1].lower(start(), start(), tx.init(start()), {}).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= (arrays + 0.1) * 40_000


def test_rules_of_matrices_are_known():
    multiplied = {n for n in isostep.rules() if multiplies(isostep.rule(n))}
    assert {"muon", "shampoo", "soap", "psgd_kron"} <= multiplied
    assert not multiplied & {"adam", "lamb", "adafactor", "novograd", "nero"}
