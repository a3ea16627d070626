"""Many small leaves: stacks and flat buffers take the steps that leaves take one by one."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isostep
import isostep_jax
from isostep.program import trace
from isostep.values import DECOMPOSITIONS
from isostep_jax import layout

pytestmark = pytest.mark.whole  # not for want of a package: minutes of work, and once is enough

#: Two matrices and three vectors of one shape: stacks of several; more than one unit; 0-d and empty.
SHAPES = {
    "a": (4, 3),
    "b": (5,),
    "c": (4, 3),
    "d": (5,),
    "e": (),
    "f": (0,),
    "g": (5,),
    "h": (2, 3, 2),
}
COMPOSED = {
    "clip_by_global_norm+lamb": ("clip_by_global_norm", "lamb"),
    "adaptive_clip+adamw+lookahead": ("adaptive_clip", "adamw", "lookahead"),
    "centralize+sgd_hd": ("centralize", "sgd_hd"),
}


def rule_of(name):
    make = lambda part: (  # noqa: E731
        isostep.rule(part, lr=0.05) if part in isostep.rules() else getattr(isostep.pieces, part)
    )
    if name not in COMPOSED:
        return make(name)
    parts = [make(part) for part in COMPOSED[name]]
    given = {"clip_by_global_norm": {"max_norm": 0.5}, "lookahead": {"k": 2}}
    return isostep.compose(
        *(
            p if n in isostep.rules() else p(**given.get(n, {}))
            for n, p in zip(COMPOSED[name], parts, strict=True)
        )
    )


def tree(seed, dtype, shapes):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.standard_normal(s), dtype) for k, s in shapes.items()}


def shapes_of(name):
    allowed = isostep.definition(name).ndim if name in isostep.rules() else None
    return {k: s for k, s in SHAPES.items() if allowed is None or len(s) in allowed}


def feeds(name, params, dtype, steps):
    """Gradients and extra inputs, step by step."""
    shapes = {k: p.shape for k, p in params.items()}
    for k in range(steps):
        grads = jax.tree.map(lambda x, k=k: x * 10.0 ** (k - 1), tree(50 + k, dtype, shapes))
        given = {n: tree(70 + k, dtype, shapes) for n in rule_of(name).input_names}
        yield grads, given | dict.fromkeys(rule_of(name).group_input_names, 0.5 + k)


def run(name, tx, params, into=lambda x: x, steps=4):
    start = into(params)
    state, update, p = tx.init(start), jax.jit(tx.update), start
    for grads, extra in feeds(name, params, params["a"].dtype, steps):
        own = rule_of(name).input_names
        inputs = {n: into(v) if n in own else v for n, v in extra.items()}
        updates, state = update(into(grads), state, p, **inputs)
        p = optax.apply_updates(p, updates)
    return p, state.group


def reference(name, params, steps=4):
    """The same steps by the plain NumPy rule: nothing to compile, and nothing of JAX in it."""
    backend, rule = isostep.backend("numpy:reference"), rule_of(name)
    p = {k: np.array(v) for k, v in params.items()}
    state = backend.init(rule, p)
    for fed in feeds(name, params, params["a"].dtype, steps):
        grads, inputs = jax.tree.map(np.array, fed)
        p, state = backend.step(rule, p, grads, state, **inputs)
    return p, state.group


def same(found, wanted, start, dtype, decomposed=False):
    """Within rounding of each element; of the array's largest where eigenvectors couple all of them.

    The inverse root of a matrix whose eigenvalues lie eight decades apart, as in these runs, loses two digits more.
    """
    eps = float(jnp.finfo(jnp.float32 if dtype != jnp.float64 else dtype).eps)
    store = float(jnp.finfo(dtype).eps)
    for k in wanted:
        a, b, p = (np.asarray(x[k], np.float64) for x in (found, wanted, start))
        scale = np.maximum(np.abs(b), np.abs(p)) + 1e-3
        scale = scale.max(initial=0.0) if decomposed else scale
        ulps = 300 if decomposed else 60
        assert (np.abs(a - b) <= (ulps * eps + 2 * store * (store != eps)) * scale).all(), k


def compared(found, wanted, params, dtype, decomposed=False):
    same(found[0], wanted[0], params, dtype, decomposed)
    for n, v in wanted[1].items():
        rtol = 1e-12 if dtype == jnp.float64 else 1e-5
        np.testing.assert_allclose(found[1][n], v, rtol=rtol)


def has_flat(rule):
    return not (trace(rule).generic or any(getattr(c.part, "ndim", None) for c in rule.components))


NAMES = [*isostep.rules(), *COMPOSED]
#: How an array is cast does not depend on the rule: no sum, a sum of the array, of its units, of the group.
HALVES = ["adamw", "lamb", *COMPOSED]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((n, "float64") for n in NAMES), *((n, d) for n in HALVES for d in ("bfloat16", "float16"))],
)
def test_stacks_and_flat_buffers_take_the_reference_steps(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        kind = jnp.dtype(dtype)
        rule, params = rule_of(name), tree(0, kind, shapes_of(name))
        wanted = reference(name, params)
        tx = isostep_jax.transform(rule, grouped=True)
        decomposed = any(n.op in DECOMPOSITIONS for n in trace(rule).live)
        compared(run(name, tx, params), wanted, params, kind, decomposed)
        for kept in tx.init(params).arrays.values():
            assert len(kept) < len(params)  # fewer buffers than leaves
        if not has_flat(rule):
            with pytest.raises(isostep.RuleError, match="so it has no flat mode"):
                isostep_jax.flat(tx, params)
            return
        flat = isostep_jax.flat(tx, params)
        found, group = run(name, flat, params, into=flat.flatten)
        assert set(found) == {dtype}
        compared((flat.unflatten(found), group), wanted, params, kind)


def test_flat_buffers_by_dtype_and_gradients_through_views():
    params = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(2, jnp.bfloat16), "c": jnp.ones(())}
    flat = isostep_jax.flat(isostep_jax.sgd(0.5), params)
    buffers = flat.flatten(params)
    assert {n: b.shape for n, b in buffers.items()} == {"float32": (7,), "bfloat16": (2,)}

    def loss(p):
        return jnp.sum(p["a"] ** 2) + jnp.sum(p["b"].astype(jnp.float32)) * p["c"]

    grads = jax.grad(lambda b: loss(flat.unflatten(b)))(buffers)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, buffers)
    wanted = jax.grad(loss)(params)
    jax.tree.map(np.testing.assert_array_equal, flat.unflatten(grads), wanted)
    updates, _ = flat.update(grads, flat.init(buffers), buffers)
    after = flat.unflatten(optax.apply_updates(buffers, updates))
    np.testing.assert_array_equal(after["a"], np.zeros((2, 3)))


def test_views_of_one_shape_share_what_is_compiled_and_can_be_differentiated_both_ways():
    params = [jnp.full((3, 4), float(i)) for i in range(5)]
    flat = isostep_jax.flat(isostep_jax.sgd(0.5), params)
    buffers = flat.flatten(params)
    if jax.default_backend() == "cpu":
        text = jax.jit(flat.unflatten).lower(buffers).compile().as_text()
        # A slice at a place of its own would be a kernel of its own.
        assert text.count("dynamic-slice(") == 5

    def loss(b):
        return sum(jnp.sum(jnp.sin(p) ** 2) for p in flat.unflatten(b))

    plain = lambda b: jnp.sum(jnp.sin(b["float32"]) ** 2)  # noqa: E731
    same_as = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    jax.tree.map(same_as, jax.grad(loss)(buffers), jax.grad(plain)(buffers))
    diagonal = lambda f: jax.jvp(jax.grad(f), (buffers,), (buffers,))[1]  # noqa: E731
    jax.tree.map(same_as, diagonal(loss), diagonal(plain))
    many = {"float32": jnp.stack([buffers["float32"], -buffers["float32"], jnp.full(60, jnp.nan)])}
    for k, p in enumerate(jax.vmap(flat.unflatten)(many)):
        np.testing.assert_array_equal(p[0], params[k])
        np.testing.assert_array_equal(p[1], -params[k])
    broken = {"float32": buffers["float32"].at[0].set(jnp.nan)}
    np.testing.assert_array_equal(flat.unflatten(broken)[3], params[3])


def parts():
    """Layers with members in them, and what is no stack: another structure, shape or dtype, a tuple, nothing."""
    random = np.random.default_rng(5)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731

    def layer():
        return {"w": draw(3, 2), "b": draw(2).astype(jnp.bfloat16), "heads": [draw(2), draw(2)]}

    return {
        "embed": draw(4, 3),
        "layers": [layer() for _ in range(5)],
        "pair": (draw(2), draw(2)),
        "odd": [draw(2), draw(3)],
        "mixed": [draw(2), draw(2).astype(jnp.bfloat16)],
        "one": [draw(2, 2)],
        "none": [None, None],
        "scalar": draw(),
    }


def test_lists_of_equal_subtrees_are_stacks():
    params = parts()
    flat = isostep_jax.flat(isostep_jax.adam(0.1), params)
    found = flat.stacked(flat.flatten(params))
    layers = jax.tree.map(lambda *each: jnp.stack(each), *params["layers"])
    layers["heads"] = jnp.stack(layers["heads"], axis=1)  # the layers', then the heads'
    wanted = params | {"layers": layers, "one": params["one"][0][None]}
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert found["layers"]["heads"].shape == (5, 2, 2)


def test_gradients_through_stacks_are_those_through_leaves():
    params = parts()
    flat = isostep_jax.flat(isostep_jax.adam(0.1), params)
    buffers = flat.flatten(params)

    def by_leaf(b):
        p = flat.unflatten(b)
        x = p["embed"]
        for layer in p["layers"]:
            x = jnp.tanh(x @ layer["w"] + layer["b"] * layer["heads"][0]) @ layer["w"].T
        return jnp.sum(x**2) * p["scalar"] + jnp.sum(p["pair"][1])

    def by_stack(b):
        p = flat.stacked(b)

        def one(x, layer):
            return jnp.tanh(x @ layer["w"] + layer["b"] * layer["heads"][0]) @ layer["w"].T, None

        x, _ = jax.lax.scan(one, p["embed"], p["layers"])
        return jnp.sum(x**2) * p["scalar"] + jnp.sum(p["pair"][1])

    wanted, found = (jax.jit(jax.grad(f))(buffers) for f in (by_leaf, by_stack))
    assert found.keys() == buffers.keys()
    for name in buffers:
        np.testing.assert_allclose(
            found[name].astype(jnp.float32), wanted[name].astype(jnp.float32), rtol=1e-5, atol=1e-6
        )
    many = {n: jnp.stack([b, b + 1]) for n, b in buffers.items()}
    np.testing.assert_array_equal(
        jax.vmap(flat.stacked)(many)["layers"]["w"][0], flat.stacked(buffers)["layers"]["w"]
    )


def test_errors_of_flat_mode():
    flat = isostep_jax.flat(isostep_jax.sgd(0.5), {"a": jnp.ones(3)})
    with pytest.raises(isostep.StepError, match="sgd: flatten needs the structure of params"):
        flat.flatten({"b": jnp.ones(3)})
    with pytest.raises(isostep.RuleError, match="flat needs a transformation of isostep_jax"):
        isostep_jax.flat(optax.adam(0.1), {"a": jnp.ones(3)})


def test_which_leaves_are_stacked():
    runs = layout.stacks(["x", "y", "x", "x", "z"], [3, 4, 3, 3, layout.SMALL + 1], most=2)
    assert [(r.leaves, r.stacked) for r in runs] == [((4,), 0), ((0, 2), 2), ((3,), 0), ((1,), 0)]


def test_the_grouped_path_stacks_and_agrees_with_one_by_one():
    grouped, reference = isostep.backend("jax:grouped"), isostep.backend("numpy:reference")
    rule = isostep.rule("lamb", lr=0.1, weight_decay=0.1)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s) for s in [(3, 4), (5,), (3, 4), (3, 4), (5,)]]
    params, mine = [grouped.asarray(a) for a in arrays], [a.copy() for a in arrays]
    state, own = grouped.init(rule, params), reference.init(rule, mine)
    for k in range(3):
        grads = [
            rng.standard_normal(a.shape) if (i, k) != (2, 1) else None for i, a in enumerate(arrays)
        ]
        params, state = grouped.step(
            rule, params, [None if g is None else grouped.asarray(g) for g in grads], state
        )
        reference.step(rule, mine, grads, own)
    for a, b in zip(params, mine, strict=True):
        np.testing.assert_allclose(np.array(a), b, rtol=1e-12, atol=1e-13)
    assert state.t == own.t
