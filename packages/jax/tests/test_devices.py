"""On eight devices: arrays that are on different ones, and meshes whose shardings are part of types."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.whole  # not for want of a package: a process each, and once is enough

START = """
    import os
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    import jax, jax.numpy as jnp, numpy as np, isostep, isostep_jax
    from jax.sharding import NamedSharding, PartitionSpec as P
    here, there = jax.devices()[:2]
"""
TOLD = (
    START
    + """
    near = jax.device_put({"a": jnp.ones(3), "b": jnp.ones(2)}, here)
    far = jax.device_put(near, there)
    both = {"a": near["a"], "b": far["b"]}
    anywhere = {"a": jnp.ones(3), "b": jnp.ones(2)}

    def told(call):
        try:
            call()
        except isostep.StepError as error:
            print(error)
        else:
            print("taken")

    adam, sgd, prodigy, momo = (getattr(isostep_jax, n)(0.1) for n in ("adam", "sgd", "prodigy", "momo"))
    told(lambda: adam.update(near, adam.init(far), near))
    told(lambda: sgd.update(near, jax.device_put(sgd.init(near), there), near))
    told(lambda: adam.update(near, adam.init(anywhere), near))
    told(lambda: adam.update(far, adam.init(far), anywhere))
    told(lambda: adam.update(both, adam.init(both), both))
    hessian = isostep_jax.adahessian(0.1)
    told(lambda: hessian.update(near, hessian.init(near), near, hessian_diag=far))
    told(lambda: momo.update(near, momo.init(near), near, value=jax.device_put(jnp.float32(1), there)))
    group = {n: jax.device_put(v, there) for n, v in prodigy.init(near).group.items()}
    told(lambda: prodigy.update(near, prodigy.init(near)._replace(group=group), near))
    told(lambda: prodigy.init(both))
    told(lambda: prodigy.update(both, prodigy.init(near), both))
    told(lambda: isostep_jax.adam(0.1, grouped=True).init(both))
    told(lambda: isostep_jax.flat(adam, both))
    flat = isostep_jax.flat(adam, near)
    one, other = flat.flatten(near), flat.flatten(far)
    told(lambda: flat.flatten(both))
    told(lambda: flat.update(one, flat.init(other), one))
    told(lambda: flat.update(other, flat.init(one), one))
    mesh = jax.make_mesh((8,), ("x",))
    spread = jax.device_put(jnp.ones(8), NamedSharding(mesh, P("x")))
    told(lambda: isostep_jax.flat(adam, {"a": spread, "b": near["b"]}))
    told(lambda: isostep_jax.flat(adam, {"a": spread, "b": anywhere["b"]}))
    for params in (near, far, {"a": spread}):  # a second step has what the first one left
        for update in (prodigy.update, jax.jit(prodigy.update)):
            _, state = update(params, prodigy.init(params), params)
            told(lambda: update(params, state, params))
