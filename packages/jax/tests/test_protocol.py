"""What optax users put a transformation into; extra arguments, donation, recompilation, devices."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isostep
import isostep_jax

PARAMS = {"a": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": (jnp.ones(2), None)}
GRADS = jax.tree.map(lambda p: 0.5 * p + 0.25, PARAMS)


def close(x, y, **tolerance):
    assert jax.tree.structure(x) == jax.tree.structure(y)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), x, y)


def test_extra_arguments_reach_it_through_a_chain_and_unknown_ones_are_ignored():
    tx = isostep_jax.adahessian(0.1)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    chain = optax.chain(optax.clip(10.0), tx)
    diag = jax.tree.map(lambda p: p * 2, PARAMS)
    updates, _ = chain.update(GRADS, chain.init(PARAMS), PARAMS, hessian_diag=diag, value=1.0)
    wanted, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, hessian_diag=diag)
    close(updates, wanted, rtol=1e-7)


BEFORE = """
    import sys, isostep_jax, jax.numpy as jnp
    tx = isostep_jax.adahessian(0.1)
    assert "optax" not in sys.modules and isinstance(tx, isostep_jax.Transform)
    import optax
    assert isinstance(tx, optax.GradientTransformationExtraArgs) and isinstance(tx, isostep_jax.Transform)
    init, update = tx
    chain, p = optax.chain(optax.clip(1.0), tx), {"w": jnp.ones(3)}
    chain.update(p, chain.init(p), p, hessian_diag=p)
