"""``numpy:fused``: the reference's bits on every kind of array, and a plan that never outlives what it is of."""

import ast
import copy
import importlib.metadata
import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import isostep
from isostep import nm, pieces
from isostep.domains import Real
from isostep.rule import Rule, RuleError, compose
from isostep.state import StepError

pytestmark = pytest.mark.whole  # needs Numba and ml_dtypes

REFERENCE = isostep.backend("numpy:reference")
DTYPES = ["float64", "float32", "float16", "bfloat16"]
#: Rules without sums, exp and cbrt: nothing in them may round differently.
EXACT = [
    isostep.rule(
        "addsign", lr=0.3, alpha=0.7, sign_internal_decay=isostep.schedules.CosineInternalDecay(3)
    ),
    isostep.rule("sgd", lr=0.3),
    isostep.rule("sgd", lr=0.3, momentum=0.9, dampening=0.3, weight_decay=0.1),
    isostep.rule("sgd", lr=0.3, momentum=0.9, nesterov=True),
    isostep.rule(
        "adam", lr=0.1, betas=(0.8, 0.7), eps=1e-3, weight_decay=0.1, dialect="optax", amsgrad=True
    ),
    isostep.rule("adam", lr=0.1, dialect="keras", weight_decay=0.1),
    isostep.rule("adamw", lr=0.1, amsgrad=True),
    isostep.rule("adamw", lr=0.1, betas=(0.8, 0.7), dialect="paper"),
    compose(isostep.rule("addsign"), pieces.lookahead(2), pieces.weight_decay(0.1)),
]
#: Each with a reason to sum: over an array, the group, units.
REDUCING = [
    isostep.rule("lamb", lr=0.1, weight_decay=0.1),
    isostep.rule("sgd_hd", hypergrad_lr=1e-3, momentum=0.5),
    compose(pieces.centralize(0), isostep.rule("sgd", lr=0.1)),
    compose(pieces.centralize(-1), isostep.rule("sgd", lr=0.1)),
    compose(pieces.adaptive_clip(0.1, unit_axis=0), isostep.rule("sgd", lr=0.1)),
    compose(pieces.adaptive_clip(0.1, unit_axis=-1), isostep.rule("sgd", lr=0.1)),
    compose(pieces.clip_by_global_norm(1.0), isostep.rule("sgd", lr=0.1)),
]


@pytest.fixture(scope="module")
def fused():
    return isostep.backend("numpy:fused")


def dtype_of(name):
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def assert_same(found, wanted):
    """The same bits; one NaN is as good as another."""
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    found, wanted = (np.ascontiguousarray(a).reshape(a.shape) for a in (found, wanted))
    wide = wanted.astype(np.float64)
    bits = f"u{wanted.dtype.itemsize}"
    nan = np.isnan(wide)
    np.testing.assert_array_equal(np.isnan(found.astype(np.float64)), nan)
    np.testing.assert_array_equal(found.view(bits)[~nan], wanted.view(bits)[~nan])


SPECIAL = np.array(
    [
        0.0,
        -0.0,
        1.0,
        -1.0,
        np.inf,
        -np.inf,
        np.nan,
        1e-40,
        -3e-42,
        1e-310,
        5e-324,
        6e-8,
        3e-5,
        3e4,
        1e30,
        -1e300,
    ]
)


def values(rng, shape, dtype, special=True):
    """Numbers over ten decades, with zeros of both signs, denormals, huge ones, infinities and NaN among them."""
    x = rng.normal(size=shape) * 10.0 ** rng.uniform(-6, 4, shape)
    if special:
        x = np.where(rng.random(shape) < 0.3, rng.choice(SPECIAL, size=shape), x)
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(dtype_of(dtype))


SHAPES = [(1009,), (), (0,), (1,), (7, 5), (3, 0), (2, 3, 5, 2)]
ROUNDS = 4


def problem(dtype, shapes=SHAPES, seed=0, special=True):
    rng = np.random.default_rng(seed)
    params = [values(rng, s, dtype, special) for s in shapes]
    return params, [[values(rng, s, dtype, special) for s in shapes] for _ in range(ROUNDS)]


def run(backend, rule, params, rounds, **inputs):
    """Parameters and state after the rounds, from copies (of the same memory layout)."""
    params = [np.copy(p, order="K") for p in params]
    state = backend.init(rule, params)
    for grads in rounds:
        kept = [None if g is None else g.tobytes() for g in grads]
        params, state = backend.step(rule, params, grads, state, **inputs)
        assert kept == [None if g is None else g.tobytes() for g in grads]
    return params, state


