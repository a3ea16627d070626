"""Low precision as options of transformations: the reference's bits in every mode, and inside what JAX users write."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import isostep
import isostep_jax
from isostep import RuleError, StepError, low_precision
from isostep.storage import LOST, MASTER, OPTIONS
from isostep_jax.transform import KEYWORDS

WAYS = {
    "stochastic": {"stochastic_rounding": True},
    "stochastic-float32": {"stochastic_rounding": True, "state_dtype": "float32"},
    "kahan": {"kahan": True},
    "master": {"master_weights": True},
    "float32": {"state_dtype": jnp.float32},
}
HALVES = [ml_dtypes.bfloat16, np.float16]
SEED = 5
#: Products with powers of two are exact, so that XLA's contraction of a * b + c changes nothing.
EXACT = isostep.rule("sgd", lr=2.0**-5, momentum=0.5)
ADAMW = isostep.rule("adamw", lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)


def draw(half, seed):
    """The leaves in order: two that can be stacked, one without axes, one of full precision."""
    random = np.random.default_rng(seed)
    shapes = [((5, 3), half), ((5, 3), half), ((), half), ((7,), np.float32)]
    return [np.asarray(random.standard_normal(s)).astype(d) for s, d in shapes]


def tree(half, seed):
    a, b, c, f = map(jnp.asarray, draw(half, seed))
    return {"a": [a, (b, None)], "b": {"c": c, "f": f}, "n": None}


def reference(rule, way, half, count=3):
    """Parameters and state arrays after some steps, leaf by leaf."""
    backend, params = isostep.backend("numpy:reference"), draw(half, 0)
    storage = low_precision(
        **{n: "float32" if n == "state_dtype" else v for n, v in WAYS[way].items()}
    )
    state = backend.init(rule, params, storage=storage, seed=SEED)
    for k in range(1, count + 1):
        backend.step(rule, params, draw(half, k), state)
    return params, state.arrays


def jitted(rule, options, half, count=3, **more):
    tx = isostep_jax.transform(rule, rounding_seed=SEED, **options, **more)
    params, update = tree(half, 0), jax.jit(tx.update)
    state = tx.init(params)
    for k in range(1, count + 1):
        updates, state = update(tree(half, k), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def grouped(rule, options, half):
    return jitted(rule, options, half, grouped=True)[0], None


def scanned(rule, options, half):
    tx = isostep_jax.transform(rule, rounding_seed=SEED, **options)
    grads = jax.tree.map(lambda *each: jnp.stack(each), *(tree(half, k) for k in (1, 2, 3)))

    def body(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = tree(half, 0)
    return jax.lax.scan(body, (params, tx.init(params)), grads)[0]


def flat(rule, options, half):
    tx = isostep_jax.flat(isostep_jax.transform(rule, rounding_seed=SEED, **options), tree(half, 0))
    buffers, update = tx.flatten(tree(half, 0)), jax.jit(tx.update)
    state = tx.init(buffers)
    for k in (1, 2, 3):
        updates, state = update(tx.flatten(tree(half, k)), state, buffers)
        buffers = optax.apply_updates(buffers, updates)
    return tx.unflatten(buffers), None


def stepped(rule, options, half):
    tx = isostep_jax.transform(rule, rounding_seed=SEED, **options)
    step, params = isostep_jax.step(tx), tree(half, 0)
    state = tx.init(params)
    for k in (1, 2, 3):
        params, state = step(params, tree(half, k), state)
    return params, state


MODES = {"jit": jitted, "scan": scanned, "grouped": grouped, "flat": flat, "step": stepped}


def close(ours, theirs, exact):
    """The same bits; where the arithmetic may be contracted, one half in fifty may round the other way."""
    ours = np.asarray(ours)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    if exact:
        assert ours.tobytes() == theirs.tobytes()
    elif ours.dtype.itemsize == 2:
        assert (ours != theirs).sum() <= 1 + ours.size / 50
        spacing = 2.0 ** (-10 if ours.dtype == np.float16 else -7)
        np.testing.assert_allclose(
            ours.astype(float), theirs.astype(float), rtol=spacing, atol=1e-6
        )
    else:
        np.testing.assert_allclose(ours, theirs, rtol=3e-6, atol=3e-7)


@pytest.mark.parametrize("half", HALVES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rule", [EXACT, ADAMW], ids=["exact", "adamw"])
def test_the_bits_are_the_reference_s(rule, mode, way, half):
    params, state = MODES[mode](rule, WAYS[way], half)
    wanted, arrays = reference(rule, way, half)
    lost = way == "kahan" and rule is ADAMW
    for i, (p, theirs) in enumerate(zip(jax.tree.leaves(params), wanted, strict=True)):
        if not (lost and i < 3):
            close(p, theirs, rule is EXACT)
    if state is None:  # stacks and buffers
        return
    names = {n: jax.tree.leaves(state.arrays[n], is_leaf=lambda x: x is None) for n in state.arrays}
    for i, own in enumerate(arrays):
        kept = {
            n: [a for k, a in enumerate(found) if k not in (2, 5)][i] for n, found in names.items()
        }
        assert {n for n, a in kept.items() if a is not None} == set(own)
        if (
            lost and i < 3
        ):  # where a leaf rounds the other way, so does what it lost: the sum counts
            p = np.asarray(jax.tree.leaves(params)[i]).astype(float)
            both = (
                p + np.asarray(kept[LOST]).astype(float),
                wanted[i].astype(float) + own[LOST].astype(float),
            )
            np.testing.assert_allclose(*both, rtol=2e-5, atol=1e-6)
            own = {n: a for n, a in own.items() if n != LOST}
        for n, a in own.items():
            close(kept[n], a, rule is EXACT)


# States and updates


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("grouped", [False, True])
def test_a_state_keeps_its_structure_and_dtypes_and_compiles_once(way, grouped):
    tx = isostep_jax.adamw(1e-3, **WAYS[way], grouped=grouped)
    params, traced = tree(jnp.bfloat16, 0), []
    state = tx.init(params)

    @jax.jit
    def update(g, s, p):
        traced.append(1)
        return tx.update(g, s, p)

    facts = lambda t: jax.tree.map(lambda a: (a.shape, a.dtype), t)  # noqa: E731
    for k in (1, 2, 3):
        updates, after = update(tree(jnp.bfloat16, k), state, params)
        assert facts(after) == facts(state)
        assert facts(jax.eval_shape(tx.init, params)) == facts(state)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        state, params = after, optax.apply_updates(params, updates)
    assert len(traced) == 1


def test_leaves_of_full_precision_have_nothing_beside_them_and_are_stepped_as_ever():
    params = tree(jnp.bfloat16, 0)
    for name, options, dtype in (
        (MASTER, {"master_weights": True}, "float32"),
        (LOST, {"kahan": True}, "bfloat16"),
    ):
        state = isostep_jax.transform(ADAMW, **options).init(params)
        beside = state.arrays[name]
        assert beside["b"]["f"] is None
        assert beside["n"] is None
        assert beside["a"][1][1] is None
        assert {a.dtype.name for a in jax.tree.leaves(beside)} == {dtype}
        assert [a.shape for a in jax.tree.leaves(beside)] == [(5, 3), (5, 3), ()]
    plain = jitted(ADAMW, {}, jnp.bfloat16)[0]["b"]["f"]
    for options in WAYS.values():
        assert jitted(ADAMW, options, jnp.bfloat16)[0]["b"]["f"].tobytes() == plain.tobytes()


@pytest.mark.parametrize("half", HALVES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("grouped", [False, True])
def test_updates_land_on_the_rounded_value(half, grouped):
    """What they are added to is then the master weight's rounding, step for step, and Kahan's sum loses nothing."""
    tx = isostep_jax.transform(ADAMW, master_weights=True, grouped=grouped)
    params = tree(half, 0)
    state = tx.init(params)
    for k in (1, 2, 3):
        updates, state = tx.update(tree(half, k), state, params)
        assert {u.dtype.name for u in jax.tree.leaves(updates)} == {"float32"}
        params = optax.apply_updates(params, updates)
        beside = [
            m
            for m in jax.tree.leaves(state.arrays[MASTER])
            for m in (m if grouped and m.ndim == 3 else [m])
        ]
        for p, m in zip(jax.tree.leaves(params), beside, strict=False):
            assert np.asarray(p).tobytes() == np.asarray(m.astype(half)).reshape(p.shape).tobytes()


def test_small_steps_add_up():
    p, g = jnp.ones(1000, jnp.bfloat16), jnp.ones(1000, jnp.bfloat16)
    found = {}
    for way, options in {"plain": {}, **WAYS}.items():
        tx = isostep_jax.sgd(1e-3, **options)

        def body(carry, _, tx=tx):
            updates, state = tx.update(g, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        (q, _), _ = jax.lax.scan(body, (p, tx.init(p)), length=100)
        found[way] = float(q.astype(jnp.float32).mean())
    assert found["plain"] == found["float32"] == 1.0
    for way in ("stochastic", "stochastic-float32", "kahan", "master"):
        assert found[way] == pytest.approx(0.9, abs=2.0**-8)


# Inside what JAX users write


@pytest.mark.parametrize("way", ["stochastic", "kahan", "master"])
def test_a_gradient_goes_through_a_step_as_through_rounding_to_nearest(way):
    params = tree(jnp.bfloat16, 0)

    def loss(size, options):
        tx = isostep_jax.transform(ADAMW, **options)
        grads = jax.tree.map(lambda g: (size * g).astype(g.dtype), tree(jnp.bfloat16, 1))
        updates, _ = tx.update(grads, tx.init(params), params)
        after = jax.tree.leaves(optax.apply_updates(params, updates))
        weights = jax.tree.leaves(tree(jnp.bfloat16, 2))
        return sum(
            jnp.sum((p * w).astype(jnp.float32)) for p, w in zip(after, weights, strict=True)
        )

    wanted, found = (jax.grad(loss)(jnp.float32(0.01), o) for o in ({}, WAYS[way]))
    assert wanted != 0
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_members_of_a_vmap_take_the_steps_that_each_takes_alone(way):
    tx = isostep_jax.transform(EXACT, **WAYS[way])
    members = [{"w": jnp.asarray(draw(jnp.bfloat16, k)[0])} for k in range(4)]
    together = jax.tree.map(lambda *each: jnp.stack(each), *members)
    state, grads = jax.vmap(tx.init)(together), jax.tree.map(jnp.flip, together)
    for _ in range(2):
        updates, state = jax.jit(jax.vmap(tx.update))(grads, state, together)
        together = optax.apply_updates(together, updates)
    for i, p in enumerate(members):
        own, g = tx.init(p), {"w": grads["w"][i]}
        for _ in range(2):
            updates, own = tx.update(g, own, p)
            p = optax.apply_updates(p, updates)
        assert np.asarray(together["w"][i]).tobytes() == np.asarray(p["w"]).tobytes()
        for n, a in own.arrays.items():
            assert np.asarray(state.arrays[n]["w"][i]).tobytes() == np.asarray(a["w"]).tobytes()


@pytest.mark.parametrize("way", WAYS)
def test_behind_others_in_a_chain(way):
    own = isostep_jax.transform(EXACT, rounding_seed=SEED, **WAYS[way])
    chained, params = optax.chain(optax.clip(0.5), own), tree(jnp.bfloat16, 0)
    plain, one, many = params, own.init(params), chained.init(params)
    for k in (1, 2):
        grads = tree(jnp.bfloat16, k)
        u, many = jax.jit(chained.update)(grads, many, params)
        v, one = jax.jit(own.update)(
            jax.tree.map(lambda g: jnp.clip(g, -0.5, 0.5), grads), one, plain
        )
        params, plain = optax.apply_updates(params, u), optax.apply_updates(plain, v)
    for p, q in zip(jax.tree.leaves(params), jax.tree.leaves(plain), strict=True):
        assert np.asarray(p).tobytes() == np.asarray(q).tobytes()


def test_injected_hyperparameters_with_static_options():
    others = {*inspect.signature(isostep_jax.sgd).parameters} - {"lr"}
    make = optax.inject_hyperparams(isostep_jax.sgd, static_args=others)
    tx = make(lr=0.5, momentum=0.5, stochastic_rounding=True, rounding_seed=SEED)
    params, traced = tree(jnp.bfloat16, 0), []
    state = tx.init(params)

    @jax.jit
    def update(g, s, p):
        traced.append(1)
        return tx.update(g, s, p)

    wanted = draw(ml_dtypes.bfloat16, 0)
    backend, rule = isostep.backend("numpy:reference"), EXACT
    own = backend.init(rule, wanted, storage=low_precision(stochastic_rounding=True), seed=SEED)
    for k in (1, 2, 3):
        state = state._replace(hyperparams={"lr": jnp.float32(2.0**-k)})
        updates, state = update(tree(jnp.bfloat16, k), state, params)
        params = optax.apply_updates(params, updates)
        backend.step(rule.replace(lr=2.0**-k), wanted, draw(ml_dtypes.bfloat16, k), own)
    assert len(traced) == 1
    for p, q in zip(jax.tree.leaves(params), wanted, strict=True):
        assert np.asarray(p).tobytes() == q.tobytes()


EIGHT = """
    import jax, jax.numpy as jnp, numpy as np, isostep, isostep_jax, optax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    assert len(jax.devices()) == 8
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    rng = np.random.default_rng(0)
    specs = {"w": P("x", "y"), "b": P("x"), "v": P(None, "x"), "f": P("y")}
    shapes = {"w": (8, 6), "b": (8,), "v": (3, 4), "f": (6,)}
    dtypes = {n: np.dtype("float32" if n == "f" else jnp.bfloat16) for n in shapes}

    def draw():
        return {n: rng.standard_normal(s).astype(dtypes[n]) for n, s in shapes.items()}

    def put(tree):
        return {n: jax.device_put(v, NamedSharding(mesh, specs[n])) for n, v in tree.items()}

    rule = isostep.rule("sgd", lr=2.0**-5, momentum=0.5)
    for options in (
        {"stochastic_rounding": True, "rounding_seed": 7}, {"kahan": True}, {"master_weights": True},
        {"stochastic_rounding": True, "state_dtype": "float32"},
    ):
        tx = isostep_jax.transform(rule, **options)
        host = draw()
        plain, sharded = {n: jnp.array(v) for n, v in host.items()}, put(host)
        one, many = tx.init(plain), tx.init(sharded)
        update, step = jax.jit(tx.update), isostep_jax.step(tx)
        for k in range(3):
            grads = draw()
            u, one = update(grads, one, plain)
            plain = optax.apply_updates(plain, u)
            sharded, many = step(sharded, put(grads), many)
        for n, p in sharded.items():
            assert np.asarray(p).tobytes() == np.asarray(plain[n]).tobytes(), (options, n)
            for name, tree in many.arrays.items():
                if tree[n] is None:
                    assert n == "f" and one.arrays[name][n] is None
                    continue
                assert tree[n].sharding.is_equivalent_to(p.sharding, p.ndim), (options, name, n)
                assert np.asarray(tree[n]).tobytes() == np.asarray(one.arrays[name][n]).tobytes()
    print("done")
