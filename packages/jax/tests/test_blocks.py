"""State in eight bits: the reference's bits in every mode, and inside what JAX users write."""

from __future__ import annotations

import inspect
import pickle
import re
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
from isostep import RuleError, StepError, blocks, low_precision

SEED = 5
#: Products with powers of two are exact, so that XLA's contraction of a * b + c changes nothing.
LION = isostep.rule("lion", lr=2.0**-5, betas=(0.5, 0.75))
SIGNUM = isostep.rule("signum", lr=2.0**-5, momentum=0.5)
MOMENTUM = isostep.rule("sgd", lr=2.0**-5, momentum=0.5)
ADAMW = isostep.rule("adamw", lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
#: Two that are stacked, whose rows are no whole blocks; whole blocks by row, over rows, and more than one; no axes.
SHAPES = [(5, 3), (5, 3), (3, 64), (2, 3, 16), (70,), (), (0,)]
E4M3, E5M2 = {"state_dtype": "mxfp8_e4m3"}, {"state_dtype": "mxfp8_e5m2"}


def draw(seed, shapes=SHAPES, dtype=np.float32):
    """Numbers of many magnitudes."""
    random = np.random.default_rng(seed)
    return [
        np.asarray(random.standard_normal(s) * np.exp(4 * random.standard_normal(s))).astype(dtype)
        for s in shapes
    ]


def on_jax(values):
    return list(map(jnp.asarray, values))


def reference(rule, options, count=3, *, shapes=SHAPES, dtype=np.float32):
    """Parameters and state arrays after some steps, leaf by leaf."""
    backend, params = isostep.backend("numpy:reference"), draw(0, shapes, dtype)
    state = backend.init(rule, params, storage=low_precision(**options), seed=SEED)
    for k in range(1, count + 1):
        backend.step(rule, params, draw(k, shapes, dtype), state)
    return params, state.arrays


def same(ours, theirs):
    """The same bits of trees of one structure."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()


def by_leaf(arrays):
    """A state's trees of lists, leaf by leaf."""
    return [dict(zip(arrays, own, strict=True)) for own in zip(*arrays.values(), strict=True)]


def facts(tree):
    return jax.tree.map(lambda a: (a.shape, a.dtype), tree)


# The reference's bits


@pytest.mark.parametrize("path", ["jax:jit", "jax:grouped"])
@pytest.mark.parametrize(("rule", "options"), [(LION, E4M3), (SIGNUM, E5M2)], ids=["e4m3", "e5m2"])
def test_backends_leave_the_reference_s_bits(path, rule, options):
    wanted, arrays = reference(rule, options)
    backend = isostep.backend(path)
    params = [backend.asarray(p) for p in draw(0)]
    state = backend.init(rule, params, storage=low_precision(**options), seed=SEED)
    for k in (1, 2, 3):
        grads = [backend.asarray(g) for g in draw(k)]
        params, state = backend.step(rule, params, grads, state)
    same(params, wanted)
    same(state.arrays, arrays)


def jitted(tx, params):
    update, state = jax.jit(tx.update), tx.init(params)
    for k in (1, 2, 3):
        updates, state = update(on_jax(draw(k)), state, params)
        params = optax.apply_updates(params, updates)
    assert update._cache_size() == 1
    return params, state


def scanned(tx, params):
    def body(carry, g):
        updates, state = tx.update(g, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    grads = [jnp.stack(each) for each in zip(*(draw(k) for k in (1, 2, 3)), strict=True)]
    return jax.lax.scan(body, (params, tx.init(params)), grads)[0]


def donated(tx, params):
    step, state = isostep_jax.step(tx), tx.init(params)
    for k in (1, 2, 3):
        params, state = step(params, on_jax(draw(k)), state)
    return params, state


@pytest.mark.parametrize("mode", [jitted, scanned, donated])
def test_transformations_leave_the_reference_s_bits(mode):
    tx = isostep_jax.transform(LION, **E4M3, rounding_seed=SEED)
    params, state = mode(tx, on_jax(draw(0)))
    wanted, arrays = reference(LION, E4M3)
    same(params, wanted)
    same(by_leaf(state.arrays), arrays)


def test_stacks_have_the_same_blocks():
    tx = isostep_jax.transform(LION, **E4M3, rounding_seed=SEED, grouped=True)
    first = tx.init(on_jax(draw(0)))
    params, state = jitted(tx, on_jax(draw(0)))
    assert facts(state) == facts(first)
    wanted, arrays = reference(LION, E4M3)
    same(params, wanted)
    for n, found in state.arrays.items():
        assert found[0].shape[0] == 2
        assert found[0].ndim == (2 if n.endswith(blocks.SCALE) else 3)
        same(list(found[0]) + found[1:], [own[n] for own in arrays])


@pytest.mark.parametrize("options", [E4M3, E5M2], ids=["e4m3", "e5m2"])
def test_adamw_step_by_step(options):
    """From the same state: where the arithmetic is contracted, one in fifty may round to its neighbour."""
    shapes = [(40, 64), (77,)]
    tx = isostep_jax.transform(ADAMW, **options, rounding_seed=SEED)
    update, backend, params = (
        jax.jit(tx.update),
        isostep.backend("numpy:reference"),
        draw(0, shapes),
    )
    state = backend.init(ADAMW, params, storage=low_precision(**options), seed=SEED)
    ours = tx.init(on_jax(params))
    for k in (1, 2, 3, 4):
        given = {n: on_jax([own[n] for own in state.arrays]) for n in ours.arrays}
        before = on_jax([p.copy() for p in params])
        updates, ours = update(on_jax(draw(k, shapes)), ours._replace(arrays=given), before)
        backend.step(ADAMW, params, draw(k, shapes), state)
        for i, own in enumerate(state.arrays):
            np.testing.assert_allclose(before[i] + updates[i], params[i], rtol=3e-6, atol=3e-7)
            for n, a in own.items():
                off = np.abs(np.asarray(ours.arrays[n][i]).astype(int) - a)
                assert off.max() <= 1
                assert (off > 0).sum() <= 1 + a.size / 50


def test_float64_is_computed_as_such_and_rounded_on_the_way():
    shapes = [(3, 33)]
    wanted, arrays = reference(ADAMW, E4M3, shapes=shapes, dtype=np.float64)
    with jax.enable_x64(True):
        tx = isostep_jax.transform(ADAMW, **E4M3, rounding_seed=SEED)
        params = on_jax(draw(0, shapes, np.float64))
        state, update = tx.init(params), jax.jit(tx.update)
        for k in (1, 2, 3):
            updates, state = update(on_jax(draw(k, shapes, np.float64)), state, params)
            params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params[0], wanted[0], rtol=1e-13, atol=1e-14)
    same(by_leaf(state.arrays), arrays)


@pytest.mark.parametrize(
    "way", [{}, {"stochastic_rounding": True}, {"kahan": True}, {"master_weights": True}], ids=str
)
def test_half_precision_leaves_and_what_is_beside_them(way):
    half, shapes = ml_dtypes.bfloat16, [(3, 33), (32,)]
    wanted, arrays = reference(MOMENTUM, {**E4M3, **way}, 2, shapes=shapes, dtype=half)
    tx = isostep_jax.transform(MOMENTUM, **E4M3, **way, rounding_seed=SEED)
    params = on_jax(draw(0, shapes, half))
    state, update = tx.init(params), jax.jit(tx.update)
    for k in (1, 2):
        updates, state = update(on_jax(draw(k, shapes, half)), state, params)
        params = optax.apply_updates(params, updates)
    same(params, wanted)
    same(by_leaf({n: state.arrays[n] for n in arrays[0]}), arrays)


# States and updates


def test_what_a_state_is():
    params = {"w": jnp.ones((5, 13)), "b": [jnp.ones(()), jnp.ones((0, 4), jnp.bfloat16), None]}
    tx = isostep_jax.adamw(1e-3, **E4M3)
    state = tx.init(params)
    assert list(state.arrays) == ["exp_avg", "exp_avg_sq", "exp_avg_scale", "exp_avg_sq_scale"]
    for n, found in state.arrays.items():
        assert jax.tree.structure(found) == jax.tree.structure(params)
        scales = n.endswith(blocks.SCALE)
        wanted = [(1,), (0,), (3,)] if scales else [(), (0, 4), (5, 13)]
        assert [a.shape for a in jax.tree.leaves(found)] == wanted
        assert {a.dtype.name for a in jax.tree.leaves(found)} == {"uint8"}
    assert facts(jax.eval_shape(tx.init, params)) == facts(state)
    assert facts(jax.eval_shape(tx.update, params, state, params)[1]) == facts(state)
    assert optax.tree.map_params(tx, lambda a: a, state) == state


def test_only_what_starts_as_zeros_is_packed():
    """And the rest tells a step without parameters their dtype."""
    rule = isostep.compose(MOMENTUM, isostep.pieces.lookahead(k=2, alpha=0.5))
    tx, params = isostep_jax.transform(rule, **E4M3), [jnp.linspace(-1, 1, 9)]
    state = tx.init(params)
    kept = {n: a[0].dtype.name for n, a in state.arrays.items()}
    slow = "lookahead.slow"
    assert kept == {"momentum_buffer": "uint8", slow: "float32", "momentum_buffer_scale": "uint8"}
    same(state.arrays[slow], params)
    assert tx.init.stand_ins(state, jax.tree.structure(params), [params[0].astype(jnp.bfloat16)])[
        0
    ].dtype == jnp.dtype("float32")


def test_what_a_step_leaves_alone_keeps_its_bytes():
    """Packed again, the same numbers may have another scale: where the largest was rounded below a power of two."""
    tx = isostep_jax.pnm(0.5, **E4M3)
    params = [jnp.zeros(3200)]
    state, update = tx.init(params), jax.jit(tx.update)
    for k, name in enumerate(("pos_momentum", "neg_momentum", "pos_momentum", "neg_momentum")):
        grads = [jnp.asarray(np.random.default_rng(k).standard_normal(3200), jnp.float32)]
        _, after = update(grads, state, params)
        changed = {n for n in state.arrays if (state.arrays[n][0] != after.arrays[n][0]).any()}
        assert changed == {name, name + blocks.SCALE}
        state = after


def test_members_of_a_vmap_take_the_steps_that_each_takes_alone():
    tx = isostep_jax.transform(MOMENTUM, **E4M3)
    members = [{"w": jnp.asarray(draw(k, [(3, 15)])[0])} for k in range(3)]
    together = jax.tree.map(lambda *each: jnp.stack(each), *members)
    _, state = jax.jit(jax.vmap(tx.update))(together, jax.vmap(tx.init)(together), together)
    alone = jax.jit(tx.update)
    for i, p in enumerate(members):
        same(jax.tree.map(lambda a, i=i: a[i], state.arrays), alone(p, tx.init(p), p)[1].arrays)


def test_without_parameters_gradients_stand_for_them():
    tx = isostep_jax.transform(MOMENTUM, **E4M3)
    params, grads = on_jax(draw(0, [(3, 5)])), on_jax(draw(1, [(3, 5)]))
    update, state = jax.jit(tx.update), tx.init(params)
    same(update(grads, state), update(grads, state, params))
    adamw = isostep_jax.transform(ADAMW, **E4M3)
    state = adamw.init(params)
    with pytest.raises(StepError, match="adamw needs the parameters"):
        adamw.update(grads, state)


# Inside what JAX users write


def test_derivatives_go_through_an_update_and_not_through_the_state():
    def after(size, steps, options):
        tx = isostep_jax.transform(MOMENTUM, **options)
        p, g = jnp.ones(40), jnp.linspace(-1, 1, 40)
        state = tx.init(p)
        for _ in range(steps):
            updates, state = tx.update(size * g, state, p)
            p = optax.apply_updates(p, updates)
        return jnp.sum(p * g)

    cases = ((1, {}), (1, E4M3), (2, E4M3))
    plain, one, two = jax.jit(lambda x: [jax.grad(after)(x, *case) for case in cases])(0.5)
    assert one == plain != 0
    np.testing.assert_allclose(two, 2 * plain, rtol=1e-6)


def test_behind_others_and_beside_others():
    """Chained, accumulated, for some leaves only, with a learning rate that is traced, pickled, observed."""
    params = {"a": jnp.ones((5, 3)), "b": jnp.ones(70)}
    grads = jax.tree.map(lambda p: 0.3 * p, params)
    tx = isostep_jax.lion(2.0**-5, betas=(0.5, 0.75), **E4M3, rounding_seed=SEED)
    others = {*inspect.signature(isostep_jax.lion).parameters} - {"lr"}
    injected = optax.inject_hyperparams(isostep_jax.lion, static_args=others)
    wrapped = {
        "chain": (optax.chain(optax.clip(1.0), tx), lambda s: s[1]),
        "accumulated": (optax.MultiSteps(tx, 1), lambda s: s.inner_opt_state),
        "labelled": (
            optax.multi_transform({"x": tx}, jax.tree.map(lambda p: "x", params)),
            lambda s: s.inner_states["x"].inner_state,
        ),
        "injected": (
            injected(lr=2.0**-5, betas=(0.5, 0.75), **E4M3, rounding_seed=SEED),
            lambda s: s.inner_state,
        ),
        "pickled": (pickle.loads(pickle.dumps(tx)), lambda s: s),
        "observed": (isostep_jax.observe(tx), lambda s: s.state),
    }

    def two(tx):
        state, p = tx.init(params), params
        for _ in range(2):
            updates, state = tx.update(grads, state, p)
            p = optax.apply_updates(p, updates)
        return p, state

    found = jax.jit(
        lambda: {n: two(outer) for n, (outer, _) in {"": (tx, None), **wrapped}.items()}
    )()
    wanted, state = found.pop("")
    assert state.arrays["exp_avg"]["a"].any()
    for name, (p, outer) in found.items():
        same(p, wanted)
        same(wrapped[name][1](outer).arrays, state.arrays)


EIGHT = """
    import jax, jax.numpy as jnp, numpy as np, isostep, isostep_jax, optax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    rng = np.random.default_rng(0)
    specs = {"cut": P("x", "y"), "rows": P("x", None), "whole": P("x", "y"), "flat": P("y")}
    shapes = {"cut": (8, 6), "rows": (8, 64), "whole": (4, 64), "flat": (128,)}
    rule = isostep.rule("lion", lr=2.0**-5, betas=(0.5, 0.75))
    tx = isostep_jax.transform(rule, state_dtype="mxfp8_e4m3", rounding_seed=7)
    update, step = jax.jit(tx.update), isostep_jax.step(tx)

    def draw():
        return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}

    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))
        put = lambda tree: {n: jax.device_put(v, NamedSharding(mesh, specs[n])) for n, v in tree.items()}
        host = draw()
        plain, sharded = {n: jnp.array(v) for n, v in host.items()}, put(host)
        one, many = tx.init(plain), tx.init(sharded)
        for _ in range(3):
            grads = draw()
            u, one = update(grads, one, plain)
            plain = optax.apply_updates(plain, u)
            sharded, many = step(sharded, put(grads), many)
        for n, p in sharded.items():
            assert np.asarray(p).tobytes() == np.asarray(plain[n]).tobytes(), (kind, n)
            for name, tree in many.arrays.items():
                assert np.asarray(tree[n]).tobytes() == np.asarray(one.arrays[name][n]).tobytes()
            assert many.arrays["exp_avg"][n].sharding.is_equivalent_to(p.sharding, p.ndim)

    def own(p, g):  # every shard has blocks, and noise, of its own
        state = tx.init(p)
        for _ in range(2):
            state = jax.lax.scan(lambda s, _: (tx.update(g, s, p)[1], None), state, None, 1)[0]
        return state.arrays

    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    p, g = ({"w": rng.standard_normal((16, 24)).astype(np.float32)} for _ in range(2))
    found = jax.jit(jax.shard_map(own, mesh=mesh, in_specs=P("x"), out_specs=P("x")))(p, g)
    alone = jax.jit(own)
    parts = [alone(*({"w": x["w"][2 * i : 2 * i + 2]} for x in (p, g))) for i in range(8)]
    for n, tree in found.items():
        assert np.asarray(tree["w"]).tobytes() == np.concatenate([x[n]["w"] for x in parts]).tobytes()
    print("done")
"""


def test_sharded_leaves_have_the_same_bits():
    flag = "import os; os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'\n"
    code = flag + textwrap.dedent(EIGHT)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout == "done\n"


# Errors


def state_of(**arrays):
    tx = isostep_jax.signum(0.1, momentum=0.5, **E4M3)
    state = tx.init([jnp.ones((5, 3))])
    return tx, state._replace(arrays={**state.arrays, **{n: [a] for n, a in arrays.items()}})


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        (
            {"momentum_buffer": jnp.ones((5, 3))},
            "signum: state momentum_buffer of leaf 0 of params must be uint8 of shape (5, 3), got float32 (5, 3); "
            "make a new state with tx.init(params)",
        ),
        (
            {"momentum_buffer_scale": jnp.ones((2,), jnp.uint8)},
            "signum: state momentum_buffer_scale of leaf 0 of params must be uint8 of shape (1,), got uint8 (2,); "
            "make a new state with tx.init(params)",
        ),
        (
            {"other": jnp.ones(1)},
            "signum: state has the arrays ['momentum_buffer', 'momentum_buffer_scale', 'other'], expected "
            "['momentum_buffer', 'momentum_buffer_scale']; make one with tx.init(params)",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_one_clear_line(arrays, text):
    tx, state = state_of(**arrays)
    params = [jnp.ones((5, 3))]
    with pytest.raises(StepError, match=f"^{re.escape(text)}$"):
        tx.update(params, state, params)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: isostep_jax.sgd(0.1, **E4M3),
            ValueError,
            "sgd: state_dtype mxfp8_e4m3 is for state that starts as zeros, and none of this rule's does (none); "
            "use one of float64, float32, bfloat16, float16",
        ),
        (
            lambda: isostep_jax.adamw(1e-3, state_dtype="mxfp8"),
            ValueError,
            "adamw: state_dtype must be None or one of float64, float32, bfloat16, float16, mxfp8_e4m3, mxfp8_e5m2, "
            "got 'mxfp8'",
        ),
        (
            lambda: isostep_jax.flat(isostep_jax.adamw(1e-3, **E5M2), [jnp.ones(3)]),
            RuleError,
            "adamw: state_dtype mxfp8_e5m2 has no flat mode, as blocks are of one leaf; use it without flat(), "
            "small leaves with grouped=True",
        ),
        (
            lambda: isostep.backend("jax:jit").init(
                isostep.rule("sgd", lr=0.1), [jnp.ones(3)], storage=low_precision(**E4M3)
            ),
            StepError,
            "sgd: state_dtype mxfp8_e4m3 is for state that starts as zeros, and none of this rule's does (none); "
            "use one of float64, float32, bfloat16, float16",
        ),
    ],
)
def test_what_is_not_there_is_one_clear_line(make, error, text):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == text
