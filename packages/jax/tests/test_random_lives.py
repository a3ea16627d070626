"""Random lives of a transformation: any rule, tree, mode and surroundings, step by step what the reference does.

A life is drawn from a seed: a rule with pieces around it, its hyperparameters from their domains, schedules and arrays
among them; a nested tree of leaves of any shape and dtype; whether these are kept one by one, grouped or flat; what
runs the steps, and what happens to parameters and state in between. Each step is then taken once more by the reference,
from the very state that JAX started from, so that no error hides behind another.
"""

from __future__ import annotations

import pickle
from collections import namedtuple
from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isostep
import isostep_jax
from isostep.domains import Held, Pair, Real
from isostep.state import COMPUTE_DTYPE, State
from isostep_jax.transform import TransformState

pytestmark = pytest.mark.whole  # hyperparameters are drawn by the conformance suite

SEEDS = range(24)
SHAPES = [(), (1,), (0,), (5,), (4, 3), (3, 4), (2, 0), (2, 3, 2), (7,), (1, 1)]
REFERENCE = isostep.backend("numpy:reference")
Two = namedtuple("Two", "one other")  # a container of a user's own


def fade(value):
    """A schedule in plain arithmetic, which can be traced."""
    return lambda done: value / (1.0 + 0.1 * done)


def some(rng, *options):
    return options[rng.integers(len(options))]


def values(rng, part, name):
    """Hyperparameters that matter, some of them as schedules or arrays."""
    from isostep_conformance import hypers

    def drawn(domain, value):
        if isinstance(domain, Pair):
            return tuple(map(drawn, domain.parts, value))
        if isinstance(value, hypers.Wave):
            return fade(value.value)
        if isinstance(domain, Real) and isinstance(value, float) and value and rng.random() < 0.15:
            return jnp.float32(value)
        return value

    return {n: drawn(part.hyper[n], v) for n, v in some(rng, *hypers.bound(part, name)).items()}


def drawn_rule(rng):
    name = some(rng, *(n for n in isostep.rules() if n not in ("soap", "shampoo")))  # no one basis
    rule = isostep.definition(name).bind(**values(rng, isostep.definition(name), name))
    for _ in range(rng.integers(3)):
        piece = isostep.pieces.registry[some(rng, *isostep.pieces.registry.names())]
        if piece.denominator is None or rule.rule.adaptive:
            bound = piece.bind(**values(rng, piece, piece.name))
            if rule.momentum is None and piece.needs_momentum(bound.values):
                continue
            if piece.name in {c.part.name for c in rule.components}:
                continue
            rule = isostep.compose(*((bound, rule) if piece.after is None else (rule, bound)))
    return rule


def on_host(value):
    """A hyperparameter with numbers in the place of arrays."""
    if isinstance(value, tuple):
        return tuple(map(on_host, value))
    return float(value.array) if isinstance(value, Held) else value


def nested(rng, leaves, depth=0):
    """A tree with these leaves, empty containers and None among them."""
    if not leaves:
        return some(rng, None, {}, ())
    if (len(leaves) == 1 and rng.random() < 0.6) or depth == 4:
        return leaves[0] if len(leaves) == 1 else list(leaves)
    at = int(rng.integers(len(leaves) + 1))
    one, other = nested(rng, leaves[:at], depth + 1), nested(rng, leaves[at:], depth + 1)
    return some(rng, Two(one, other), (one, other), [one, other], {"a": one, "b": other})


def like(rng, leaves, scale=1.0):
    return [np.asarray(scale * rng.standard_normal(p.shape)).astype(p.dtype) for p in leaves]


def kinds(*trees):
    """What a compiled step depends on, and a scan's carry has to keep."""
    leaves, structure = jax.tree.flatten(trees)
    return structure, [(a.shape, a.dtype, a.weak_type) for a in leaves]


def state_within(state):
    """The one state of ours that optax's holds."""
    ours = lambda x: isinstance(x, TransformState)  # noqa: E731
    return next(x for x in jax.tree.leaves(state, is_leaf=ours) if ours(x))


