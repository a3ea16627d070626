"""The sign decays: TensorFlow's values, past the end too, and what is refused."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import isostep
from isostep import schedules
from isostep.schedules import (
    CosineInternalDecay,
    LinearInternalDecay,
    RestartCosineInternalDecay,
    RestartCosineInternalDecayTorchPort,
)

COSINE_10 = [1, 0.975528, 0.904508, 0.793893, 0.654508, 0.5, 0.345492, 0.206107, 0.095492, 0.024472]
# Printed by TensorFlow's own code (six digits), for steps 0, 1, 2, ... and beyond T_max.
TABLES = [
    (LinearInternalDecay(10), [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0, 0]),
    (CosineInternalDecay(10), [*COSINE_10, 0, 0]),
    (CosineInternalDecay(10, 2.5), [1, 0.5, 0, 0.5, 1, 0.5, 0, 0.5, 1, 0.5, 0, 0]),
    (CosineInternalDecay(10, 5, 2), [1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    (RestartCosineInternalDecay(10), [*COSINE_10, 1, 1]),
    (RestartCosineInternalDecay(10, 1, 1), [*COSINE_10, 0, 0]),
    (RestartCosineInternalDecay(10, 5, 2), [1, 0.5, 1, 0.5, 0, 0, 0, 0, 0, 0, 0, 0]),
    (
        RestartCosineInternalDecay(10, 3),
        [
            1,
            0.793893,
            0.345492,
            0.024472,
            0.904508,
            0.5,
            0.095492,
            0.975528,
            0.654508,
            0.206107,
            1,
            1,
        ],
    ),
    (RestartCosineInternalDecay(10, 10), [1] * 12),
    (RestartCosineInternalDecay(20, 10), [1, 0.5] * 10 + [1, 1]),
    (RestartCosineInternalDecay(20, 10, 3), [1, 0.5, 1, 0.5, 1, 0.5, *[0] * 16]),
    (RestartCosineInternalDecayTorchPort(20, 5, 0.25), [1, 0.853553, 0, 0] * 5 + [1, 1]),
    (RestartCosineInternalDecayTorchPort(20, 5, 2), [1, 0.853553, 0.5, 0.146447] * 5 + [1, 1]),
    (RestartCosineInternalDecay(20, 5, 0.25), [1, *[0] * 21]),
]
ALL = [getattr(schedules, name) for name in schedules.sign_decays.__all__]


@pytest.mark.parametrize(("schedule", "table"), TABLES, ids=lambda x: repr(x)[:60])
def test_values_of_tensorflow_also_past_the_end(schedule, table):
    # Exact where the table is a whole or half number; TensorFlow prints six digits of the others.
    found = [schedule(t) for t in range(len(table))]
    assert found == pytest.approx(table, abs=6e-7)
    assert all(type(d) is float for d in found)
    assert schedule(10**9) == schedule(len(table)) == found[-1]


@pytest.mark.parametrize("n", [0.5, 1, 2.5, 3, 10, 50])
def test_how_far_tensorflow_s_float32_is_off(n):
    """The docstring's figures: TensorFlow's own order of operations in float32."""
    f = np.float32
    cosine, restart = 0.0, 0.0
    for T in (7, 20, 57, 200, 1000):
        t = np.arange(T + 1)
        x = f(2.0 * n) * (t.astype(f) / f(T))
        y = np.mod(f(n) * t.astype(f), f(T)) / f(T)
        theirs = [f(0.5) * (f(1) + np.cos(f(np.pi) * a)) for a in (x, y)]
        ours = [
            [make(T, n)(int(k)) for k in t]
            for make in (CosineInternalDecay, RestartCosineInternalDecay)
        ]
        cosine, restart = (
            max(o, np.abs(a - b).max())
            for o, a, b in zip((cosine, restart), ours, theirs, strict=True)
        )
    assert cosine <= max(4e-7, 5e-7 * n)
    assert n < 10 or cosine > 1e-6
    assert restart <= 4e-7


def test_ends_are_exact():
    assert LinearInternalDecay(10)(10) == 0
    assert RestartCosineInternalDecay(10)(10) == 1
    assert RestartCosineInternalDecay(7, 3)(7) == 1
    assert RestartCosineInternalDecay(10, 2.5)(10) == pytest.approx(0.5, abs=1e-15)
    assert CosineInternalDecay(10, 1)(10) == 1
    assert CosineInternalDecay(10, 5, 2)(4) == 0
    assert RestartCosineInternalDecay(10, zero_after=0)(0) == 0
    assert all(make(5)(0) == 1 for make in ALL)


def test_the_linear_decay_is_a_division_of_whole_numbers():
    # 1 - t / T, as in the PyTorch port, differs in the last bits at 7, 8 and 9.
    assert [LinearInternalDecay(10)(t) for t in (7, 8, 9)] == [3 / 10, 2 / 10, 1 / 10]


def test_a_part_of_a_step_counts_only_in_the_divisor():
    assert LinearInternalDecay(10.5)(3) == 7 / 10.5
    assert LinearInternalDecay(10.5)(20) == 0


@given(st.integers(1, 300), st.integers(0, 400), st.integers(1, 10))
def test_restarts_are_at_whole_periods(T, t, n):
    # x = (n t mod T) / T, in whole numbers; past the end it is 0.
    x = (n * min(t, T) % T) / T
    found = RestartCosineInternalDecay(T, n)(t)
    assert found == pytest.approx(0.5 * (1 + math.cos(math.pi * x)), abs=1e-12)


@given(st.integers(1, 300), st.integers(0, 400), st.integers(1, 20), st.integers(0, 20))
def test_zero_after_counts_half_periods_done(T, t, n2, z2):
    n, z = n2 / 2, z2 / 2
    over = 2 * n2 * min(t, T) >= 2 * z2 * T
    for make in (CosineInternalDecay, RestartCosineInternalDecay):
        plain, cut = make(T, n)(t), make(T, n, z)(t)
        assert cut == (0 if over else plain)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("T", [0, 0.5, -3, math.nan, math.inf])
def test_T_max_below_one_or_not_finite(make, T):
    with pytest.raises(ValueError) as caught:
        make(T)
    assert str(caught.value) == (
        f"{make.__name__}: T_max must be a finite number >= 1, got {T!r}; "
        "pass the number of steps that the decay lasts"
    )


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("T", ["10", None, True, [10]])
def test_T_max_that_is_no_number(make, T):
    with pytest.raises(
        TypeError, match=f"^{make.__name__}: T_max must be a finite number >= 1, got "
    ):
        make(T)


@pytest.mark.parametrize("make", [m for m in ALL if m is not LinearInternalDecay])
def test_bad_periods_and_zero_after(make):
    for n in (0, -1, math.nan):
        with pytest.raises(ValueError, match="num_periods must be a finite number > 0, got"):
            make(10, n)
    with pytest.raises(TypeError, match="num_periods must be a finite number > 0, got '1'"):
        make(10, "1")
    with pytest.raises(ValueError, match="zero_after must be None or a finite number >= 0, got -1"):
        make(10, 1, -1)
    assert make(10, 1, None) == make(10, 1)


@pytest.mark.parametrize("make", ALL)
def test_bad_steps(make):
    schedule = make(10)
    for step in (-1, -0.5, math.nan, np.int64(-2), np.float32("nan")):
        with pytest.raises(ValueError) as caught:
            schedule(step)
        assert str(caught.value) == (
            f"{make.__name__}: the step must be >= 0, got {step!r}; pass the steps already done"
        )
    for step in (None, "3", True):
        with pytest.raises(TypeError, match="the step must be a number, got"):
            schedule(step)


def test_what_is_no_decay_is_refused_by_the_rules():
    with pytest.raises(
        isostep.DomainError, match=r"^addsign: sign_internal_decay must be None, a number, or"
    ):
        isostep.rule("addsign", sign_internal_decay="linear")
    with pytest.raises(isostep.DomainError, match=r"^powersign: base must be > 0, got -1$"):
        isostep.rule("powersign", base=-1)


@pytest.mark.parametrize("schedule", [s for s, _ in TABLES], ids=repr)
def test_schedules_can_be_pickled_compared_and_hashed(schedule):
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert again(3) == schedule(3)
    with pytest.raises(AttributeError):
        again.T_max = 5


@pytest.mark.parametrize("schedule", [s for s, _ in TABLES], ids=repr)
def test_numpy_s_numbers_are_host_numbers(schedule):
    for t in (0, 3, 25):
        wanted = schedule(t)
        for kind in (np.int64, np.int32, np.uint8, np.float32, np.float64):
            found = schedule(kind(t))
            assert found == wanted
            assert isinstance(found, float)
        assert float(schedule(np.array(t))) == pytest.approx(wanted, abs=1e-15)


def test_the_first_update_sees_the_decay_of_zero_steps():
    backend = isostep.backend("numpy:reference")
    rule = isostep.rule("addsign", lr=1.0, sign_internal_decay=LinearInternalDecay(2))
    params = [np.zeros(1)]
    state = backend.init(rule, params)
    steps = []
    for _ in range(4):
        before = params[0].item()
        backend.step(rule, params, [np.ones(1)], state)
        steps.append(before - params[0].item())
    assert steps == [2, 1.5, 1, 1]


@pytest.mark.whole
def test_a_restart_is_one_under_jit_too():
    """XLA divides by a constant by multiplying with its rounded inverse: 41 / 41 is below 1 there."""
    jax = pytest.importorskip("jax")
    for period in (41, 55, 61, 83):
        decay = isostep.schedules.RestartCosineInternalDecay(6 * period, 6)
        compiled = jax.jit(decay)
        for k in range(1, 6):
            assert decay(k * period) == 1.0
            assert float(compiled(jax.numpy.asarray(k * period))) == pytest.approx(1.0, abs=1e-5)
