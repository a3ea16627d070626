"""``jax:jit``: new arrays, float64 without a switch, no recompilation, and scalars that keep their digits."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isostep
from isostep import pieces, schedules
from isostep.rule import compose
from isostep.state import StepError

BACKEND = isostep.backend("jax:jit")
REFERENCE = isostep.backend("numpy:reference")
ADAMW = isostep.rule("adamw", lr=0.1, betas=(0.8, 0.7), eps=1e-3, weight_decay=0.1)


def arrays(shapes=((5, 3), (7,), ()), dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=s)).astype(dtype) for s in shapes]


def run(rule, params, rounds, backend=BACKEND):
    params = [backend.asarray(p) for p in params]
    state = backend.init(rule, params)
    for grads in rounds:
        given = [None if g is None else backend.asarray(g) for g in grads]
        params, state = backend.step(rule, params, given, state)
    return params, state


def test_jax_is_found_by_name():
    assert isostep.backend("jax").name == "jax:jit"
    assert isinstance(BACKEND, isostep.Backend)
    assert BACKEND.path(isostep.rule("adafactor")) == "jit"


def test_new_arrays_are_returned_and_the_old_ones_stay():
    params = [BACKEND.asarray(p) for p in arrays()]
    grads = [BACKEND.asarray(g) for g in arrays(seed=1)]
    state = BACKEND.init(ADAMW, params)
    before = [np.array(a) for a in (*params, *grads)]
    new, after = BACKEND.step(ADAMW, params, grads, state)
    assert new is not params
    assert after is not state
    assert (state.t, after.t) == ([0, 0, 0], [1, 1, 1])
    assert (state.group_t, after.group_t) == (0, 1)
    for a, old in zip((*params, *grads), before, strict=True):
        np.testing.assert_array_equal(np.array(a), old)
    assert all(not np.array(a).any() for own in state.arrays for a in own.values())
    assert all(np.array(a).all() for own in after.arrays for a in own.values())
    assert all((np.array(a) != np.array(b)).all() for a, b in zip(params, new, strict=True))
    again, _ = BACKEND.step(ADAMW, params, grads, state)  # the same step once more, to the bit
    for a, b in zip(new, again, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))


def test_dicts_and_tuples_come_back_as_they_went_in():
    a, b = (BACKEND.asarray(x) for x in arrays([(2,), (3,)]))
    params = {"b": a, "a": b}
    state = BACKEND.init(ADAMW, params)
    new, state = BACKEND.step(ADAMW, params, {"a": jnp.ones(3)}, state)
    assert list(new) == ["b", "a"]
    assert new["b"] is a
    assert state.t == [0, 1]
    assert [a.shape for a in state.arrays[1].values()] == [(3,), (3,)]
    pair, _ = BACKEND.step(ADAMW, (a,), [jnp.ones(2)], BACKEND.init(ADAMW, (a,)))
    assert type(pair) is tuple


def test_a_changing_learning_rate_does_not_recompile():
    rule = isostep.rule("adam", lr=0.5)
    params = [BACKEND.asarray(p) for p in arrays([(11,), (2, 11)])]
    grads = [BACKEND.asarray(g) for g in arrays([(11,), (2, 11)], seed=1)]
    state = BACKEND.init(rule, params)
    start = BACKEND.compilations()
    counts = []
    for k in range(5):
        changed = rule.replace(lr=0.5 / (k + 1), betas=(0.9, 0.5 + k / 16))
        params, state = BACKEND.step(changed, params, grads, state)
        counts.append(BACKEND.compilations() - start)
    assert counts == [1] * 5
    BACKEND.step(rule.replace(weight_decay=0.5), params, grads, state)
    assert BACKEND.compilations() - start == 2


def test_a_schedule_does_not_recompile():
    rule = isostep.rule(
        "addsign",
        lr=lambda done: 0.5 / (1 + done),
        sign_internal_decay=schedules.LinearInternalDecay(3),
    )
    params, grads = [jnp.ones(13)], [jnp.ones(13)]
    state = BACKEND.init(rule, params)
    start = BACKEND.compilations()
    for _ in range(5):
        params, state = BACKEND.step(rule, params, grads, state)
    assert BACKEND.compilations() - start == 1


def test_another_order_of_the_parameters_is_the_same_compiled_step():
    rule = isostep.rule("sgd_hd", lr=0.1, hypergrad_lr=0.01)
    runs = [arrays([(9,), (2, 9), (9,)], seed=k) for k in range(3)]
    start = BACKEND.compilations()
    forth, state = run(rule, runs[0], runs[1:])
    back, other = run(rule, runs[0][::-1], [r[::-1] for r in runs[1:]])
    assert BACKEND.compilations() - start == 1
    for a, b in zip(forth, back[::-1], strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=1e-6)
    assert float(state.group["lr"]) == pytest.approx(float(other.group["lr"]), rel=1e-6)


def test_phases_are_compiled_once_each():
    rule = compose(isostep.rule("sgd", lr=0.5), pieces.lookahead(2))
    params, grads = [jnp.ones(17)], [jnp.ones(17)]
    state = BACKEND.init(rule, params)
    start = BACKEND.compilations()
    values = []
    for _ in range(4):
        params, state = BACKEND.step(rule, params, grads, state)
        values.append(float(params[0][0]))
    assert values == [0.5, 0.5, 0.0, 0.0]
    assert BACKEND.compilations() - start == 2


@pytest.mark.parametrize("name", ["adamw", "addsign", "lamb", "sgd_hd", "adafactor", "muon"])
def test_float64_without_x64(name):
    assert not jax.config.read("jax_enable_x64")
    rule = isostep.rule(name, lr=0.1)
    shapes = [(4, 3), (3, 5)] if name == "muon" else [(4, 3), (5,), ()]
    params, rounds = arrays(shapes, "float64"), [arrays(shapes, "float64", k) for k in (1, 2, 3)]
    found, state = run(rule, params, rounds)
    wanted, wanted_state = run(rule, params, rounds, REFERENCE)
    for a, b, old in zip(found, wanted, params, strict=True):
        assert a.dtype == np.float64
        scale = np.maximum(np.abs(b), np.abs(old))
        assert (np.abs(np.array(a) - b) <= 1e-13 * scale.max()).all()
    for own, others in zip(state.arrays, wanted_state.arrays, strict=True):
        for n, a in own.items():
            assert a.dtype == np.float64
            np.testing.assert_allclose(np.array(a), others[n], rtol=1e-12, atol=1e-13)
    for n, a in wanted_state.group.items():
        assert state.group[n].dtype == np.float64
        np.testing.assert_allclose(np.array(state.group[n]), a, rtol=1e-13)
    assert not jax.config.read("jax_enable_x64")
    assert jnp.asarray(1.5).dtype == np.float32  # nothing of it has leaked


def test_dtypes_are_kept_in_and_out():
    for dtype in ("float64", "float32", "bfloat16", "float16"):
        kind = jnp.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
        array = np.arange(6.0).reshape(2, 3).astype(kind)
        inside = BACKEND.asarray(array)
        assert inside.dtype == array.dtype
        outside = BACKEND.to_numpy(inside)
        assert outside.dtype == array.dtype
        outside[...] = 0
        np.testing.assert_array_equal(np.array(inside), array)


def test_halves_compute_in_float32_and_round_once():
    for dtype in (jnp.bfloat16, np.float16):
        p, g = arrays([(257,)], dtype)[0], arrays([(257,)], dtype, 1)[0]
        rule = isostep.rule("sgd", lr=0.25, momentum=0.5, weight_decay=0.25)
        (found,), state = run(rule, [p], [[g]])
        wide = g.astype(np.float64) + 0.25 * p.astype(np.float64)
        # Powers of two: the products are exact, so float32 is near enough to float64 to round the same way.
        np.testing.assert_array_equal(
            np.array(found), (p.astype(np.float64) - 0.25 * wide).astype(np.float32).astype(dtype)
        )
        np.testing.assert_array_equal(
            np.array(state.arrays[0]["momentum_buffer"]), wide.astype(np.float32).astype(dtype)
        )
        assert found.dtype == state.arrays[0]["momentum_buffer"].dtype == dtype


def test_mixed_dtypes_in_one_group():
    rule = isostep.rule("sgd_hd", lr=0.5, hypergrad_lr=0.1)
    params = [np.zeros(2, np.float32), np.zeros(3)]
    grads = [np.ones(2, np.float32), np.ones(3)]
    found, state = run(rule, params, [grads, grads, [grads[0], None]])
    assert [a.dtype for a in found] == [np.float32, np.float64]
    assert state.group["lr"].dtype == np.float64
    assert state.t == [3, 2]
    assert float(state.group["lr"]) == pytest.approx(0.5 + 0.1 * 5 + 0.1 * 2, rel=1e-15)


def test_the_first_adam_step_keeps_its_digits():
    # 1 - 0.999**t taken in float32 costs 100 ulp here. Float32's own roundings make 3 (plain NumPy: 4).
    rule = isostep.rule("adam", lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    g = arrays([(999,)], "float32", 5)[0]
    (found,), _ = run(rule, [np.zeros(999, np.float32)], [[g]])
    (wanted,), _ = run(rule, [np.zeros(999)], [[g.astype(np.float64)]], REFERENCE)
    ulps = np.abs(np.array(found, np.float64) - wanted) / np.spacing(
        np.abs(wanted).astype(np.float32)
    )
    assert ulps.max() <= 6


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_bias_corrections_of_later_steps_keep_theirs(steps):
    # With one-sided unit gradients p is -lr * sum of m / sqrt(v), which exact fractions give.
    rule = isostep.rule("adam", lr=1.0, betas=(0.0, 0.9375), eps=0.0)
    rounds = [[np.full(3, 2.0, np.float32)]] * steps
    (found,), state = run(rule, [np.zeros(3, np.float32)], rounds)
    v = 4 * (1 - Fraction(15, 16) ** steps)
    np.testing.assert_allclose(np.array(state.arrays[0]["exp_avg_sq"]), float(v), rtol=3e-7)
    np.testing.assert_allclose(np.array(found), -float(steps), rtol=1e-6)


@pytest.mark.parametrize("make", [getattr(schedules, n) for n in schedules.sign_decays.__all__])
def test_schedules_can_be_traced(make):
    schedule = make(10) if make is schedules.LinearInternalDecay else make(10, 3, 0.25)
    traced = jax.jit(schedule)
    for t in (0, 1, 2, 4, 7, 9, 10, 11, 1000):
        found = traced(jnp.asarray(t))
        assert found.dtype == jnp.float32
        assert float(found) == pytest.approx(schedule(t), abs=2e-6)


def test_rules_of_parameters_of_different_age():
    rule = isostep.rule("adam", lr=0.5)
    params = arrays([(3,), (4,)])
    rounds = [arrays([(3,), (4,)], seed=k) for k in range(3)]
    rounds[0][1] = None
    found, state = run(rule, params, rounds)
    wanted, _ = run(rule, params, rounds, REFERENCE)
    assert state.t == [3, 2]
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.array(a), b, rtol=2e-6, atol=2e-6)  # steps are of 0.5


@pytest.mark.parametrize(
    ("params", "grads", "text"),
    [
        (
            [jnp.arange(3)],
            [jnp.ones(3)],
            "params[0] must be one of float64, float32, bfloat16, float16, got int32; cast it first",
        ),
        (
            [jnp.ones(3)],
            [jnp.ones(3, jnp.bfloat16)],
            "gradient of params[0] must have dtype float32, got bfloat16; cast it first",
        ),
        (
            [jnp.ones(3)],
            [jnp.ones((3, 1))],
            "gradient of params[0] must have shape (3,), got (3, 1)",
        ),
        ([jnp.ones(3)], jnp.ones(3), "grads must be a list like params, got ArrayImpl"),
        (
            [jnp.ones((3, 1))],
            [jnp.ones((3, 1))],
            "state exp_avg of params[0] must be a float32 array of shape (3, 1), got float32 (3,); make a new state",
        ),
    ],
)
def test_errors_are_one_line(params, grads, text):
    state = BACKEND.init(ADAMW, [jnp.ones(3)])
    with pytest.raises(StepError) as caught:
        BACKEND.step(ADAMW, params, grads, state)
    assert str(caught.value) == f"adamw: {text}"
    assert state.t == [0]


def test_a_state_of_another_rule_is_refused():
    state = BACKEND.init(isostep.rule("sgd"), [jnp.ones(3)])
    with pytest.raises(
        StepError, match=r"^adamw: state belongs to 'sgd'; make one with backend.init"
    ):
        BACKEND.step(ADAMW, [jnp.ones(3)], [jnp.ones(3)], state)