def by_leaf(tx, params, state):
    """The arrays of each leaf by name, the parameter's and the state's, however they are kept."""
    leaves = [np.asarray(p) for p in jax.tree.leaves(params)]
    found = [{"p": p} for p in leaves]
    for n, kept in state.arrays.items():
        each = jax.tree.leaves(kept)
        if isinstance(tx, isostep_jax.FlatTransform):
            each = jax.tree.leaves(tx.unflatten(kept))
        elif tx.init.grouped:
            rows = zip(tx.init.runs(leaves), kept, strict=True)
            place = {
                i: a for run, own in rows for i, a in zip(run.leaves, run.split(own), strict=True)
            }
            each = [place[i] for i in range(len(leaves))]
        for own, a in zip(found, each, strict=True):
            own[n] = np.asarray(a)
    return found


def reference(rule, before, arrays, inputs, widen=False, noise=None):
    """A step of the reference: each leaf's new arrays and the group's; in wider arrays, with noise, if asked for."""

    def taken(a, wide):
        a = np.array(a, wide if widen else None)
        return a if noise is None else np.asarray(a * (1 + noise(a)), wide)

    wides = [COMPUTE_DTYPE[own["p"].dtype.name] for own in arrays]
    given = {n: v for n, v in inputs.items() if n in rule.group_input_names}
    for n in ("g", *rule.input_names):
        given[n] = list(map(taken, inputs[n], wides))
    rows = zip(arrays, wides, strict=True)
    kept = [{n: taken(a, w) for n, a in own.items()} for own, w in rows]
    params, count = [own.pop("p") for own in kept], int(before.count)
    group = {n: np.asarray(v) for n, v in before.group.items()}
    state = State(rule.name, [count] * len(kept), kept, group, count)
    params, state = REFERENCE.step(rule, params, given.pop("g"), state, **given)
    return [{"p": p, **own} for p, own in zip(params, state.arrays, strict=True)], state.group


def compared(rule, tx, old, new, inputs, rng):
    """The step is the reference's within rounding, measured by what rounding of its inputs does to it."""
    before, after = state_within(old[1]), state_within(new[1])
    start, found = by_leaf(tx, old[0], before), by_leaf(tx, new[0], after)
    assert int(after.count) == int(before.count) + 1
    near = lambda noise: reference(rule, before, start, inputs, True, noise)[0]  # noqa: E731
    rounding = lambda a: 4 * np.finfo(a.dtype).eps * rng.uniform(-1, 1, a.shape)  # noqa: E731
    with np.errstate(all="ignore"):
        wanted, group = reference(rule, before, start, inputs)
        plain, moved = near(None), [near(rounding) for _ in range(3)]
        wides = [COMPUTE_DTYPE[own["p"].dtype.name] for own in start]
        for i, n in ((i, n) for i, own in enumerate(found) for n in own):
            got, want = found[i][n], wanted[i][n]
            assert (got.dtype, got.shape) == (want.dtype, want.shape), n
            deviation = np.max([abs(m[i][n] - plain[i][n]) for m in moved], axis=0)
            got, true, was = (a.astype("float64") for a in (got, want, start[i][n]))
            # The group's sums have the digits of the narrowest of its leaves.
            wide = min(wides) if rule.reduces_group else wides[i]
            allowed = 40 * np.finfo(wide).eps * np.maximum(abs(true), abs(was)) + 8 * deviation
            if want.dtype != wides[i]:  # halves, where the last bit may fall on either side
                allowed = allowed + jnp.finfo(want.dtype).eps * abs(true) + 2.0**-23
            fine = (abs(got - true) <= allowed + 1e-37) | (got == true)
            fine |= ~np.isfinite(deviation) | (np.isnan(got) & np.isnan(true))
            assert fine.all(), (i, n, got[~fine], true[~fine])
    for n, v in group.items():
        np.testing.assert_allclose(after.group[n], v, rtol=1e-5, atol=1e-6)


