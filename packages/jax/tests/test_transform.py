"""The transformations: against optax and the reference, and inside what JAX users put them in."""

from __future__ import annotations

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isostep
import isostep_jax
from isostep.storage import OPTIONS

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
        isostep.StepError, match=r"adamw needs the parameters: update\(grads, state, params\)"
    ):
        isostep_jax.adamw().update(grads, isostep_jax.adamw().init(params))
    with pytest.raises(isostep.StepError, match="grads must have the structure of params"):
        tx.update({"v": grads["w"]}, state, params, hessian_diag=grads)
    with pytest.raises(isostep.StepError, match=r"must have shape \(3,\), got \(4,\)"):
        tx.update({"w": jnp.ones(4)}, state, params, hessian_diag=grads)
    with pytest.raises(isostep.StepError, match="must be one of float64"):
        tx.init({"w": jnp.arange(3)})
    with pytest.raises(AttributeError, match=r"no attribute 'adamx'; rules: .*addsign, "):
        isostep_jax.adamx  # noqa: B018


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("name", ["adamw", "lamb", "prodigy"])
def test_arrays_of_numpy_are_what_jit_makes_of_them(name, dtype):
    params = {"w": np.linspace(-1.0, 1.0, 5).astype(dtype), "s": np.ones((), dtype)[()]}
    for tx in (getattr(isostep_jax, name)(0.1), isostep_jax.flat(isostep_jax.adam(0.1), params)):
        p = tx.flatten(params) if isinstance(tx, isostep_jax.FlatTransform) else params
        p = jax.tree.map(np.asarray, p)
        state = tx.init(p)
        found, after = tx.update(p, state, p)
        wanted, jitted = tx.update(*jax.tree.map(jnp.asarray, (p, state, p)))
        jax.tree.map(np.testing.assert_array_equal, (found, after), (wanted, jitted))
        assert {u.dtype for u in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    observed = isostep_jax.observe(isostep_jax.adam(0.1))
    assert observed.update(params, observed.init(params), params)[1].sums.dtype == jnp.float32


@pytest.mark.parametrize("nothing", [None, {}, [], ()])
def test_no_parameters_are_an_empty_step(nothing):
    for tx in (isostep_jax.adam(0.1), isostep_jax.sgd(0.1)):
        updates, state = tx.update(nothing, tx.init(nothing), nothing)
        assert updates == nothing
        assert int(state.count) == 1
    tx, params = isostep_jax.adamw(0.1), {"w": jnp.ones(3)}
    with pytest.raises(isostep.StepError, match="state exp_avg must have the structure of params"):
        tx.update(None, tx.init(params))
    with pytest.raises(isostep.StepError, match="adamw needs the parameters"):
        tx.update(params, tx.init(params))


# Parameters that a step does without, and trees that are hardly parameters


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_a_step_needs_the_parameters_where_it_depends_on_them(name):
    if isostep.rule(name).sequential:
        pytest.skip("no transformation")
    tx = getattr(isostep_jax, name)()
    params, grads = {"m": jnp.linspace(-1.0, 1.0, 6).reshape(3, 2)}, {"m": jnp.full((3, 2), 0.3)}
    many = [jax.tree.map(lambda p, k=k: p * k, params) for k in (1.0, 3.0)]
    state = tx.init(params)
    first, second = (jax.tree.leaves(tx.update(grads, state, p)) for p in many)
    free = all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    text = ""
    try:
        found = jax.tree.leaves(tx.update(grads, state))
    except isostep.StepError as error:
        text = str(error)
    if text:
        assert text == f"{name} needs the parameters: update(grads, state, params)"
    else:
        assert free
        for a, b in zip(found, first, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_gradients_stand_for_parameters_in_every_mode(dtype):
    params, grads = tree(0, dtype), gradients(1, dtype)
    same = partial(jax.tree.map, np.testing.assert_array_equal)
    options = ({}, {"grouped": True}, {"exact_updates": False}, {"state_dtype": "float32"})
    makes = (isostep_jax.adam, isostep_jax.sgd, isostep_jax.lion, isostep_jax.rmsprop)
    for tx in [*(isostep_jax.adam(0.1, **own) for own in options), *(make(0.1) for make in makes)]:
        state = tx.init(params)
        same(jax.jit(tx.update)(grads, state), jax.jit(tx.update)(grads, state, params))
    flat = isostep_jax.flat(isostep_jax.adam(0.1), params)
    buffers, own = flat.flatten(params), flat.flatten(grads)
    state = flat.init(buffers)
    same(flat.update(own, state), flat.update(own, state, buffers))
    with pytest.raises(isostep.StepError, match="adam: buffers must be a dict of"):
        flat.update(grads, state)


def test_gradients_that_cannot_stand_for_parameters_are_one_line():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    for option in ("kahan", "master_weights", "stochastic_rounding"):
        tx = isostep_jax.adam(**{option: True})
        with pytest.raises(isostep.StepError, match="adam needs the parameters"):
            tx.update(params, tx.init(params))
        with pytest.raises(isostep.StepError, match="adam needs the parameters"):
            tx.update({"w": jnp.ones(3)}, tx.init(params))
    tx = isostep_jax.adam()
    for grads, text in (
        ({"w": jnp.ones(2)}, r"got bfloat16 \(3,\); pass the parameters, or gradients like them$"),
        ({"w": jnp.arange(3)}, "adam: leaf 0 of grads must be one of float64"),
        ({"v": params["w"]}, "adam: state exp_avg must have the structure of grads"),
    ):
        with pytest.raises(isostep.StepError, match=text):
            tx.update(grads, tx.init(params))


@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("float32", "bfloat16")])
@pytest.mark.parametrize("options", [{}, {"grouped": True}, {"exact_updates": False}])
def test_gradients_of_another_dtype_stand_for_parameters_of_the_state_s(dtypes, options):
    own, given = dtypes
    params, grads = tree(0, own), gradients(1, given)
    for make in (isostep_jax.adam, isostep_jax.lion, isostep_jax.rmsprop, isostep_jax.sgd_hd):
        tx = make(0.1, **options)
        found, wanted = tx.update(grads, tx.init(params)), tx.update(grads, tx.init(params), params)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
        assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, wanted)
    mixed, like = (
        {"a": jnp.ones(3, own), "b": jnp.ones(3, given)},
        {"a": jnp.ones(3), "b": jnp.ones(3)},
    )
    tx = isostep_jax.adam(grouped=True)
    with pytest.raises(isostep.StepError, match="state exp_avg"):  # whose stacks are not theirs
        tx.update(like, tx.init(mixed))


