"""Runs of optax's transformations that go on in ours: which leaves are the rule's, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from isostep_conformance.identify import TargetError, optax_taken_over

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
isostep_jax = pytest.importorskip("isostep_jax")


def parameters():
    rng = np.random.default_rng(3)
    a, b, c, d = (
        jax.numpy.asarray(rng.standard_normal(s), "float32")
        for s in ((4, 3), (5,), (2, 3, 2, 2), ())
    )
    return {"layer": {"w": a, "b": b}, "head": (c, d)}


def gradients(params, k):
    rng = np.random.default_rng(100 + k)
    return jax.tree.map(
        lambda p: jax.numpy.asarray(rng.standard_normal(p.shape), "float32"), params
    )


def run(tx, params, state, steps):
    updates = []
    for k in steps:
        u, state = tx.update(gradients(params, k), state, params)
        params = jax.tree.map(jax.numpy.add, params, u)
        updates.append(u)
    return params, state, updates


def assert_goes_on(made, settings, rule, params=None, **how):
    """What has taken over takes the steps that the old one would have taken; optax's are in float32 throughout."""
    tx = made(**settings)
    start = parameters() if params is None else params
    params, state, _ = run(tx, start, tx.init(start), range(13))
    before = jax.tree.map(np.array, (params, state))
    new, own = optax_taken_over(made, params, state, settings, rule=rule, **how)
    jax.tree.map(np.testing.assert_array_equal, before, (params, state))
    *_, theirs = run(tx, params, state, range(13, 17))
    *_, ours = run(new, params, own, range(13, 17))
    for a, b in zip(jax.tree.leaves(theirs), jax.tree.leaves(ours), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())
    return new.init.rule, own


def clipped(learning_rate, max_norm):
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(learning_rate))


@pytest.mark.parametrize(
    ("made", "settings", "rule", "found"),
    [
        (optax.adamw, {"learning_rate": 0.01, "b1": 0.8}, "adamw", {"betas": (0.8, 0.999), "lr": 0.01}),
        (optax.sgd, {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}, "sgd", {"nesterov": True}),
        (optax.sgd, {"learning_rate": 0.1}, "sgd", {"momentum": 0.0}),
        (optax.lion, {"learning_rate": 0.01}, "lion", {"weight_decay": 1e-3}),
        (optax.rmsprop, {"learning_rate": 0.01, "decay": 0.8}, "rmsprop", {"alpha": 0.8}),
        (optax.adabelief, {"learning_rate": 0.01}, "adabelief", {"eps": 1e-16}),
        (optax.amsgrad, {"learning_rate": 0.01}, "adam", {"amsgrad": True}),
        (optax.adagrad, {"learning_rate": 0.1}, "adagrad", {"initial_accumulator_value": 0.1}),
        (optax.lamb, {"learning_rate": 0.01}, "lamb", {"lr": 0.01}),
        (optax.contrib.prodigy, {}, "prodigy", {"d0": 1e-6}),
        (clipped, {"learning_rate": 0.01, "max_norm": 0.5}, "adam", {"clip_by_global_norm.max_norm": 0.5}),
    ],
    ids="adamw nesterov sgd lion rmsprop adabelief amsgrad adagrad lamb prodigy clipped".split(),
)  # fmt: skip
def test_a_run_goes_on(made, settings, rule, found):
    bound, state = assert_goes_on(made, settings, rule)
    assert found.items() <= bound.values.items()
    assert int(state.count) == 13 or rule in ("sgd", "lion", "rmsprop", "adagrad")


def test_a_schedule_goes_on_from_where_it_is():
    settings = {"learning_rate": optax.cosine_decay_schedule(0.01, 20), "b2": 0.99}
    bound, _ = assert_goes_on(optax.adamw, settings, "adamw")
    assert bound.values["lr"] is settings["learning_rate"]
    assert bound.values["betas"] == (0.9, 0.99)


def two_schedules(learning_rate, weight_decay):
    return optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def test_schedules_are_not_mixed_up():
    rate, decay = (optax.cosine_decay_schedule(x, 20) for x in (0.01, 0.3))
    settings = {"learning_rate": rate, "weight_decay": decay}
    bound, _ = assert_goes_on(two_schedules, settings, "adamw")
    assert (bound.values["lr"], bound.values["weight_decay"]) == (rate, decay)


