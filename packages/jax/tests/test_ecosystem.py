"""Inside flax, equinox and orbax, where they are installed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isostep_jax
from isostep import averaging

REASON = "an optional library of the ecosystem; of the nox session `clients`"


def test_flax_nnx_optimizer():
    nnx = pytest.importorskip("flax.nnx", reason=REASON)

    def trained(tx):
        model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer, x):
            grads = nnx.grad(lambda m: jnp.sum(m(x) ** 2))(model)
            optimizer.update(model, grads)

        for _ in range(5):
            step(model, optimizer, jnp.ones((4, 3)))
        return np.array(model.kernel[...])

    ours = trained(isostep_jax.adamw(0.1, weight_decay=0.1))
    np.testing.assert_allclose(ours, trained(optax.adamw(0.1, weight_decay=0.1)), rtol=1e-4)


def test_flax_train_state():
    train_state = pytest.importorskip("flax.training.train_state", reason=REASON)
    state = train_state.TrainState.create(
        apply_fn=None, params={"w": jnp.ones(3)}, tx=isostep_jax.sgd(0.5, momentum=0.5)
    )
    for _ in range(2):
        state = jax.jit(lambda s: s.apply_gradients(grads={"w": jnp.ones(3)}))(state)
    np.testing.assert_allclose(state.params["w"], 1 - 0.5 - 0.75)
    assert int(state.step) == 2


def test_equinox_filtered_trees():
    eqx = pytest.importorskip("equinox", reason=REASON)
    model = eqx.nn.MLP(3, 1, 8, 2, key=jax.random.key(0))  # its leaves include functions
    tx = isostep_jax.adam(1e-2)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    loss = lambda m, x: jnp.mean(jax.vmap(m)(x) ** 2)  # noqa: E731

    @eqx.filter_jit
    def step(model, state, x):
        value, grads = eqx.filter_value_and_grad(loss)(model, x)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = tx.update(grads, state, params)
        return eqx.apply_updates(model, updates), state, value

    x = jax.random.normal(jax.random.key(1), (16, 3))
    grads = eqx.filter_grad(loss)(model, x)
    wanted = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
    found = tx.update(grads, state, model)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    model, state, first = step(model, state, x)
    for _ in range(20):
        model, state, last = step(model, state, x)
    assert float(last) < float(first)


@pytest.mark.parametrize("grouped", [False, True])
def test_orbax_checkpoints(tmp_path, grouped):
    ocp = pytest.importorskip("orbax.checkpoint", reason=REASON)
    tx = isostep_jax.adam(0.1, grouped=grouped)
    params = {"a": jnp.linspace(0.0, 1.0, 5), "b": {"c": jnp.ones((2, 3))}}
    _, state = tx.update(params, tx.init(params), params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        back = checkpointer.restore(tmp_path / "state", jax.tree.map(jnp.zeros_like, state))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)
    a, b = (tx.update(params, s, params)[0] for s in (state, back))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_flax_batch_statistics_of_averaged_weights():
    nn = pytest.importorskip("flax.linen", reason=REASON)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(4)(x))
            return nn.BatchNorm(use_running_average=not train, momentum=0.99)(nn.Dense(3)(x))

    net, rng = Net(), np.random.default_rng(0)
    batches = [jnp.asarray(rng.normal(2.0, 3.0, (16, 5)), jnp.float32) for _ in range(3)]
    made = net.init(jax.random.key(0), batches[0], train=True)
    leaves, tree = jax.tree.flatten(made["params"])
    average = averaging.Average("jax", averaging.equal())
    for scale in (1.0, 0.5, 2.0):
        average.update([scale * p for p in leaves])
    with average.swapped(leaves) as averaged:
        params = jax.tree.unflatten(tree, averaged)

        def forward(stats, x):
            variables = {"params": params, "batch_stats": stats}
            return net.apply(variables, x, train=True, mutable=["batch_stats"])[1]["batch_stats"]

        found = isostep_jax.fresh_batch_stats(jax.jit(forward), made["batch_stats"], batches)
    first = [np.array(x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]) for x in batches]
    own = found["BatchNorm_0"]
    np.testing.assert_allclose(own["mean"], np.mean([x.mean(0) for x in first], axis=0), rtol=1e-4)
    np.testing.assert_allclose(own["var"], np.mean([x.var(0) for x in first], axis=0), rtol=1e-4)
    out = net.apply({"params": params, "batch_stats": found}, batches[0], train=False)
    assert np.abs(np.array(out).mean()) < 0.5  # evaluated with them, outputs are about normalized