def test_what_has_no_gradient_is_left_out_of_a_model_given_whole():
    model = {"f": jnp.tanh, "w": jnp.ones(3), "more": [jnp.arange(2), "name"]}
    params, grads = ({"f": None, "w": w, "more": [None, None]} for w in (model["w"], jnp.ones(3)))
    for options in ({}, {"grouped": True}):
        tx = isostep_jax.adamw(0.1, **options)
        state = tx.init(params)
        found, wanted = (tx.update(grads, state, p) for p in (model, params))
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    tx, full = isostep_jax.sgd(0.5), {"v": jnp.ones(2), "w": jnp.ones(3)}
    after, _ = isostep_jax.step(tx)(full, {"v": None, "w": jnp.ones(3)}, tx.init(full))
    assert (after["v"].tolist(), after["w"].tolist()) == ([1.0] * 2, [0.5] * 3)
    tx, full = isostep_jax.adam(), {"v": jnp.ones(2), "w": jnp.ones(3)}
    with pytest.raises(isostep.StepError, match="state exp_avg must have the structure of grads"):
        tx.update({"v": None, "w": full["w"]}, tx.init(full), full)
    tx, full = isostep_jax.adam(grouped=True), {"v": jnp.ones(2), "w": jnp.ones(2)}
    with pytest.raises(isostep.StepError, match="a leaf with state needs a gradient, zeros if it"):
        tx.update({"v": None, "w": full["w"]}, tx.init(full), full)