def test_before_the_first_step():
    params = parameters()
    state = optax.adamw(0.01).init(params)
    tx, own = optax_taken_over(optax.adamw, params, state, {"learning_rate": 0.01}, rule="adamw")
    assert int(own.count) == 0
    theirs, ours = (
        run(t, params, s, range(3))[2] for t, s in ((optax.adamw(0.01), state), (tx, own))
    )
    for a, b in zip(*map(jax.tree.leaves, (theirs, ours)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_one_array_is_a_tree():
    assert_goes_on(optax.adamw, {"learning_rate": 0.01}, "adamw", parameters()["layer"]["w"])


def test_under_x64_too():
    with jax.enable_x64(True):
        assert_goes_on(optax.contrib.prodigy, {}, "prodigy")


def test_without_a_rule_all_are_tried():
    bound, _ = assert_goes_on(optax.yogi, {"learning_rate": 0.01}, None)
    assert bound.name == "yogi"


def uncounted(learning_rate, b2=0.95):
    """Adam that keeps the powers of its decay rates, and no count."""

    def init(params):
        nothing = jax.tree.map(jax.numpy.zeros_like, params)
        return {"m": nothing, "v": nothing, "powers": jax.numpy.ones(2)}

    def update(grads, state, params=None):
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state["m"], grads)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state["v"], grads)
        powers = state["powers"] * jax.numpy.asarray([0.9, b2])
        c1, c2 = 1 - powers
        size = jax.tree.map(lambda v: jax.numpy.sqrt(v / c2) + 1e-8, v)
        u = jax.tree.map(lambda m, d: -learning_rate * (m / c1) / d, m, size)
        return u, {"m": m, "v": v, "powers": powers}

    return optax.GradientTransformation(init, update)


def test_who_does_not_count_is_told_to():
    with pytest.raises(
        TargetError, match=r"parts from adam in step 1.*how many it has taken \(steps=\)"
    ):
        assert_goes_on(uncounted, {"learning_rate": 0.01}, "adam")
    _, state = assert_goes_on(uncounted, {"learning_rate": 0.01}, "adam", steps=13)
    assert int(state.count) == 13


def test_what_cannot_be_taken_over_is_refused():
    params = parameters()
    state = optax.adam(0.1).init(params)
    with pytest.raises(TargetError, match="adam takes the steps of no rule here"):
        optax_taken_over(optax.adam, params, state, {"learning_rate": 0.1}, rule="lion")
    with pytest.raises(TargetError, match="adam: settings must have 'learning_rate'"):
        optax_taken_over(optax.adam, params, state)
    others = jax.tree.map(lambda p: p[None], params)
    with pytest.raises(
        TargetError, match=r"state exp_avg of params\[0\] must be .* \(1, 2, 3, 2, 2\)"
    ):
        optax_taken_over(optax.adam, others, state, {"learning_rate": 0.1}, rule="adam")
    with pytest.raises(TargetError, match="parts from adam in step 1"):
        optax_taken_over(optax.adam, params, state, {"learning_rate": 0.1}, rule="adam", steps=5)
    settings = {"learning_rate": 0.01, "momentum": 0.9}
    with pytest.raises(
        TargetError, match="'momentum_buffer' is only by a factor in the state of rmsprop"
    ):
        optax_taken_over(
            optax.rmsprop, params, optax.rmsprop(**settings).init(params), settings, rule="rmsprop"
        )
    with pytest.raises(
        TargetError, match=r"adam: the state of adam has no 'state\[0\].mu' for these"
    ):
        optax_taken_over(optax.adam, params["layer"], state, {"learning_rate": 0.1}, rule="adam")


def test_the_readme_s_example():
    page = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    (source,) = (block for block in blocks if "optax_taken_over" in block)
    params = parameters()
    names = {"params": params, "state": optax.adamw(1e-3, b1=0.8).init(params)}
    exec(source, names)
    _, state = names["tx"].update(gradients(params, 0), names["state"], params)
    assert int(state.count) == 1