"""
)
MOVE = "move it with jax.device_put"
TOGETHER = "leaves that are taken together must be on the same devices, got leaf 0 on {} and leaf 1 on {}; {}"
MOVED = "cpu:0", "cpu:1", "move them with jax.device_put"
ALL = ", ".join(f"cpu:{i}" for i in range(8))
LINES = [
    f"adam: state exp_avg of leaf 0 must be on cpu:0 like the parameter, got cpu:1; {MOVE}",
    f"sgd: state count must be on cpu:0 like the parameter, got cpu:1; {MOVE}",
    "taken",
    "taken",
    "taken",
    f"adahessian: hessian_diag of leaf 0 must be on cpu:0 like the parameter, got cpu:1; {MOVE}",
    f"momo: loss must be on cpu:0 like the parameter, got cpu:1; {MOVE}",
    f"prodigy: state d must be on cpu:0 like the parameter, got cpu:1; {MOVE}",
    f"prodigy: {TOGETHER.format(*MOVED)}",
    f"prodigy: {TOGETHER.format(*MOVED)}",
    f"adam: {TOGETHER.format(*MOVED)}",
    f"adam: {TOGETHER.format(*MOVED)}",
    f"adam: {TOGETHER.format(*MOVED)}",
    f"adam: state exp_avg of leaf 0 must be on cpu:0 like the parameter, got cpu:1; {MOVE}",
    f"adam: grads of leaf 0 must be on cpu:0 like the parameter, got cpu:1; {MOVE}",
    f"adam: {TOGETHER.format(ALL, 'cpu:0', MOVED[2])}",
    *["taken"] * 7,
]

EXPLICIT = (
    START
    + """
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    rng = np.random.default_rng(0)
    host = {"w": rng.standard_normal((8, 6)).astype(np.float32)}
    sharding = NamedSharding(mesh, P("x", "y"))
    put = lambda tree: {n: jax.device_put(v, sharding) for n, v in tree.items()}
    for name in ("muon", "shampoo", "soap", "psgd_kron", "adafactor", "adamw"):
        rule = isostep.rule(name, lr=0.1)
        if name == "muon":
            rule = isostep.compose(isostep.pieces.clip_by_global_norm(max_norm=0.5), rule)
        tx = isostep_jax.transform(rule)
        update, exact = jax.jit(tx.update), name not in ("adafactor", "adamw")
        plain, shards = {n: jnp.asarray(v) for n, v in host.items()}, put(host)
        one, many = tx.init(plain), tx.init(shards)
        kinds = jax.tree.map(lambda a: a.sharding, many.arrays)
        for _ in range(3):
            grads = {n: rng.standard_normal(v.shape).astype(np.float32) for n, v in host.items()}
            extra = {n: grads for n in rule.input_names}
            u, one = update(grads, one, plain, **extra)
            plain = jax.tree.map(jnp.add, plain, u)
            u, many = update(put(grads), many, shards, **{n: put(v) for n, v in extra.items()})
            jax.block_until_ready(u)  # two steps at once are too many collectives for a CPU's threads
            assert u["w"].sharding == sharding
            assert jax.tree.map(lambda a: a.sharding, many.arrays) == kinds
            shards = jax.tree.map(jnp.add, shards, u)
        if exact:  # whole arrays, so no sum is taken in another order
            np.testing.assert_array_equal(shards["w"], plain["w"])
        else:
            np.testing.assert_allclose(shards["w"], plain["w"], rtol=2e-6, atol=1e-6)
    eager, _ = isostep_jax.muon(0.1).update(shards, isostep_jax.muon(0.1).init(shards), shards)
    assert eager["w"].sharding == sharding
    print("done")
"""
)


UNSHARDED = (
    START
    + """
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    host = {"w": np.linspace(-1.0, 1.0, 48).astype(np.float32).reshape(8, 6)}
    shards = {n: jax.device_put(v, NamedSharding(mesh, P("x", "y"))) for n, v in host.items()}
    rules = [isostep.rule(n) for n in ("adamw", "lamb", "adafactor", "muon")]
    rules += [isostep.compose(r, isostep.pieces.lookahead(k=2)) for r in rules]
    for rule in rules:
        tx = isostep_jax.transform(rule)
        whole, state = tx.init(host), tx.init(shards)
        whole = jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, P())), whole)
        update = jax.jit(tx.update)
        for _ in range(3):
            updates, state = update(shards, state, shards)
            again, whole = update(shards, whole, shards)
            jax.block_until_ready((updates, again))
            for a, b in zip(jax.tree.leaves((updates, state)), jax.tree.leaves((again, whole)), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    print("done")
"""
)


def run(code):
    """What a process prints, line by line."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_arrays_on_different_devices_are_one_line():
    assert run(TOLD) == LINES


def test_matrices_on_a_mesh_of_explicit_axes_are_those_of_one_device():
    assert run(EXPLICIT) == ["done"]


def test_state_that_is_whole_beside_sharded_parameters():
    """Restored so, for example. A rule with phases makes arrays of one type in all of them."""
    assert run(UNSHARDED) == ["done"]