def assert_same_run(found, wanted):
    assert found[1].t == wanted[1].t
    assert found[1].group_t == wanted[1].group_t
    for a, b in zip(found[0], wanted[0], strict=True):
        assert_same(a, b)
    for own, others in zip(found[1].arrays, wanted[1].arrays, strict=True):
        assert list(own) == list(others)
        for name in own:
            assert_same(own[name], others[name])


def compare(fused, rule, params, rounds):
    assert_same_run(run(fused, rule, params, rounds), run(REFERENCE, rule, params, rounds))


# The reference's bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", EXACT, ids=repr)
def test_bits_of_the_reference(fused, rule, dtype):
    assert fused.path(rule) == "fused"
    compare(fused, rule, *problem(dtype))


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_bits_of_the_reference_on_arrays_of_any_layout(fused, dtype):
    params, rounds = problem(dtype, [(6, 10), (6, 10), (6, 10), (60,), (4, 3, 2)])

    def laid_out(arrays):
        a, b, c, d, e = arrays
        wide = np.empty((12, 20), a.dtype)
        wide[1::2, ::2] = c
        back = np.ascontiguousarray(d[::-1])[::-1]
        return [np.asfortranarray(a), b, wide[1::2, ::2], back, e.transpose(2, 0, 1)]

    odd_params, odd_rounds = laid_out(params), [laid_out(g) for g in rounds]
    wanted = run(REFERENCE, EXACT[2], [np.ascontiguousarray(p) for p in odd_params], odd_rounds)
    for chosen in (odd_params, [np.ascontiguousarray(p) for p in odd_params]):
        assert_same_run(run(fused, EXACT[2], chosen, odd_rounds), wanted)
    views = laid_out([p.copy() for p in params])  # and in place, in the very memory of the views
    state = fused.init(EXACT[2], views)
    for grads in odd_rounds:
        fused.step(EXACT[2], views, [np.ascontiguousarray(g) for g in grads], state)
    for view, array in zip(views, wanted[0], strict=True):
        assert_same(view, array)


ORDERS = [(1, 0), (2, 0, 1), (0, 2, 3, 1)]


@pytest.mark.parametrize("axes", ORDERS, ids=str)
def test_arrays_whose_axes_lie_in_another_order_are_not_copied(fused, axes, monkeypatch):
    """A transposed matrix, or a convolution's weight with its channels last, gradient and state like it."""
    shape = tuple(range(3, 3 + len(axes)))

    def lying(array):
        there = np.empty([shape[a] for a in axes], array.dtype).transpose(np.argsort(axes))
        there[...] = array
        return there

    params, rounds = problem("float64", [shape, (5, 7)])
    wanted = run(REFERENCE, EXACT[2], [p.copy() for p in params], rounds)
    copies = []
    stand_in = fused.stand_in
    monkeypatch.setattr(fused, "stand_in", lambda a: copies.append(a) or stand_in(a))
    views = [lying(params[0]), params[1]]
    state = fused.init(EXACT[2], views)
    for n, grads in enumerate(rounds):
        # Every other gradient lies row by row: then it alone is copied, into the parameter's order.
        fused.step(EXACT[2], views, [grads[0] if n % 2 else lying(grads[0]), grads[1]], state)
        assert len(copies) == (n + 1) // 2
    for view, array in zip(views, wanted[0], strict=True):
        assert_same(view, array)
    for own, other in zip(state.arrays, wanted[1].arrays, strict=True):
        for name, array in own.items():
            assert_same(array, other[name])
    assert not views[0].flags.c_contiguous


def test_a_rule_with_units_looks_at_axes_wherever_they_lie(fused):
    rule = compose(pieces.adaptive_clip(0.1), isostep.rule("sgd", lr=0.1))
    params, rounds = problem("float64", [(6, 10), (4, 3, 2)])
    wanted = run(REFERENCE, rule, [p.copy() for p in params], rounds)
    turned = [np.asfortranarray(p) for p in params]
    state = fused.init(rule, turned)
    for grads in rounds:
        fused.step(rule, turned, [np.asfortranarray(g) for g in grads], state)
    for found, array in zip(turned, wanted[0], strict=True):
        np.testing.assert_allclose(found, array, rtol=1e-13)