"""


def test_sharded_leaves_have_the_same_bits_and_their_state_lies_with_them():
    code = (
        "import os; os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'\n"
        + textwrap.dedent(EIGHT)
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout == "done\n"


# Errors


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: isostep_jax.adamw(1e-3, kahan=True, master_weights=True),
            ValueError,
            "adamw: kahan and master_weights do the same in different ways; set one of them",
        ),
        (
            lambda: isostep_jax.transform(ADAMW, master_weigths=True),
            RuleError,
            f"adamw: unknown option 'master_weigths'; it has {', '.join(KEYWORDS)}",
        ),
        (
            lambda: isostep_jax.adamw(1e-3, state_dtype=jnp.float64),
            RuleError,
            "adamw: state_dtype float64 needs JAX's x64: jax.config.update('jax_enable_x64', True)",
        ),
        (
            lambda: isostep_jax.adamw(1e-3, state_dtype=jnp.int8),
            ValueError,
            "adamw: state_dtype must be None or one of float64, float32, bfloat16, float16, mxfp8_e4m3, mxfp8_e5m2, "
            "got 'int8'",
        ),
        (
            lambda: isostep_jax.adamw(1e-3, stochastic_rounding=True, rounding_seed=0.5),
            ValueError,
            "adamw: rounding_seed must be an integer, got 0.5",
        ),
    ],
)
def test_a_wrong_option_is_one_clear_line(make, error, text):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == text


def test_every_constructor_has_the_options():
    for name in isostep.rules():
        if not isostep.rule(name).sequential:
            assert {*OPTIONS, "grouped"} <= {
                *inspect.signature(getattr(isostep_jax, name)).parameters
            }


def test_state_in_float64_where_jax_has_it():
    with jax.enable_x64(True):
        tx = isostep_jax.adamw(1e-3, state_dtype="float64")
        params = {"w": jnp.ones(3, jnp.bfloat16)}
        _, state = jax.jit(tx.update)(params, tx.init(params), params)
    assert {a["w"].dtype.name for a in state.arrays.values()} == {"float64"}


def test_a_state_that_was_made_otherwise_is_refused():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    plain, kahan = isostep_jax.sgd(0.1), isostep_jax.sgd(0.1, kahan=True)
    with pytest.raises(
        StepError, match=r"^sgd: state has the arrays \[\], expected \['kahan_compensation'\]"
    ):
        kahan.update(params, plain.init(params), params)