@pytest.mark.parametrize("wide", [False, True])
def test_floats_of_python_are_arrays_as_they_are_to_jit(wide):
    with jax.enable_x64(wide):
        params = {"a": 1.5, "b": (2.0, jnp.ones(2, jnp.float32))}
        arrays = jax.tree.map(jnp.asarray, params)
        plain = isostep_jax.adamw(0.1), isostep_jax.prodigy(0.1)
        for tx in (*plain, isostep_jax.observe(plain[0])):
            found, wanted = (tx.update(params, tx.init(p), p) for p in (params, arrays))
            jax.tree.map(np.testing.assert_array_equal, found, wanted)
            assert found[0]["a"].dtype == (jnp.float64 if wide else jnp.float32)
            assert optax.apply_updates(params, found[0])["a"] < 1.5
    with pytest.raises(isostep.StepError, match="leaf 0 of params must be an array, got int"):
        isostep_jax.adam().init({"a": 1})


@jax.tree_util.register_pytree_node_class
class OfArrays:
    """A node that takes nothing but arrays."""

    def __init__(self, child):
        assert hasattr(child, "shape")
        self.child = child

    def tree_flatten(self):
        return (self.child,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def test_nodes_are_made_of_arrays_only():
    params = OfArrays(jnp.ones(3))
    for options in ({}, {"grouped": True}):
        tx = isostep_jax.adamw(0.1, **options)
        updates, _ = tx.update(params, tx.init(params), params)
        assert isinstance(updates, OfArrays)


@pytest.mark.parametrize("name", ["adafactor", "adagrad", "novograd", "shampoo", "sgd", "prodigy"])
def test_a_state_of_shapes_alone(name):
    shapes = {"w": jax.ShapeDtypeStruct((4, 3), jnp.bfloat16)}
    for options in ({}, {"grouped": True}, {"master_weights": True}):
        tx = getattr(isostep_jax, name)(**options)
        state, wanted = tx.init(shapes), tx.init({"w": jnp.ones((4, 3), jnp.bfloat16)})
        for n, value in wanted.arrays.items():
            for a, b in zip(jax.tree.leaves(state.arrays[n]), jax.tree.leaves(value), strict=True):
                if n in ("p0", "master_weight"):  # copies of numbers that nobody knows
                    assert (a.dtype, a.shape, bool(jnp.isnan(a).all())) == (b.dtype, b.shape, True)
                else:
                    np.testing.assert_array_equal(a, b)


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


@pytest.mark.parametrize("lr", [1e-4, 3e-4, 1e-3, 1e-2, 1e-1])
def test_the_first_adam_update_is_within_four_ulp(lr):
    # Measured: 2.1 to 4.0, as plain NumPy's 2.9 to 4.1; optax's, which takes 1 - 0.999 in float32, 59 to 95.
    g = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    wide = g.astype(np.float64)
    m, v = (1 - 0.9) * wide, (1 - 0.999) * wide**2
    wanted = -lr * (m / (1 - 0.9)) / (np.sqrt(v / (1 - 0.999)) + 1e-8)

    def worst(tx):
        found, _ = jax.jit(tx.update)(g, tx.init(g), g)
        spacing = np.spacing(np.abs(wanted).astype(np.float32))
        return (np.abs(np.array(found, np.float64) - wanted) / spacing).max()

    assert worst(isostep_jax.adam(lr)) <= 4.0
    assert worst(isostep_jax.adam(lambda done: lr)) <= 4.0
    assert worst(optax.adam(lr)) > 50


# Hyperparameters that are traced

INIT = [
    ("rprop", "lr"),
    ("adagrad", "initial_accumulator_value"),
    ("ftrl", "initial_accumulator_value"),
    ("yogi", "initial_accumulator"),
    ("shampoo", "eps"),
    ("psgd_kron", "precond_init_scale"),
    ("sgd_hd", "lr"),
    ("dadapt_adam", "d0"),
]


@pytest.mark.parametrize(("name", "hyper"), INIT)
def test_first_states_are_made_of_a_schedule_s_value_traced_or_not(name, hyper):
    params = tree(0, jnp.float32, {"m": (4, 3)})
    make = lambda value: getattr(isostep_jax, name)(**{hyper: value})  # noqa: E731
    wanted = make(0.25).init(params)
    for value in (lambda done: 0.25, lambda done: 0.25 + 0.0 * done, jnp.float32(0.25)):
        for init in (make(value).init, jax.jit(make(value).init)):
            jax.tree.map(np.testing.assert_array_equal, init(params), wanted)
    found = jax.jit(lambda value: make(value).init(params))(0.25)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_learning_rate_may_be_traced_in_every_way():
    params = {"w": jnp.ones(3)}

    def train(lr):
        tx = isostep_jax.sgd(lr, momentum=0.9)
        updates, _ = tx.update(params, tx.init(params), params)
        return jnp.sum(updates["w"])

    assert jax.jit(train)(0.5) == -1.5
    assert jax.vmap(train)(jnp.array([0.5, 1.0])).tolist() == [-1.5, -3.0]
    assert jax.grad(train)(0.5) == -3.0
    tx = isostep_jax.adam(optax.cosine_decay_schedule(0.1, 10))
    shapes = jax.eval_shape(tx.init, params)
    assert jax.tree.structure(shapes) == jax.tree.structure(tx.init(params))


def test_what_is_there_does_not_depend_on_a_traced_value():
    params = {"w": jnp.ones((2, 3))}
    for name in ("sgd", "madgrad", "rmsprop", "sm3", "shampoo", "amos"):
        for momentum in (jnp.float32(0.0), jnp.float32(0.9)):
            init = lambda m, name=name: getattr(isostep_jax, name)(momentum=m).init(params)  # noqa: E731
            assert jax.tree.structure(jax.jit(init)(momentum)) == jax.tree.structure(init(momentum))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_every_rule_steps_with_a_traced_schedule(name):
    if isostep.rule(name).sequential:
        pytest.skip("no transformation")
    ndim = isostep.definition(name).ndim
    params = {"m": jnp.linspace(-1.0, 1.0, 6).reshape(3, 2)}
    params |= {"v": jnp.ones(3)} if ndim is None else {}
    grads = jax.tree.map(lambda p: 0.5 * p + 0.1, params)
    make = getattr(isostep_jax, name)
    tx = make(lr=optax.exponential_decay(0.01, 10, 0.5))
    injected = optax.inject_hyperparams(make)(lr=0.01)
    plain = make(lr=0.01)
    wanted, _ = jax.jit(plain.update)(grads, plain.init(params), params)
    for each in (tx, injected):
        found, state = jax.jit(each.update)(grads, jax.jit(each.init)(params), params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), found, wanted
        )
        jax.jit(each.update)(grads, state, params)