"""


def test_a_transformation_made_before_optax_is_loaded_is_optax_s_too():
    code = textwrap.dedent(BEFORE)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize("grouped", [False, True])
def test_a_hundred_steps_with_changing_hyperparameters_compile_once(grouped):
    tx = optax.inject_hyperparams(
        lambda lr, weight_decay: isostep_jax.adamw(
            lr,
            betas=(lambda done: 0.9 - 0.1 / (1 + done), 0.95),
            weight_decay=weight_decay,
            grouped=grouped,
        )
    )(lr=0.1, weight_decay=0.1)
    step = jax.jit(tx.update)
    state, p = tx.init(PARAMS), PARAMS
    for k in range(100):
        state = state._replace(
            hyperparams={"lr": jnp.float32(0.1 / (1 + k)), "weight_decay": jnp.float32(0.01 * k)}
        )
        updates, state = step(GRADS, state, p)
        p = optax.apply_updates(p, updates)
    assert step._cache_size() == 1


def test_a_hundred_steps_of_the_backend_compile_once():
    backend = isostep.backend("jax:grouped")
    params = [jnp.ones(13), jnp.ones(13)]
    state = backend.init(isostep.rule("adamw"), params)
    before = backend.compilations()
    for k in range(100):
        rule = isostep.rule("adamw", lr=0.1 / (k + 1), weight_decay=0.1 + 0.01 * k, eps=1e-3)
        params, state = backend.step(rule, params, params, state)
    assert backend.compilations() == before + 1


@pytest.mark.parametrize("part", ["adam", "lookahead"])
def test_step_donates_parameters_and_state(part):
    rule = isostep.rule("adam", lr=0.1)
    if part == "lookahead":  # its first state is a copy of the parameter, not the parameter
        rule = isostep.compose(rule, isostep.pieces.lookahead(k=2))
    tx = isostep_jax.transform(rule)
    step = isostep_jax.step(tx)
    params = jax.tree.map(jnp.array, PARAMS)
    state = tx.init(params)
    wanted, kept = PARAMS, tx.init(PARAMS)
    for _ in range(3):
        old = jax.tree.leaves((params, state.arrays))
        params, state = step(params, GRADS, state)
        assert all(x.is_deleted() for x in old)
        updates, kept = tx.update(GRADS, kept, wanted)
        wanted = optax.apply_updates(wanted, updates)
    close(params, wanted, rtol=1e-6)


def test_step_does_not_donate_a_hyperparameter():
    lr = jnp.float32(0.1)
    tx = isostep_jax.sgd_hd(lr)
    step, params = isostep_jax.step(tx), {"w": jnp.ones(2)}
    state = tx.init(params)
    for _ in range(2):
        params, state = step(params, {"w": jnp.ones(2)}, state)
    assert not lr.is_deleted()


def test_multi_transform_and_multi_steps():
    labels = {"a": "ours", "b": ("theirs", None)}
    mixed = optax.multi_transform({"ours": isostep_jax.adam(0.1), "theirs": optax.sgd(0.5)}, labels)
    updates, _ = mixed.update(GRADS, mixed.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["b"][0], -0.5 * GRADS["b"][0])
    own = isostep_jax.adam(0.1)
    wanted, _ = own.update(GRADS, own.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["a"], wanted["a"], rtol=1e-7)
    every = optax.MultiSteps(own, every_k_schedule=2)
    state = every.init(PARAMS)
    update = jax.jit(every.update)
    zero, state = update(jax.tree.map(lambda g: 2 * g, GRADS), state, PARAMS)
    assert not any(np.any(x) for x in jax.tree.leaves(zero))
    second, _ = update(jax.tree.map(jnp.zeros_like, GRADS), state, PARAMS)
    close(second, wanted, rtol=1e-6)


def test_inputs_of_a_part_of_the_parameters():
    tx, mask = isostep_jax.adahessian(0.1), {"a": True, "b": False}
    whole = optax.masked(tx, mask)
    with pytest.raises(
        isostep.StepError, match="masks inputs with mask_compatible_extra_args=True"
    ):
        whole.update(GRADS, whole.init(PARAMS), PARAMS, hessian_diag=GRADS)
    masked = optax.masked(tx, mask, mask_compatible_extra_args=True)
    updates, _ = masked.update(GRADS, masked.init(PARAMS), PARAMS, hessian_diag=GRADS)
    own, grads = {"a": PARAMS["a"]}, {"a": GRADS["a"]}
    wanted, _ = tx.update(grads, tx.init(own), own, hessian_diag=grads)
    close(updates["a"], wanted["a"])


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("name", ["adam", "adafactor", "prodigy", "sgd"])
def test_tree_utilities_tell_what_is_like_parameters(name, grouped):
    tx = optax.chain(optax.clip(1.0), getattr(isostep_jax, name)(grouped=grouped))
    state = tx.init(PARAMS)
    others = lambda _: "other"  # noqa: E731
    found = optax.tree.map_params(tx, lambda x: "own", state, transform_non_params=others)[1]
    assert (found.count, set(found.group.values()) - {"other"}) == ("other", set())
    assert all(leaf == "own" for leaf in jax.tree.leaves(found.arrays))
    assert len(jax.tree.leaves(found)) == len(jax.tree.leaves(state))
    later = optax.tree.set(state, count=jnp.int32(7))
    assert int(optax.tree.get(tx.update(GRADS, later, PARAMS)[1], "count")) == 8
    with_one = isostep_jax.adam(grouped=grouped)
    assert with_one.update({}, with_one.init({}), {})[0] == {}


@pytest.mark.parametrize("grouped", [False, True])
def test_inside_scan_vmap_and_grad(grouped):
    tx = isostep_jax.lamb(0.1, weight_decay=0.1, grouped=grouped)

    def trained(scale):
        def body(carry, _):
            params, state = carry
            grads = jax.tree.map(lambda p: scale * p + 0.1, params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(body, (PARAMS, tx.init(PARAMS)), length=3)
        return params

    both = jax.vmap(trained)(jnp.array([1.0, 2.0]))
    for k, scale in enumerate((1.0, 2.0)):
        close(jax.tree.map(lambda x, k=k: x[k], both), trained(scale), rtol=2e-5, atol=1e-6)
    total = lambda s: sum(jnp.sum(x) for x in jax.tree.leaves(trained(s)))  # noqa: E731
    h = 1e-2
    slope = (total(1.5 + h) - total(1.5 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(total)(1.5), slope, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["sgd_hd", "momo", "nadam", "schedule_free_sgd"])
@pytest.mark.parametrize("around", [lambda tx: tx, isostep_jax.observe], ids=["plain", "observed"])
def test_members_on_a_mesh_are_scanned(name, around):
    tx = around(getattr(isostep_jax, name)())

    def trained(p):
        def body(carry, _):
            p, state = carry
            updates, state = tx.update(p, state, p, value=jnp.float32(0.5))
            return (p + updates, state), None

        return jax.lax.scan(body, (p, tx.init(p)), length=2)[0][0]

    spec = jax.sharding.PartitionSpec("members")
    mesh = jax.make_mesh((1,), ("members",), axis_types=(jax.sharding.AxisType.Auto,))
    own = jax.jit(jax.shard_map(trained, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(own(jnp.arange(3.0)), trained(jnp.arange(3.0)), rtol=1e-6)


@pytest.mark.parametrize(
    ("grads", "text"),
    [
        ({"b": jnp.ones(2)}, "adam: grads must have the structure of params"),
        ({"a": "no"}, "adam: grads of leaf 0 must be an array, got str"),
        ({"a": jnp.ones(3)}, r"adam: grads of leaf 0 of params must have shape \(2,\), got \(3,\)"),
        *(
            ({"a": array}, f"adam: grads of leaf 0 must be real like the parameter, got {name}")
            for array, name in (
                (np.ones(2, complex), "complex128"),
                (np.array([1.0, 2.0], object), "object"),
                (np.array(["a", "b"]), "str"),
                (np.zeros(2, jax.dtypes.float0), "void"),
                (jax.random.split(jax.random.key(0), 2), "key<fry>"),
            )
        ),
    ],
)
def test_bad_gradients_are_one_line(grads, text):
    tx = isostep_jax.adam(0.1)
    params = {"a": jnp.ones(2)}
    with pytest.raises(isostep.StepError, match=text) as caught:
        tx.update(grads, tx.init(params), params)
    assert "\n" not in str(caught.value)


def test_a_leaf_that_is_no_array_is_one_line():
    with pytest.raises(isostep.StepError, match="adam: leaf 1 of params must be an array, got str"):
        isostep_jax.adam(0.1).init({"a": jnp.ones(2), "b": "no"})


EIGHT = """
    import jax, jax.numpy as jnp, numpy as np, optax, isostep, isostep_jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    assert len(jax.devices()) == 8
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    rng = np.random.default_rng(0)
    host = {"w": rng.standard_normal((8, 6)).astype(np.float32), "b": rng.standard_normal(8).astype(np.float32)}
    specs = {"w": P("x", "y"), "b": P("x")}
    put = lambda tree: {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in tree.items()}

    def same(a, b):
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim), (a.sharding, b.sharding)

    clipped = isostep.compose(
        isostep.pieces.clip_by_global_norm(max_norm=0.5), isostep.rule("lamb", lr=0.1, weight_decay=0.1)
    )
    for rule in (isostep.rule("adamw", lr=0.1), clipped, isostep.rule("adafactor", lr=0.1)):
        tx = isostep_jax.transform(rule)
        plain, sharded = {k: jnp.array(v) for k, v in host.items()}, put(host)
        one, many = tx.init(plain), jax.jit(tx.init)(sharded)
        eager = tx.init(sharded)
        update, step = jax.jit(tx.update), isostep_jax.step(tx)
        for k in range(3):
            grads = {n: rng.standard_normal(v.shape).astype(np.float32) for n, v in host.items()}
            u, one = update(grads, one, plain)
            plain = optax.apply_updates(plain, u)
            sharded, eager = step(sharded, put(grads), eager)
        for n in host:
            np.testing.assert_allclose(sharded[n], plain[n], rtol=2e-5, atol=1e-6)
            assert sharded[n].sharding == NamedSharding(mesh, specs[n])
            for name, tree in eager.arrays.items():
                np.testing.assert_allclose(tree[n], one.arrays[name][n], rtol=2e-5, atol=1e-6)
                if tree[n].shape == sharded[n].shape:
                    same(tree[n], sharded[n])

    tx = isostep_jax.adamw(0.1)
    flat = isostep_jax.flat(tx, put(host))
    buffers = flat.flatten(put(host))
    assert all(b.sharding == NamedSharding(mesh, specs[n]) for n, b in zip(("b", "w"), buffers.values()))

    # matrices of a size that the mesh does not divide are on all devices
    for name in ("shampoo", "soap"):
        whole, backend = getattr(isostep_jax, name)(0.1), isostep.backend("jax")
        p = put(host)
        state, jitted = whole.init(p), jax.jit(whole.init)(p)
        jax.tree.map(np.testing.assert_array_equal, state, jitted)
        found = jax.jit(whole.update)(p, state, p)[0]
        plain = {k: jnp.array(v) for k, v in host.items()}
        wanted = jax.jit(whole.update)(plain, whole.init(plain), plain)[0]
        for n in host:
            np.testing.assert_allclose(found[n], wanted[n], rtol=1e-3, atol=1e-4)
        rule = isostep.rule(name, lr=0.1)
        backend.step(rule, p, p, backend.init(rule, p))
    moved = jax.device_put(host["w"], jax.devices()[1])
    for array in isostep.backend("jax").init(isostep.rule("soap"), [moved]).arrays[0].values():
        assert array.devices() == {jax.devices()[1]}

    # inside shard_map, rules without sums see their own shards
    spec = isostep_jax.TransformState(P(), {n: specs for n in ("exp_avg", "exp_avg_sq")}, {})
    body = jax.shard_map(tx.update, mesh=mesh, in_specs=(specs, spec, specs), out_specs=(specs, spec))
    p = put(host)
    u, _ = body(p, tx.init(p), p)
    plain = {k: jnp.array(v) for k, v in host.items()}
    wanted, _ = tx.update(host, tx.init(plain), plain)
    for n in host:
        np.testing.assert_allclose(u[n], wanted[n], rtol=1e-6)

    there = {k: jax.device_put(v, jax.devices()[1]) for k, v in host.items()}
    here = {k: jax.device_put(v, jax.devices()[0]) for k, v in host.items()}
    try:
        tx.update(there, tx.init(here), here)
    except isostep.StepError as error:
        print(error)
    print("done")
"""


@pytest.mark.whole
def test_eight_devices():
    code = (
        "import os; os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'\n"
        + textwrap.dedent(EIGHT)
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    error, done = run.stdout.splitlines()
    assert done == "done"
    assert error.startswith("adamw: grads of leaf 0 must be on cpu:0 like the parameter, got")


def test_a_state_of_an_eager_step_is_donated():
    """Of Prodigy's values two are one number at first: not one array."""
    tx, params = isostep_jax.prodigy(), jax.tree.map(jnp.array, PARAMS)
    state = tx.update(GRADS, tx.init(params), params)[1]
    isostep_jax.step(tx)(params, GRADS, state)