def test_memory_between_the_elements_of_a_strided_array_is_not_touched(fused):
    memory = np.arange(20.0)
    params = [memory[::2]]
    fused.step(EXACT[1], params, [np.ones(10)], fused.init(EXACT[1], params))
    np.testing.assert_array_equal(memory[1::2], np.arange(1.0, 20, 2))
    np.testing.assert_array_equal(memory[::2], np.arange(0.0, 20, 2) + -0.3 * 1)


@pytest.mark.parametrize("rule", [EXACT[0], EXACT[4], EXACT[8]], ids=repr)
def test_parameters_of_different_age_in_one_list(fused, rule):
    params, rounds = problem("float64", [(9,), (2, 3), (4,)])
    rounds[0][1] = rounds[1][2] = rounds[2][0] = rounds[2][1] = None
    found = run(fused, rule, params, rounds)
    assert found[1].t == [3, 2, 3]
    assert_same_run(found, run(REFERENCE, rule, params, rounds))


def test_a_round_without_any_gradient_is_no_step(fused):
    params, rounds = problem("float64", [(9,), (2, 3)])
    found = run(fused, EXACT[0], params, [rounds[0], [None, None], rounds[1]])
    assert found[1].t == [2, 2]
    assert found[1].group_t == 2
    assert_same_run(found, run(REFERENCE, EXACT[0], params, rounds[:2]))


def test_all_dtypes_in_one_list(fused):
    shapes = [(33,), (4, 5)]
    made = [problem(d, shapes, seed) for seed, d in enumerate(DTYPES)]
    params = [p for m in made for p in m[0]]
    rounds = [[g for m in made for g in m[1][k]] for k in range(ROUNDS)]
    compare(fused, EXACT[4], params, rounds)


def test_grouping_does_not_change_bits(fused):
    params, rounds = problem("float32", special=False)
    for rule in (EXACT[4], REDUCING[0]):
        together = run(fused, rule, params, rounds)
        for i, p in enumerate(params):
            alone = run(fused, rule, [p], [[g[i]] for g in rounds])
            assert_same(alone[0][0], together[0][i])
        back = run(fused, rule, params[::-1], [g[::-1] for g in rounds])
        for a, b in zip(back[0][::-1], together[0], strict=True):
            assert_same(a, b)


@pytest.mark.parametrize("rule", REDUCING[1:], ids=repr)
def test_sums_of_whole_numbers_are_the_reference_s_in_any_order(fused, rule):
    # Sums and norms of these are exact, or rounded once from exact numbers, so even here the bits must agree. Not of
    # lamb, the first: it adds squares of quotients, in an order that depends on how wide the processor's lanes are.
    rng = np.random.default_rng(3)
    shapes = [(8, 4), (4, 8), (16,), (), (2, 4, 8)]
    params = [rng.integers(-4, 5, s).astype(float) for s in shapes]
    rounds = [[rng.integers(-4, 5, s).astype(float) for s in shapes]]
    compare(fused, rule, params, rounds)


@pytest.mark.parametrize("rule", REDUCING, ids=repr)
def test_sums_stay_near_the_reference_whatever_the_shapes(fused, rule):
    shapes = [(7, 5), (1, 9), (9, 1), (0, 4), (4, 0), (11,), (), (1,), (2, 3, 4), (3, 2, 2, 2)]
    params, rounds = problem("float64", shapes, special=False)
    found, wanted = run(fused, rule, params, rounds), run(REFERENCE, rule, params, rounds)
    for a, b, old in zip(found[0], wanted[0], params, strict=True):
        assert a.shape == b.shape
        scale = np.maximum(np.abs(b), np.abs(old))
        assert (np.abs(a - b) <= 1e-11 * scale + 1e-300).all()
    assert not np.array_equal(found[0][0], params[0])