def test_a_composed_rule_s_hyperparameters_may_be_injected():
    def make(lr, max_norm, alpha):
        clip = isostep.pieces.clip_by_global_norm(max_norm=max_norm)
        slow = isostep.pieces.lookahead(k=2, alpha=alpha)
        return isostep_jax.transform(isostep.compose(clip, isostep.rule("adam", lr=lr), slow))

    params = {"w": jnp.ones(3)}
    tx = optax.inject_hyperparams(make)(lr=0.1, max_norm=1.0, alpha=0.5)
    state = jax.jit(tx.init)(params)
    for update in (tx.update, jax.jit(tx.update)):
        found, _ = update(params, state, params)
        plain = make(0.1, 1.0, 0.5)
        wanted, _ = plain.update(params, plain.init(params), params)
        np.testing.assert_allclose(found["w"], wanted["w"], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: isostep_jax.adam(jnp.float32(-1)),
            "adam: lr must be >= 0, got Array(-1., dtype=float32)",
        ),
        (
            lambda: isostep_jax.adam(jnp.ones((2, 2))),
            "adam: lr must be >= 0, got Array([[1., 1.], [1., 1.]]",
        ),
        (lambda: isostep_jax.adam(True), "adam: lr must be >= 0, got True"),
        (
            lambda: isostep_jax.adam(betas=jnp.array([0.9, 0.8, 0.7])),
            "adam: betas must be 2 numbers, each in [0, 1), got Array([0.9",
        ),
        (
            lambda: isostep.pieces.lookahead(k=jnp.int32(5)),
            "lookahead: k must be an integer >= 1, got Array(5, dtype=int32); it shapes the program, so pass Python's",
        ),
        (
            lambda: jax.jit(lambda n: isostep_jax.sgd(nesterov=n).init(jnp.ones(1)))(True),
            "sgd: nesterov must be True or False, got JitTracer(bool[]); it shapes the program",
        ),
        (
            lambda: isostep_jax.adam(0.1, lr=0.1),
            "adam: lr is given by position and by name; give it once",
        ),
        (lambda: isostep_jax.adam(foo=1), "adam has no hyperparameter 'foo'"),
        (
            lambda: isostep_jax.transform(isostep.rule("adam"), foo=1),
            "adam: unknown option 'foo'; it has grouped, exact_updates, state_dtype",
        ),
    ],
)
def test_arrays_that_cannot_be_hyperparameters_are_one_line(make, text):
    with pytest.raises((isostep.DomainError, isostep.RuleError)) as caught:
        make()
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_pairs_may_be_arrays():
    params = {"w": jnp.ones(3)}
    wanted = run(isostep_jax.adam(betas=(0.5, 0.75)), params, 2, jnp.float32, {"w": (3,)})[0]
    for betas in (jnp.array([0.5, 0.75]), np.array([0.5, 0.75]), (jnp.float32(0.5), 0.75)):
        found = run(isostep_jax.adam(betas=betas), params, 2, jnp.float32, {"w": (3,)})[0]
        np.testing.assert_allclose(found["w"], wanted["w"], rtol=1e-6)