def run(way, step, carry, inputs, rng):
    """Parameters and state before and after each step, as NumPy's."""
    host, taken = lambda trees: jax.tree.map(np.array, trees), []
    first = kinds(carry)
    if way == "scan":
        start, rows = host(carry), jax.tree.map(lambda *a: jnp.stack(a), *inputs)
        carry, every = jax.lax.scan(lambda c, x: (step(*c, *x),) * 2, carry, rows, len(inputs))
        after = [host(jax.tree.map(lambda a, k=k: a[k], every)) for k in range(len(inputs))]
        taken = list(zip([start, *after], after, strict=False))
    else:
        donated = (0, 1) if way == "donate" else ()
        one = step if way == "eager" else jax.jit(step, donate_argnums=donated)
        for each in inputs:
            if rng.random() < 0.4:  # saved, and brought back
                carry = jax.tree.map(jnp.asarray, pickle.loads(pickle.dumps(host(carry))))
            start = host(carry)
            carry = one(*carry, *each)
            taken.append((start, host(carry)))
        assert way == "eager" or one._cache_size() == 1
    assert kinds(carry) == first
    return taken


@pytest.mark.parametrize("seed", SEEDS)
def test_each_step_is_the_reference_s(seed):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(wide := bool(rng.integers(2))):
        live(rng, ["float32", "bfloat16", "float16", *["float64"] * (2 * wide)])


def live(rng, dtypes):
    rule, way = drawn_rule(rng), some(rng, "eager", "jit", "donate", "scan", "vmap")
    ranks, dtypes = rule.rule.ndim, some(rng, dtypes, [some(rng, *dtypes)])
    shapes = [s for s in SHAPES if ranks is None or len(s) in ranks]
    draw = lambda: np.zeros(some(rng, *shapes), jnp.dtype(some(rng, *dtypes)))  # noqa: E731
    leaves, tree = jax.tree.flatten(nested(rng, [draw() for _ in range(1 + rng.integers(5))]))
    mapped = jax.vmap if way == "vmap" else (lambda function: function)
    members = range(2 if way == "vmap" else 1)

    tx = isostep_jax.transform(rule, grouped=rng.random() < 0.3)
    into = out = lambda x: x
    if rng.random() < 0.4:
        with suppress(isostep.RuleError):  # of a rule that looks at shapes
            tx = isostep_jax.flat(tx, jax.tree.unflatten(tree, leaves))
            into, out = tx.flatten, tx.unflatten
    wrapped = some(rng, tx, optax.chain(optax.identity(), tx, optax.scale(1.0)))

    def fed(rows):  # one row for each member, as one tree
        joined = [np.stack(c) for c in zip(*rows, strict=True)] if way == "vmap" else rows[0]
        return mapped(into)(jax.tree.unflatten(tree, list(map(jnp.asarray, joined))))

    @mapped
    def step(params, state, grads, extra):
        updates, state = wrapped.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    given, inputs = [], []
    for k in range(4):
        rows = {n: [like(rng, leaves) for _ in members] for n in rule.input_names}
        rows["g"] = [like(rng, leaves, 10.0 ** (k - 2)) for _ in members]
        extra = {n: fed(v) for n, v in rows.items()}
        shared = dict.fromkeys(rule.group_input_names, 0.5 + k)
        wide = (2,) if way == "vmap" else ()
        extra |= {n: jnp.full(wide, v, jnp.float32) for n, v in shared.items()}
        inputs.append((extra.pop("g"), extra))
        given.append([{n: v[m] for n, v in rows.items()} | shared for m in members])
    params = fed([like(rng, leaves) for _ in members])
    taken = run(way, step, (params, mapped(wrapped.init)(params)), inputs, rng)
    plain = rule.replace(**{n: on_host(v) for n, v in rule.values.items()})
    for trees, own in zip(taken, given, strict=True):
        for m in members:
            one = jax.tree.map(lambda a, m=m: a[m], trees) if way == "vmap" else trees
            old, new = ((out(params), state) for params, state in one)
            compared(plain, tx, old, new, own[m], rng)
