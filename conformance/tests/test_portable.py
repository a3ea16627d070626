"""A run that changes its framework in the middle is the run that does not: every rule, from torch to JAX and back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import isostep
from isostep.state import State, StepError

pytestmark = pytest.mark.whole
torch = pytest.importorskip("torch", reason="runs are handed from torch to JAX")
jax = pytest.importorskip("jax", reason="runs are handed from torch to JAX")
import jax.numpy as jnp  # noqa: E402

import isostep_jax  # noqa: E402
import isostep_torch  # noqa: E402

SHAPES = {"a.matrix": (5, 7), "a.vector": (3,), "b": ()}
STEPS = 6


def known(rule):
    return {n: s for n, s in SHAPES.items() if rule.rule.ndim is None or len(s) in rule.rule.ndim}


def drawn(rule, seed):
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in known(rule).items()}


def extra(rule, k):
    arrays = {n: drawn(rule, 1000 + k) for n in rule.input_names}
    return arrays, dict.fromkeys(rule.group_input_names, 0.5 + 0.1 * k)


def tensors(rule, seed=0):
    return [(n, torch.nn.Parameter(torch.from_numpy(a))) for n, a in drawn(rule, seed).items()]


def in_torch(optimizer, named, rule, steps):
    for k in steps:
        for n, p in named:
            p.grad = torch.from_numpy(drawn(rule, 1 + k)[n])
        arrays, numbers = extra(rule, k)
        given = {n: {p: torch.from_numpy(a[m]) for m, p in named} for n, a in arrays.items()}
        optimizer.step(**given, **numbers)


def in_jax(tx, params, state, rule, steps):
    step = isostep_jax.step(tx)
    for k in steps:
        arrays, numbers = extra(rule, k)
        grads, arrays = jax.tree.map(jnp.asarray, (drawn(rule, 1 + k), arrays))
        params, state = step(params, grads, state, **arrays, **numbers)
    return params, state


def same(ours, theirs, rtol=2e-5):
    for n, a in ours.items():
        scale = np.abs(theirs[n]).max(initial=1e-3)
        np.testing.assert_allclose(a, theirs[n], rtol=rtol, atol=rtol * scale, err_msg=n)


def by_name(params, state):
    """Parameters and state arrays of every parameter, in NumPy."""
    found = {n: np.asarray(p) for n, p in params.items()}
    for n, own in zip(params, state.arrays, strict=True):
        found |= {f"{n}/{m}": np.asarray(a) for m, a in own.items()}
    return found | {f"group/{m}": np.asarray(v) for m, v in state.group.items()}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", isostep.rules())
def test_out_of_torch_into_jax_and_back(name):
    rule = isostep.rule(name)
    named = tensors(rule)
    whole = isostep_torch.from_rule(rule, named)
    in_torch(whole, named, rule, range(2))
    carried = isostep_torch.to_portable(whole)
    in_torch(whole, named, rule, range(2, STEPS))
    bound, wanted, last = isostep_torch.to_portable(whole)
    wanted = by_name({n: p.numpy() for n, p in wanted.items()}, last)
    assert repr(bound) == repr(carried[0]) == repr(rule)

    if rule.sequential:
        with pytest.raises(isostep.RuleError, match="no transformation"):
            isostep_jax.transform(rule)
        return
    tx = isostep_jax.transform(carried[0])
    params, state = isostep.move(*carried, "jax")
    assert state.t == [2] * len(named)
    assert state.keys == tuple(dict(named))
    own = isostep_jax.from_portable(tx, params, state)
    params, own = in_jax(tx, params, own, rule, range(2, 4))
    there, params, state = isostep_jax.to_portable(tx, params, own)
    assert repr(there) == repr(rule)

    other = tensors(rule, seed=77)[::-1]  # other numbers in another order: the names decide
    back = isostep_torch.from_rule(rule, other)
    isostep_torch.from_portable(back, state, params)
    in_torch(back, other, rule, range(4, STEPS))
    _, found, last = isostep_torch.to_portable(back)
    found = by_name({n: p.numpy() for n, p in found.items()}, last)
    same(found, wanted)


@pytest.mark.parametrize("form", ["mxfp8_e4m3", "mxfp8_e5m2"])
def test_eight_bits_go_along_to_the_bit(form):
    rule = isostep.rule("adamw", lr=0.1)
    named = tensors(rule)
    whole = isostep_torch.from_rule(rule, named, state_dtype=form, rounding_seed=5)
    in_torch(whole, named, rule, range(2))
    carried = isostep_torch.to_portable(whole)
    in_torch(whole, named, rule, range(2, 4))
    tx = isostep_jax.transform(rule, state_dtype=form, rounding_seed=5)
    params, state = isostep.move(*carried, "jax")
    params, own = in_jax(
        tx, params, isostep_jax.from_portable(tx, params, state), rule, range(2, 4)
    )
    wanted, found = isostep_torch.to_portable(whole), isostep_jax.to_portable(tx, params, own)
    for a, b in zip(wanted[2].arrays, found[2].arrays, strict=True):
        for n in a:
            np.testing.assert_array_equal(a[n].numpy(), b[n], err_msg=n)
    assert found[2].handling == wanted[2].handling
    assert found[2].storage == wanted[2].storage
    # and into an optimizer that keeps its state otherwise
    other = tensors(rule)
    plain = isostep_torch.from_rule(rule, other)
    isostep_torch.from_portable(plain, found[2], found[1])
    assert plain.state[other[0][1]]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("kind", ["kahan", "master_weights", "stochastic_rounding"])
def test_halves_go_along_with_what_is_beside_them(kind):
    rule = isostep.rule("adamw", lr=0.1)
    named = [(n, torch.nn.Parameter(p.detach().bfloat16())) for n, p in tensors(rule)]
    whole = isostep_torch.from_rule(rule, named, **{kind: True})

    def step(k):
        for n, p in named:
            p.grad = torch.from_numpy(drawn(rule, k)[n]).bfloat16()
        whole.step()

    step(1)
    carried = isostep_torch.to_portable(whole)
    step(2)
    tx = isostep_jax.transform(rule, **{kind: True})
    params, state = isostep.move(*carried, "jax")
    own = isostep_jax.from_portable(tx, params, state)
    grads = {n: jnp.asarray(a, jnp.bfloat16) for n, a in drawn(rule, 2).items()}
    params, own = isostep_jax.step(tx)(params, grads, own)
    wanted = isostep_torch.to_portable(whole)
    for n, p in wanted[1].items():
        np.testing.assert_array_equal(
            p.float().numpy(), np.asarray(params[n], np.float32), err_msg=n
        )
    with pytest.raises(StepError, match="give it the same options"):
        isostep_jax.from_portable(isostep_jax.transform(rule), params, state)


def test_a_file_between_them(tmp_path):
    rule = isostep.rule("nadam", lr=0.1)
    named = tensors(rule)
    optimizer = isostep_torch.NAdam(named, lr=0.1)
    in_torch(optimizer, named, rule, range(3))
    isostep.save(tmp_path / "run.safetensors", *isostep_torch.to_portable(optimizer))
    for backend in ("numpy:reference", "jax", "torch:loop"):
        bound, params, state = isostep.load(tmp_path / "run.safetensors", backend)
        found = isostep.backend(backend)
        grads = {n: found.asarray(a) for n, a in drawn(rule, 4).items()}
        params, state = found.step(bound, params, grads, state)
        if backend == "numpy:reference":
            wanted = params
        same({n: found.to_numpy(p) for n, p in params.items()}, wanted)


def test_grouped_flat_nested_and_renamed_trees():
    rule = isostep.rule("adam", lr=0.1)
    named = tensors(rule)
    optimizer = isostep_torch.from_rule(rule, named)
    in_torch(optimizer, named, rule, range(2))
    carried = isostep_torch.to_portable(optimizer)
    params, state = isostep.move(*carried, "jax")
    moments = {n: np.asarray(own["exp_avg"]) for n, own in zip(params, state.arrays, strict=True)}
    grouped = isostep_jax.transform(rule, grouped=True)
    made = isostep_jax.from_portable(grouped, params, state)
    again = isostep_jax.to_portable(grouped, params, made)[2]
    flat = isostep_jax.flat(isostep_jax.transform(rule), params)
    buffers = isostep_jax.from_portable(flat, flat.flatten(params), state)
    from_flat = isostep_jax.to_portable(flat, flat.flatten(params), buffers)
    for found in (again, from_flat[2]):
        assert found.t == [2, 2, 2]
        for key, own in zip(found.keys, found.arrays, strict=True):
            np.testing.assert_array_equal(own["exp_avg"], moments[key])
    nested = {"x": {"kernel": params["a.matrix"]}, "y": [params["b"], params["a.vector"]]}
    names = {"x": {"kernel": "a.matrix"}, "y": ["b", "a.vector"]}
    tx = isostep_jax.transform(rule)
    made = isostep_jax.from_portable(tx, nested, state, names=names)
    np.testing.assert_array_equal(made.arrays["exp_avg"]["y"][1], moments["a.vector"])
    keys = isostep_jax.to_portable(tx, nested, made)[2].keys
    assert keys == ("x/kernel", "y/0", "y/1")
    with pytest.raises(StepError, match="say with names= which leaf is which"):
        isostep_jax.from_portable(tx, nested, state)


def test_lists_go_by_their_order_and_groups_one_by_one():
    rule = isostep.rule("sgd", lr=0.1, momentum=0.9)
    p, q = (torch.nn.Parameter(torch.ones(2) * k) for k in (1, 2))
    frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    optimizer = isostep_torch.SGD(
        [{"params": [p, frozen]}, {"params": [q], "lr": 0.5}], momentum=0.9
    )
    p.grad, q.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    one, two = (isostep_torch.to_portable(optimizer, group=k) for k in range(2))
    assert one[0].values["lr"] == 1e-3
    assert two[0].values["lr"] == 0.5
    assert len(one[1]) == 1
    assert isinstance(one[1], list)
    before = one[2].arrays[0]["momentum_buffer"].clone()
    optimizer.step()
    assert torch.equal(one[2].arrays[0]["momentum_buffer"], before)  # a copy
    isostep_torch.from_portable(optimizer, one[2], one[1])
    assert torch.equal(p.detach(), one[1][0])
    assert torch.equal(optimizer.state[p]["momentum_buffer"], before)
    assert int(optimizer.state[p]["step"]) == 1
    assert int(optimizer.state[q]["step"]) == 2
    tx = isostep_jax.transform(rule)
    made = isostep_jax.from_portable(tx, [jnp.ones(2)], one[2])
    assert int(made.count) == 1
    assert isinstance(isostep_jax.to_portable(tx, [jnp.ones(2)], made)[1], list)


def test_what_does_not_fit_is_one_line_and_changes_nothing():
    rule = isostep.rule("adam", lr=0.1)
    named = tensors(rule)
    optimizer = isostep_torch.from_rule(rule, named)
    in_torch(optimizer, named, rule, range(1))
    _, params, state = isostep_torch.to_portable(optimizer)
    other = isostep_torch.Lion([p for _, p in named])
    before = {n: p.detach().clone() for n, p in named}

    def refused(match, call, *args, error=StepError, **kwargs):
        with pytest.raises(error, match=match):
            call(*args, **kwargs)
        assert all(torch.equal(before[n], p.detach()) for n, p in named)

    refused("lion: state belongs to 'adam'", isostep_torch.from_portable, other, state)
    refused("groups 0 to 0, got group=3", isostep_torch.to_portable, optimizer, 3, error=IndexError)
    refused(
        "expected an optimizer of isostep_torch, got Adam",
        isostep_torch.to_portable,
        torch.optim.Adam([named[0][1]]),
    )
    short = dataclasses.replace(state, t=state.t[:1], arrays=state.arrays[:1], keys=None)
    refused("state is for 1 parameters", isostep_torch.from_portable, optimizer, short)
    turned = {n: p.T if p.ndim == 2 else p for n, p in params.items()}
    wrong = dataclasses.replace(
        state,
        arrays=[{m: a.mT if a.ndim == 2 else a for m, a in own.items()} for own in state.arrays],
    )
    refused("has shape", isostep_torch.from_portable, optimizer, wrong, turned)
    refused("must be a float32 array of shape", isostep_torch.from_portable, optimizer, wrong)
    refused(
        "name the group's parameters alike",
        isostep_torch.from_portable,
        optimizer,
        dataclasses.replace(state, keys=("x", "y", "z")),
    )
    tx = isostep_jax.transform(rule)
    uneven = dataclasses.replace(state, t=[1, 2, 2])
    leaves = isostep.move(rule, params, state, "jax")[0]
    refused("counts steps once for all leaves", isostep_jax.from_portable, tx, leaves, uneven)
    refused(
        "not observed",
        isostep_jax.to_portable,
        isostep_jax.observe(tx),
        leaves,
        None,
        error=isostep.RuleError,
    )
    refused("to must be a name", isostep.move, rule, params, state, 3, error=isostep.BackendError)
    wide = {n: p.double() for n, p in params.items()}
    refused("must be a float64 array", isostep.move, rule, wide, state, "numpy")
    strange = isostep_torch.from_rule(
        rule, [torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))]
    )
    refused("complex, which other backends do not take", isostep_torch.to_portable, strange)


@pytest.mark.parametrize("name", ["numpy", "torch:loop"])
def test_moving_copies(name):
    rule, backend = isostep.rule("adam"), isostep.backend(name)
    params = [backend.asarray(np.ones(3))]
    state = backend.init(rule, params)
    other, moved = isostep.move(rule, params, state, name)
    backend.step(rule, other, [backend.asarray(np.ones(3))], moved)
    assert state.t == [0]
    assert params[0][0] == 1
    assert not state.arrays[0]["exp_avg"].any()
    assert isinstance(moved, State)
    assert moved.t == [1]
    assert other[0][0] != 1