TABLE = jnp.array([0.5, 0.25, 0.125, 0.0625])
COUNTED = {
    "table[step]": lambda k: TABLE[k],
    "take": lambda k: jnp.take(TABLE, k, mode="clip"),
    "shift": lambda k: 0.5 / (1 << k),
    "switch": lambda k: jax.lax.switch(k, [lambda: 0.5, lambda: 0.25, lambda: 0.125]),
    "dynamic_index": lambda k: jax.lax.dynamic_index_in_dim(TABLE, k, keepdims=False),
}


@pytest.mark.parametrize("name", COUNTED)
def test_schedules_get_the_steps_done_as_a_whole_number(name):
    tx, params = isostep_jax.sgd(COUNTED[name]), {"w": jnp.ones(2)}
    for update in (tx.update, jax.jit(tx.update)):
        state = tx.init(params)
        for k in range(3):
            updates, state = update(params, state, params)
            assert updates["w"].tolist() == [-(0.5 ** (k + 1))] * 2


# Signatures, and optax's protocol


@pytest.mark.parametrize("name", isostep.rules())
def test_signatures_have_hyperparameters_by_position_and_options_by_name(name):
    definition = isostep.definition(name)
    parameters = inspect.signature(getattr(isostep_jax, name)).parameters
    options = ("grouped", "exact_updates", *OPTIONS)
    assert list(parameters)[-len(options) :] == list(options)
    for n, p in parameters.items():
        kind = p.KEYWORD_ONLY if n in options else p.POSITIONAL_OR_KEYWORD
        assert p.kind is kind
    assert {n: parameters[n].default for n in definition.hyper} == {
        n: d.default for n, d in definition.hyper.items()
    }
    assert "rounding_seed=0" in str(inspect.signature(getattr(isostep_jax, name)))


