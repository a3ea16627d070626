"""Products of matrices are those of float32 on every device: what a step is lowered to asks for it."""

import re

import jax
import jax.numpy as jnp
import pytest

import isostep
import isostep_jax

MATRICES = ("muon", "psgd_kron", "shampoo", "soap")
MODES = {"leaf": {}, "grouped": {"grouped": True}}


def products(function, *arguments):
    """The precisions of all products in the text of a function."""
    lines = jax.jit(function).lower(*arguments).as_text().splitlines()
    of = [line for line in lines if "dot_general" in line]
    assert of
    return {p for line in of for p in re.findall(r"precision = \[(\w+), (\w+)\]", line) or [None]}


def step(name, **mode):
    definition = isostep.definition(name)
    tx = isostep_jax.transform(definition.bind(lr=0.1), **mode)
    params = {"w": jnp.ones((3, 4)), "v": jnp.ones((3, 4))}
    inputs = dict.fromkeys(definition.inputs, params)

    def update(grads, state):
        return tx.update(grads, state, params, **inputs)

    return update, params, tx.init(params)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("name", MATRICES)
def test_of_every_rule_that_has_them(name, mode):
    assert products(*step(name, **mode)) == {("HIGHEST", "HIGHEST")}


def test_those_of_the_backends_steps():
    """JAX's compiled steps stand in the reports of conformance."""
    from isostep_jax import backend

    seen = []
    original = backend._step

    def noted(*given):
        seen.append(jax.jit(original.__wrapped__, static_argnums=0).lower(*given).as_text())
        return original(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "_step", noted)
        made, rule = isostep.backend("jax:jit"), isostep.rule("muon", lr=0.1)
        params = [jnp.ones((3, 4))]
        made.step(rule, params, [jnp.ones((3, 4))], made.init(rule, params))
    (text,) = seen
    assert "dot_general" in text
    assert text.count("precision = [HIGHEST, HIGHEST]") == text.count("dot_general")


def test_that_of_pcgrad():
    losses = [lambda p: p[0] ** 2, lambda p: jnp.sum(p)]
    gradient = isostep_jax.pcgrad(losses)
    assert products(gradient, jnp.ones(3), jax.random.key(0)) == {("HIGHEST", "HIGHEST")}


def test_whoever_has_set_jaxs_default_gets_that():
    with jax.default_matmul_precision("high"):
        assert products(*step("muon")) == {("HIGH", "HIGH")}


def test_a_solvers_products_are_whole_and_its_losss_are_as_they_were():
    seen = []

    def value_and_grad(params):
        seen.append(jax.config.jax_default_matmul_precision)
        return jnp.sum(params["w"] ** 2), {"w": 2 * params["w"]}

    isostep_jax.lbfgs().step(value_and_grad, {"w": jnp.ones(3)})
    assert set(seen) == {None}