@pytest.mark.parametrize("unit_axis", [1, -2])
def test_units_in_the_middle(fused, unit_axis):
    rule = compose(pieces.adaptive_clip(0.5, unit_axis=unit_axis), isostep.rule("sgd", lr=0.5))
    params, rounds = problem("float64", [(3, 4, 5), (2, 3)], special=False)
    found, wanted = run(fused, rule, params, rounds), run(REFERENCE, rule, params, rounds)
    for a, b in zip(found[0], wanted[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_the_group_s_own_numbers_are_float64_beside_float64_parameters(fused):
    # Exact sums, an inexact factor: rounded to float32 because the first array is, it would show.
    rule = isostep.rule("sgd_hd", lr=0.1, hypergrad_lr=0.1)
    params = [np.ones(3, np.float32), np.ones(2)]
    grads = [np.ones(3, np.float32), np.ones(2)]
    for rounds in ([grads, grads], [grads, grads, [grads[0], None], grads]):
        found, wanted = (run(b, rule, params, rounds) for b in (fused, REFERENCE))
        assert found[1].group["lr"].dtype == np.float64
        assert found[1].group["lr"] == wanted[1].group["lr"]
        assert_same_run(found, wanted)


def test_sequential_groups_thread_the_group_s_state_in_order(fused):
    rule = isostep.rule("adam_hd", dialect="original", hypergrad_lr=0.5, lr=0.25)
    params = [np.array([1.0, 2.0]), np.array([[3.0]])]
    rounds = [[np.array([2.0, -1.0]), np.array([[4.0]])]] * 3
    found, wanted = (run(b, rule, params, rounds) for b in (fused, REFERENCE))
    assert wanted[1].group["lr"] != 0.25
    np.testing.assert_allclose(found[1].group["lr"], wanted[1].group["lr"], rtol=1e-14)
    for a, b in zip(found[0], wanted[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


def test_extra_inputs_reach_the_kernel(fused):
    rule = isostep.rule("adahessian", lr=0.5, hessian_power=1.0)
    params, rounds = problem("float64", [(5,), (2, 3)], special=False)
    hessian = [np.abs(g) for g in rounds[1]]
    found, wanted = (run(b, rule, params, rounds, hessian_diag=hessian) for b in (fused, REFERENCE))
    for name in ("exp_avg", "exp_hessian_diag_sq"):
        assert_same(found[1].arrays[1][name], wanted[1].arrays[1][name])
    np.testing.assert_allclose(found[0][1], wanted[0][1], rtol=1e-14)


# Rules that a stranger may write


def made(update, state=(), **facts):
    return Rule(name="mine", update=update, state=state, hyper={"lr": Real(0.5)}, **facts).bind()


def square(x):
    y = x * x
    return y


def local_names(p, g, t, /, *, lr):
    y_2, _ = g - 1.0, g + 2.0
    sum_total = g * 3.0
    total = nm.sum(sum_total * g)
    min = range = g * 5.0
    load_g = g * 7.0
    dtype = one = square(g) * _
    units = nm.sum_units(min + load_g)
    return -lr * total * sum_total * y_2 + square(p) * units + dtype * one * range


def previous(p, g, old, older, t, /, *, lr):
    return -lr * g + (p - old), p, old


def constants(p, g, t, /, *, lr):
    return nm.where(g > 0, math.nan, nm.where(g < 0, -math.inf, nm.where(g == 0, 0.5, math.inf)))


def numbers(p, g, n, total, t, /, *, lr):
    return -lr, 1.0 * t, nm.sum(g)


def of_units(p, g, mean, t, /, *, lr):
    mean = nm.sum_units(g) / nm.unit_size(g)
    return -lr * mean, mean + 0.0 * g


def logic(p, g, t, /, *, lr):
    inside = nm.logical_and(g > -1.0, nm.logical_not(g >= 1.0))
    return nm.where(nm.logical_or(inside, nm.isnan(g)), lr * nm.floor(g), nm.minimum(g, p))


def nested(p, g, t, /, *, lr):
    return -lr * nm.sum(nm.sum_units(g * g)) * g


@pytest.mark.parametrize(
    "rule",
    [
        made(local_names),
        made(previous, ("old", "older")),
        made(constants),
        made(numbers, ("n", "total")),
        made(of_units, ("mean",)),
        made(logic),
        made(nested),
        made(
            lambda p, g, t, /, *, lr, norms: -lr * norms * g,
            measure=lambda p, g, t, /: {"norms": nm.sum(g * g)},
        ),
    ],
    ids=lambda r: r.rule.update.__name__,
)
def test_rules_of_every_form(fused, rule):
    rng = np.random.default_rng(5)
    shapes = [(4, 2), (8,), ()]
    params = [np.asarray(rng.integers(-4, 5, s), float) for s in shapes]
    rounds = [[np.asarray(rng.integers(-3, 4, s), float) for s in shapes] for _ in range(3)]
    compare(fused, rule, params, rounds)


def test_rules_without_kernels_say_why(fused):
    reason = "passes: it works on axes or matrices (sum_axis)"
    assert fused.path(isostep.rule("adafactor")) == reason
    assert (
        fused.path(isostep.rule("muon"))
        == "passes: it works on axes or matrices (matmul, transpose)"
    )
    two = compose(pieces.centralize(0), pieces.adaptive_clip(unit_axis=-1), isostep.rule("sgd"))
    assert fused.path(two) == "passes: it looks at units of several axes ([-1, 0])"
    assert fused.path(made(nested)) == (
        "passes: it sums values that are sums themselves or the same for the whole array"
    )


@pytest.mark.parametrize("rule", [isostep.rule("adafactor"), isostep.rule("muon")], ids=repr)
def test_rules_in_passes_run_as_the_reference(fused, rule):
    """But for the order of sums; in one order of memory as in another."""
    params, rounds = problem("float64", [(4, 3), (3, 5), (40, 30)], special=False)
    params[0] = np.asfortranarray(params[0])
    (found, state), (wanted, other) = (
        run(backend, rule, params, rounds) for backend in (fused, REFERENCE)
    )
    found += [a for own in state.arrays for a in own.values()]
    wanted += [a for own in other.arrays for a in own.values()]
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12 * np.abs(b).max())


# Threads and chunks


THREADS = """
import hashlib, sys
import numpy as np
import isostep
from isostep import pieces
from isostep.lower import bins, threads

assert threads.threads() == int(sys.argv[1])
backend = isostep.backend("numpy:fused")
used = []
submit = threads.ThreadPoolExecutor.submit
threads.ThreadPoolExecutor.submit = lambda self, *a, **k: used.append(1) or submit(self, *a, **k)
rng = np.random.default_rng(0)
shapes = [(3, bins.CHUNK + 7), (bins.CHUNK + 1,), (700, 90), (5, 3)]
params = [rng.normal(size=s).astype("float32") for s in shapes]
rounds = [[rng.normal(size=s).astype("float32") for s in shapes] for _ in range(2)]
for rule in (
    isostep.rule("adamw"),
    isostep.rule("lamb"),
    isostep.rule("sgd_hd", hypergrad_lr=1e-6),
    *(isostep.compose(pieces.adaptive_clip(0.1, unit_axis=a), isostep.rule("sgd")) for a in (0, -1)),
):
    arrays = [p.copy() for p in params]
    state = backend.init(rule, arrays)
    for grads in rounds:
        backend.step(rule, arrays, grads, state)
    digest = hashlib.sha256(b"".join(a.tobytes() for a in arrays))
    digest.update(b"".join(a.tobytes() for d in state.arrays for a in d.values()))
    digest.update(b"".join(np.asarray(v).tobytes() for v in state.group.values()))
    print(rule.name, digest.hexdigest())
assert bool(used) == (sys.argv[1] != "1"), "threads were not used as asked"
"""


def python(code, *words, **environment):
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_number_of_threads_does_not_change_bits():
    one, two, three = (python(THREADS, str(n), ISOSTEP_NUM_THREADS=str(n)) for n in (1, 2, 3))
    assert len(one.splitlines()) == 5
    assert one == two == three


def test_arrays_of_many_chunks_have_the_reference_s_bits(fused):
    from isostep.lower.bins import CHUNK

    params, rounds = problem("float32", [(2 * CHUNK + 17,), (CHUNK,), (3, CHUNK - 1), (5,)])
    compare(fused, EXACT[4], params, rounds[:2])


# What is refused, and that nothing has changed then


def refused(fused, rule, params, grads, state, kind=StepError):
    before = copy.deepcopy((params, grads, state))
    with pytest.raises(kind) as caught:
        fused.step(rule, params, grads, state)
    assert "\n" not in str(caught.value)
    for a, b in zip(before[0], params, strict=True):
        assert_same(a, b)
    assert state.t == before[2].t
    assert state.group_t == before[2].group_t
    for own, others in zip(state.arrays, before[2].arrays, strict=True):
        for name in others:
            assert_same(own[name], others[name])
    return str(caught.value)


SHARED = "addsign: a parameter or state array shares memory with another array; pass copies"


def test_arrays_that_share_memory_are_refused(fused):
    rule, memory = isostep.rule("addsign"), np.arange(12.0)
    for params, grads in [
        ([memory[:6], memory[5:11]], [np.ones(6), np.ones(6)]),
        ([memory[:6], memory[:6]], [np.ones(6), np.ones(6)]),
        ([memory[:6]], [memory[:6]]),
        ([memory[:6]], [memory[5:11]]),
        ([memory[4:8]], [memory[1:5]]),
        ([np.ones(3), memory[:1], memory[3:6]], [np.ones(3), np.ones(1), memory[5:8]]),
        ([memory[0:6:2], memory[2:8:2]], [np.ones(3), np.ones(3)]),
        ([memory[:4], memory[3::2]], [np.ones(4), np.ones(5)]),
        ([memory[::2]], [memory[1:7]]),
    ]:
        state = fused.init(rule, params)
        assert refused(fused, rule, params, grads, state) == SHARED
        assert state.plan is None


def test_state_that_shares_memory_is_refused(fused):
    rule = isostep.rule("addsign")
    params, grads = [np.ones(3), np.ones(3)], [np.ones(3), np.ones(3)]
    state = fused.init(rule, params)
    state.arrays[1]["m"] = state.arrays[0]["m"]
    assert refused(fused, rule, params, grads, state) == SHARED
    state.arrays[1]["m"] = params[0]
    assert refused(fused, rule, params, grads, state) == SHARED


def test_neighbours_and_shared_gradients_are_fine(fused):
    rule, memory, g = isostep.rule("addsign"), np.ones(12), np.ones(4)
    params = [memory[:4], memory[4:8], memory[8:]]
    fused.step(rule, params, [g, g, g], fused.init(rule, params))
    np.testing.assert_array_equal(memory, np.full(12, 1 - 0.1 * 2.0))
    memory[:] = 1.0
    params, g = [memory[::2], memory[1::2]], np.ones(6)
    fused.step(rule, params, [g, g], fused.init(rule, params))
    np.testing.assert_array_equal(memory, np.full(12, 1 - 0.1 * 2.0))


def test_overlap_is_seen_when_only_the_gradients_are_new(fused):
    rule, params = isostep.rule("addsign"), [np.ones(3)]
    state = fused.init(rule, params)
    fused.step(rule, params, [np.ones(3)], state)
    assert refused(fused, rule, params, [params[0]], state) == SHARED
    fused.step(rule, params, [np.ones(3)], state)
    assert state.t == [2]


def test_read_only_arrays_are_refused(fused):
    rule, params = isostep.rule("addsign"), [np.ones(3), np.ones(3)]
    state = fused.init(rule, params)
    params[1].flags.writeable = False
    text = "addsign: params[1] is read-only; pass a writable copy"
    assert refused(fused, rule, params, [np.ones(3), np.ones(3)], state) == text
    params[1].flags.writeable = True
    state.arrays[0]["m"].flags.writeable = False
    assert refused(fused, rule, params, [np.ones(3), np.ones(3)], state) == (
        "addsign: state m of params[0] must be a writable float64 array of shape (3,), "
        "got float64 (3,); make a new state"
    )
    state.arrays[0]["m"].flags.writeable = True
    grads = [np.ones(3), np.ones(3)]
    grads[0].flags.writeable = False
    fused.step(rule, params, grads, state)


@pytest.mark.parametrize(
    ("grads", "text"),
    [
        ([np.ones(4)], "gradient of params[0] must have shape (3,), got (4,)"),
        (
            [np.ones(3, np.float32)],
            "gradient of params[0] must have dtype float64, got float32; cast it first",
        ),
        ([[1.0, 2.0, 3.0]], "gradient of params[0] must be an array, got list"),
        ([np.ones(3), np.ones(3)], "grads must have one entry per parameter (1), got 2"),
    ],
)
def test_gradients_are_checked_with_and_without_a_plan(fused, grads, text):
    rule, params = isostep.rule("addsign"), [np.ones(3)]
    state = fused.init(rule, params)
    assert refused(fused, rule, params, grads, state) == f"addsign: {text}"
    fused.step(rule, params, [np.ones(3)], state)
    assert state.plan is not None
    assert refused(fused, rule, params, grads, state) == f"addsign: {text}"


def test_a_rule_that_cannot_be_traced_leaves_everything(fused):
    rule = made(lambda p, g, m, t, /, *, lr: -lr * g, ("m",))
    params = [np.ones(2)]
    state = isostep.state.State("mine", [0], [{"m": np.zeros(2)}])
    refused(fused, rule, params, [np.ones(2)], state, RuleError)


# The plan


def both(fused, change, steps=3):
    """Run fused and reference side by side; ``change(params, grads, state, k)`` between steps, in place."""
    rule = isostep.rule("adam", lr=0.25, betas=(0.5, 0.5))
    results = []
    for backend in (fused, REFERENCE):
        params, (grads, *_) = problem("float64", [(5,), (2, 3), (4,)], special=False)
        state = backend.init(rule, params)
        for k in range(steps):
            backend.step(rule, params, grads, state)
            change(params, grads, state, k)
        backend.step(rule, params, grads, state)
        results.append((params, state))
    assert_same_run(*results)
    return results[0]


def test_the_plan_is_kept_while_nothing_changes(fused):
    plans = []
    both(fused, lambda params, grads, state, k: plans.append(state.plan))
    assert plans[0] is plans[1] is plans[2] is not None


def test_replaced_parameters_are_stepped(fused):
    both(fused, lambda params, grads, state, k: params.__setitem__(k, params[k] * 2))


def test_replaced_state_arrays_are_stepped(fused):
    def change(params, grads, state, k):
        state.arrays[k]["exp_avg"] = state.arrays[k]["exp_avg"] * 2

    both(fused, change)


def test_replaced_gradients_are_read(fused):
    both(fused, lambda params, grads, state, k: grads.__setitem__(k, grads[k] * 2))


def test_gradients_changed_in_place_are_read(fused):
    both(fused, lambda params, grads, state, k: np.multiply(grads[k], 2, out=grads[k]))


def test_gradients_that_come_and_go(fused):
    kept = []

    def change(params, grads, state, k):
        if k == 0:
            kept.append(grads[1])
            grads[1] = None
        if k == 1:
            grads[1] = kept.pop()

    assert both(fused, change)[1].t == [4, 3, 4]


def test_state_replaced_while_another_plan_stepped(fused):
    """A plan that is used again is compared with the state itself, not with what another plan has seen of it."""
    kept = []

    def change(params, grads, state, k):  # steps of all, the first, the others; then once more
        if k == 0:
            kept[:] = grads
        if k == 2:
            state.arrays[1]["exp_avg"] = state.arrays[1]["exp_avg"] * 2
        of_first, of_others = ((1, 0), (0, 1), (1, 1))[k % 3]
        grads[:] = [kept[0] if of_first else None, *(kept[1:] if of_others else [None, None])]

    both(fused, change, steps=5)


def test_a_parameter_may_change_its_shape_and_dtype_with_its_state(fused):
    def change(params, grads, state, k):
        if k == 1:
            params[0], grads[0] = params[0][:3].astype(np.float32), grads[0][:3].astype(np.float32)
            state.arrays[0] = {n: a[:3].astype(np.float32) for n, a in state.arrays[0].items()}

    both(fused, change)


def test_another_structure_of_the_rule_is_another_plan(fused):
    results = []
    for backend in (fused, REFERENCE):
        params, rounds = problem("float64", [(5,)], special=False)
        rule = isostep.rule("adam")
        state = backend.init(rule, params)
        for grads, changed in zip(
            rounds, [{}, {"lr": 0.5}, {"weight_decay": 0.5}, {"dialect": "keras"}], strict=True
        ):
            backend.step(rule.replace(**changed), params, grads, state)
        results.append((params, state))
    assert_same_run(*results)


def test_a_copied_state_steps_its_own_arrays(fused):
    # A plan holds addresses: taken along, the copy's step would be written into the original.
    rule, params, grads = isostep.rule("addsign"), [np.ones(3)], [np.ones(3)]
    state = fused.init(rule, params)
    fused.step(rule, params, grads, state)
    for remade in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        kept = params[0].copy()
        others, their_grads, their_state = remade((params, grads, state))
        fused.step(rule, others, their_grads, their_state)
        np.testing.assert_array_equal(params[0], kept)
        assert not np.array_equal(others[0], kept)
        assert (state.t, their_state.t) == ([1], [2])


def test_dicts_are_stepped_in_the_order_of_the_parameters(fused):
    rule = isostep.rule("addsign", lr=0.5)
    params = {"b": np.zeros(2), "a": np.zeros(3)}
    state = fused.init(rule, params)
    found, _ = fused.step(rule, params, {"a": np.ones(3), "b": np.full(2, 2.0)}, state)
    assert found is params
    assert params["a"].tolist() == [-1] * 3
    assert params["b"].tolist() == [-2] * 2
    fused.step(rule, params, {"a": np.ones(3)}, state)
    assert state.t == [1, 2]


# Source and cache


def test_sources_can_be_read_and_compiled():
    from isostep.lower.numba_source import source

    for rule in (*EXACT, *REDUCING):
        for t in (1, 2):
            text = source(isostep.program(rule, t=t), "bfloat16")
            functions = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
            assert len(functions) == isostep.program(rule, t=t).stages
            assert all(ast.get_docstring(f).startswith("Pass ") for f in functions)
    text = source(isostep.program(isostep.rule("addsign")), "float32")
    assert "m_new = (beta * m) + (v7 * g)" in text
    assert "store_m(address_m, i, m_new)" in text
    assert "store_p(address_p, i, p + u)" in text
    assert "widen" not in text


CACHED = """
import sys
import isostep, numpy as np
backend = isostep.backend("numpy:fused")
rule, params = isostep.rule("lamb", lr=0.5), [np.full(2, 2, np.float32)]
backend.step(rule, params, [np.ones(2, np.float32)], backend.init(rule, params))
assert abs(params[0] - 1).max() < 1e-3, params
print("numba" in sys.modules)
"""


def test_a_second_process_compiles_nothing_and_does_without_numba(tmp_path):
    def files():
        return {
            p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in tmp_path.rglob("*") if p.is_file()
        }

    assert python(CACHED, ISOSTEP_CACHE_DIR=str(tmp_path)) == "True\n"
    first = files()
    names = sorted(p.name.split("_")[0] for p in first if p.suffix == ".zip")
    assert names == ["headers", "lamb"]
    assert python(CACHED, ISOSTEP_CACHE_DIR=str(tmp_path)) == "False\n"
    assert files() == first


def test_object_code_is_compiled_once_and_a_spoiled_file_is_made_anew(monkeypatch, tmp_path):
    from isostep.lower import headers
    from isostep.lower.objects import functions

    compiled = []

    def offset_of_itself():
        make = lambda: compiled.append(1) or headers  # noqa: E731
        (follow,) = functions("headers", "its text", ["follow"], 3, make)
        array = np.zeros(1, np.int64)
        array[0] = id(array)
        follow(id(array), 1, 16)
        return array[0] - array.ctypes.data

    monkeypatch.setenv("ISOSTEP_CACHE_DIR", str(tmp_path))
    assert [offset_of_itself(), offset_of_itself(), len(compiled)] == [0, 0, 1]
    (kept,) = tmp_path.rglob("*.zip")
    whole = kept.read_bytes()
    for spoiled in (b"", whole[:-9], whole[:600] + bytes([whole[600] ^ 1]) + whole[601:]):
        kept.write_bytes(spoiled)
        compiled.clear()
        assert [offset_of_itself(), offset_of_itself(), len(compiled)] == [0, 0, 1]


def test_object_code_is_for_one_compiler_and_one_processor(monkeypatch):
    from llvmlite import binding

    from isostep.lower.objects import machine

    here = machine.__wrapped__
    seen = {here()}
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    seen.add(here())
    monkeypatch.setattr(binding, "get_host_cpu_name", lambda: "another")
    seen.add(here())
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: {"avx": False})
    seen.add(here())
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0")
    seen.add(here())
    assert len(seen) == 5


def test_the_cache_folder_is_what_the_environment_says(monkeypatch, tmp_path):
    from isostep.lower.cache import cache_folder

    monkeypatch.setenv("ISOSTEP_CACHE_DIR", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("ISOSTEP_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "isostep"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "isostep"


def test_a_gradient_of_a_number_may_be_a_numpy_scalar():
    """What NumPy makes of 0-d arrays by arithmetic is no array."""
    rule = isostep.rule("adam", lr=0.1)
    found = []
    for name in ("numpy:fused", "numpy:reference"):
        backend, params = isostep.backend(name), [np.asarray(1.0), np.ones(3)]
        state = backend.init(rule, params)
        for k in range(3):
            grads = [np.asarray(0.5) * (k + 1), np.full(3, 0.25)]
            assert isinstance(grads[0], np.float64)
            params, state = backend.step(rule, params, grads, state)
        found.append(params)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_every_pass_fetches_ahead_and_is_vectorised(name):
    from isostep.lower.numba_source import source

    program = isostep.trace(isostep.rule(name, lr=0.1))
    found: dict = {}
    exec(compile(source(program, "float32"), name, "exec"), found)
    stages = [found[f"stage{k}"] for k in range(program.stages)]
    texts = [next(iter(stage.inspect_llvm().values())) for stage in stages]
    assert all("x float> @llvm.sqrt" in text for text in texts)
    # a pass that sums in float64 takes as many elements at a time as one that does not
    lanes = [{int(n) for n in re.findall(r"<(\d+) x float> @llvm.sqrt", text)} for text in texts]
    assert len(set(map(frozenset, lanes))) == 1, lanes
    # of the next chunk, and of what comes next in this one: parameters, gradients and two averages
    assert all("call void @llvm.prefetch" in text for text in texts)
    assert source(program, "float32").count("fetch(") == 2 * 4 * len(texts)