def test_inject_hyperparams_of_a_constructor():
    params = tree(0, jnp.bfloat16)
    inject = partial(optax.inject_hyperparams, isostep_jax.adamw, hyperparam_dtype=jnp.float32)
    for tx in (inject()(0.1), inject()(lr=0.1), inject()(optax.constant_schedule(0.1))):
        state = jax.jit(tx.init)(params)
        assert set(state.hyperparams) == {"lr", "eps", "weight_decay"}
        jax.jit(tx.update)(params, state, params)
    options = {"stochastic_rounding": True, "state_dtype": jnp.bfloat16}
    low = inject(static_args=("rounding_seed", "state_dtype"))(0.1, rounding_seed=7, **options)
    traced = [jnp.float32(x) for x in (0.1, 1e-8, 0.01)]
    make = lambda seed: isostep_jax.adamw(  # noqa: E731
        traced[0], eps=traced[1], weight_decay=traced[2], rounding_seed=seed, **options
    )
    plain = make(7)
    grads = gradients(0, jnp.bfloat16)
    found, _ = jax.jit(low.update)(grads, low.init(params), params)
    wanted, _ = jax.jit(plain.update)(grads, plain.init(params), params)
    other = make(8)
    differs, _ = jax.jit(other.update)(grads, other.init(params), params)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), found, wanted)
    assert all(jax.tree.leaves(same))
    assert not all(
        jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), differs, wanted))
    )


# Half precision


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_updates_in_the_leaf_s_dtype_are_the_exact_ones_rounded(dtype):
    params, grads = tree(0, dtype), gradients(1, dtype)
    for options in ({}, {"grouped": True}, {"master_weights": True}):
        exact = isostep_jax.adam(0.1, **options)
        narrow = isostep_jax.adam(0.1, exact_updates=False, **options)
        wanted, a = exact.update(grads, exact.init(params), params)
        found, b = narrow.update(grads, narrow.init(params), params)
        assert {u.dtype for u in jax.tree.leaves(wanted)} == {jnp.dtype("float32")}
        jax.tree.map(lambda u, w: np.testing.assert_array_equal(u, w.astype(dtype)), found, wanted)
        jax.tree.map(np.testing.assert_array_equal, a, b)
    flat = isostep_jax.flat(isostep_jax.adam(0.1, exact_updates=False), params)
    buffers = flat.flatten(params)
    updates, _ = flat.update(buffers, flat.init(buffers), buffers)
    assert {u.dtype for u in updates.values()} == {jnp.dtype(dtype)}


WRAPPERS = {
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "conditionally_mask": lambda tx: optax.conditionally_mask(tx, lambda step: step > 0),
    "ema": lambda tx: optax.chain(tx, optax.ema(0.9)),
    "trace": lambda tx: optax.chain(tx, optax.trace(0.9)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_that_insist_on_the_gradients_dtype(name):
    params = {"w": jnp.linspace(-1.0, 1.0, 5, dtype=jnp.bfloat16)}

    def trained(rule):
        tx = WRAPPERS[name](rule)

        def body(carry, _):
            params, state = carry
            updates, state = tx.update(params, state, params)
            return (optax.apply_updates(params, updates), state), None

        (found, _), _ = jax.lax.scan(body, (params, tx.init(params)), length=3)
        return found["w"].astype(jnp.float32)

    found = trained(isostep_jax.adam(0.1, exact_updates=False))
    np.testing.assert_allclose(found, trained(optax.adam(0.1)), rtol=2**-6, atol=2**-7)
    with pytest.raises(TypeError):
        trained(isostep_jax.adam(0.1))


# States and gradients that do not fit


@pytest.mark.parametrize("shape", [(1,), (), (4, 3), (3, 1)])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_state_of_another_shape_is_one_line(shape, grouped):
    tx = isostep_jax.adam(0.1, grouped=grouped)
    params, other = ({k: jnp.ones(s) for k in "vw"} for s in ((3,), shape))
    with pytest.raises(isostep.StepError, match=r"^adam: state exp_avg of leaf 0") as caught:
        jax.jit(tx.update)(params, tx.init(other), params)
    assert "make a new state" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_factored_and_flat_states_are_checked_too():
    params = {"w": jnp.ones((3, 4))}
    for name, wrong in (("adafactor", (4, 3)), ("shampoo", (3, 5)), ("came", (3, 5))):
        tx = getattr(isostep_jax, name)(0.1)
        tx.update(params, tx.init(params), params)
        with pytest.raises(isostep.StepError, match=f"^{name}: state .* must be float32 of shape"):
            tx.update(params, tx.init({"w": jnp.ones(wrong)}), params)
    flat = isostep_jax.flat(isostep_jax.adam(0.1), params)
    buffers = flat.flatten(params)
    other = isostep_jax.flat(isostep_jax.adam(0.1), {"w": jnp.ones(11)})
    with pytest.raises(isostep.StepError, match=r"must be float32 of shape \(12,\), got float32"):
        flat.update(buffers, other.init({"float32": jnp.ones(11)}), buffers)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (lambda p: (), "adam: state must be a TransformState, got tuple; make one with"),
        (
            lambda p: isostep_jax.sgd(momentum=0.5).init(p),
            "adam: state has the arrays ['momentum_buffer'], expected ['exp_avg', 'exp_avg_sq']",
        ),
        (
            lambda p: isostep_jax.adam().init(p)._replace(group={"lr": 1.0}),
            "adam: state has the group values ['lr'], expected []",
        ),
        (
            lambda p: isostep_jax.adam(state_dtype="bfloat16").init(p),
            "adam: state exp_avg of leaf 0 of params must be float32 of shape (3,), got bfloat16 (3,)",
        ),
        (
            lambda p: isostep_jax.adam(grouped=True).init(p | {"v": p["w"]}),
            "adam: state exp_avg must have the structure of params",
        ),
    ],
)
def test_a_state_of_another_transformation_is_one_line(state, text):
    params = {"w": jnp.ones(3)}
    with pytest.raises(isostep.StepError) as caught:
        isostep_jax.adam().update(params, state(params), params)
    assert str(caught.value).startswith(text)


def test_complex_gradients_of_real_parameters_are_refused():
    tx, params = isostep_jax.adam(), {"w": jnp.ones(3)}
    text = "^adam: grads of leaf 0 must be real like the parameter, got complex64$"
    with pytest.raises(isostep.StepError, match=text):
        tx.update({"w": jnp.ones(3) * 1j}, tx.init(params), params)


def test_complex_parameters_are_stepped_as_two_real_ones():
    params = {"z": jnp.array([1 + 2j, 3 - 1j])}
    with pytest.raises(
        isostep.StepError, match="leaf 0 of params must be real, got complex64; step"
    ):
        isostep_jax.adam().init(params)
    tx = optax.contrib.split_real_and_imaginary(isostep_jax.adam(0.5))
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["z"], [-0.5 - 0.5j, -0.5 + 0.5j], rtol=1e-6)


@pytest.mark.parametrize("name", ["radam", "ranger", "schedule_free_radam"])
def test_derivatives_go_through_the_steps_that_are_not_rectified(name):
    def after(x, steps):
        tx, p = getattr(isostep_jax, name)(0.1), jnp.array([1.0, -2.0]) * x
        state = tx.init(p)
        for _ in range(steps):
            updates, state = tx.update(p, state, p)
            p = p + updates
        return jnp.sum(p * p)

    with jax.enable_x64(True):
        for steps in (3, 4, 6):
            slope = (after(1.3 + 1e-5, steps) - after(1.3 - 1e-5, steps)) / 2e-5
            np.testing.assert_allclose(jax.grad(after)(1.3, steps), slope, rtol=1e-6)


def test_a_name_is_no_rule():
    with pytest.raises(isostep.StepError, match=r"expected a rule such as .*, got 'adam'"):
        isostep_jax.transform("adam")
