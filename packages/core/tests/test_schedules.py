"""Schedules that torch has not, and what is refused. torch's and optax's are in the adapters' tests."""

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import chebyshev as cheb

import isostep
from isostep import schedules as s

SOME = [
    s.Multiplicative(0.5, factor=math.sqrt),
    s.Step(0.5, step_size=3, gamma=0.7),
    s.MultiStep(0.5, milestones=[1, 4], gamma=0.7),
    s.CosineAnnealing(0.5, T_max=7, eta_min=0.1),
    s.CosineAnnealingWarmRestarts(0.5, T_0=2, T_mult=2),
    s.Cyclic(0.1, 0.5, step_size_up=3, mode="triangular2"),
    s.OneCycle(0.5, 20),
    s.SWAAnneal(0.5, swa_lr=0.1, anneal_epochs=4),
    s.LinearWarmup(0.5, period=4),
    s.UntunedLinearWarmup(0.5, beta2=0.9),
    s.InverseSquareRoot(0.5, warmup=4),
    s.REX(0.5, total_steps=12),
    s.WarmupStableDecay(0.5, warmup=2, stable=3, decay=4, shape="1-sqrt", end=0.1),
    s.Chebyshev(0.5, total_steps=8),
    s.sequential([s.Constant(), s.Exponential(0.5, gamma=0.9)], milestones=[3]),
    s.chained(s.Exponential(0.5, gamma=0.9), s.Linear()),
    s.chained(s.Exponential(0.5, gamma=0.9), s.CosineAnnealing(T_max=3, eta_min=0.1)),
    s.scale(s.Exponential(0.5, gamma=0.9), s.Linear()),
]


def values(schedule, steps):
    return [schedule(t) for t in range(steps)]


def test_linear_warmups_count_the_step_to_come():
    # The paper's omega_t = min(1, t / period), t = 1 at the first step, which is therefore not 0.
    assert values(s.LinearWarmup(2.0, period=4), 6) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    untuned = s.UntunedLinearWarmup(2.0, beta2=0.999)
    assert untuned(0) == pytest.approx(2.0 / 2000, rel=1e-12)
    assert untuned(998) == pytest.approx(2.0 * 999 / 2000, rel=1e-12)
    assert untuned(2000) == 2.0


def test_inverse_square_root_is_the_transformer_s():
    # lrate = d_model^-0.5 min(step^-0.5, step warmup^-1.5), at its peak (d_model warmup)^-0.5
    d_model, warmup = 512, 40
    schedule = s.InverseSquareRoot((d_model * warmup) ** -0.5, warmup=warmup)
    for t in range(200):
        wanted = d_model**-0.5 * min((t + 1) ** -0.5, (t + 1) * warmup**-1.5)
        assert schedule(t) == pytest.approx(wanted, rel=1e-13)


def test_rex():
    found = values(s.REX(3.0, total_steps=10), 13)
    for t in range(13):
        z = 1 - min(t, 10) / 10
        assert found[t] == pytest.approx(3.0 * 2 * z / (1 + z), rel=1e-13)
    assert found[10:] == [0, 0, 0]


SHAPES = {
    "linear": lambda x: 1 - x,
    "cosine": lambda x: math.cos(math.pi * x / 2) ** 2,
    "1-sqrt": lambda x: 1 - x**0.5,
    "1-square": lambda x: (1 - x) * (1 + x),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_warmup_stable_decay(shape):
    schedule = s.WarmupStableDecay(
        2.0, warmup=10, stable=20, decay=30, shape=shape, start=0.25, end=0.1
    )
    for t in range(10):
        assert schedule(t) == pytest.approx(2 * (0.25 + 0.75 * t / 10), rel=1e-13)
    assert set(values(schedule, 31)[10:]) == {2.0}
    for t in range(30, 60):
        wanted = 2 * (0.1 + 0.9 * SHAPES[shape]((t - 30) / 30))
        assert schedule(t) == pytest.approx(wanted, rel=1e-12)
    assert schedule(60) == schedule(10**6) == pytest.approx(0.2, rel=1e-13)


def test_exponential_decay_and_no_decay():
    schedule = s.WarmupStableDecay(2.0, decay=30, shape="exponential", end=0.1)
    assert schedule(15) == pytest.approx(2 * math.sqrt(0.1), rel=1e-13)
    assert set(values(s.WarmupStableDecay(2.0, stable=3), 9)) == {2.0}


def test_the_knee_and_the_trapezoid():
    assert s.knee(3.0, explore=50, total=100) == s.trapezoid(3.0, warmup=0, stable=50, decay=50)
    knee = s.knee(3.0, explore=50, total=110, warmup=10)
    assert [knee(t) for t in (0, 5, 10, 60, 85, 110, 111)] == [0, 1.5, 3, 3, 1.5, 0, 0]


@pytest.mark.parametrize("T", [1, 2, 8, 32])
@pytest.mark.parametrize("order", ["fractal", "rising", "falling"])
def test_chebyshev_s_steps_make_chebyshev_s_polynomial(T, order):
    # Gradient descent on a quadratic multiplies an eigenvector of curvature x by prod(1 - step x),
    # which must be the polynomial T_T(theta(x)) / T_T(theta(0)): built here from its recurrence.
    m, M = 0.1, 2.0
    steps = values(s.Chebyshev(1.0, total_steps=T, m=m, M=M, order=order), T)
    basis = [0] * T + [1]
    for x in np.linspace(m, M, 23):
        wanted = cheb.chebval((M + m - 2 * x) / (M - m), basis) / cheb.chebval(
            (M + m) / (M - m), basis
        )
        assert np.prod([1 - a * x for a in steps]) == pytest.approx(wanted, abs=1e-12)
    # and the steps are the inverses of that polynomial's roots
    roots = (M + m) / 2 - (M - m) / 2 * cheb.chebroots(basis)
    np.testing.assert_allclose(sorted(steps), sorted(1 / roots), rtol=1e-12)
    if order != "fractal":
        assert steps == sorted(steps, reverse=order == "falling")


def test_the_fractal_order():
    def permutation(T):  # interlaced with its mirror image, numbered from 1
        if T == 1:
            return [1]
        half = permutation(T // 2)
        return [x for a in half for x in (a, T + 1 - a)]

    assert permutation(8) == [1, 8, 4, 5, 2, 7, 3, 6]
    for T in (1, 2, 4, 8, 64, 1024):
        numbered = values(s.Chebyshev(2.0, total_steps=T, order="falling"), T)
        wanted = [numbered[k - 1] for k in permutation(T)]
        schedule = s.Chebyshev(2.0, total_steps=T)
        assert values(schedule, T) == wanted
        assert [schedule(T + t) for t in range(T)] == wanted


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 5000))
def test_restarts_are_where_the_cycles_end(T_0, T_mult, t):
    begun, length = 0, T_0
    while t >= begun + length:
        begun, length = begun + length, length * T_mult
    found = s.CosineAnnealingWarmRestarts(2.0, T_0=T_0, T_mult=T_mult, eta_min=0.5)(t)
    wanted = 0.5 + 1.5 * math.cos(math.pi * (t - begun) / length / 2) ** 2
    assert found == pytest.approx(wanted, abs=1e-12)


@given(st.lists(st.integers(0, 40), max_size=4), st.integers(0, 60))
def test_sequential_is_the_part_that_has_begun(milestones, t):
    milestones = sorted(milestones)
    parts = [s.Linear(i + 1.0, total_iters=7, start_factor=0.1) for i in range(len(milestones) + 1)]
    i = sum(m <= t for m in milestones)
    wanted = parts[i](t - ([0, *milestones][i]))
    assert s.sequential(parts, milestones=milestones)(t) == wanted


def test_combinators_combine():
    a, b = s.Exponential(0.5, gamma=0.9), s.Linear(total_iters=10)
    assert s.scale(a, 3.0)(4) == a(4) * 3.0
    assert s.scale(a, b)(4) == a(4) * b(4) == s.chained(a, b)(4)
    assert s.scale(lambda t: [5.0, 7.0][t], 2.0)(1) == 14.0  # users' callables get whole numbers
    nested = s.scale(s.sequential([s.scale(a, b), b], milestones=[3]), s.chained(a, b))
    assert nested(5) == b(2) * a(5) * b(5)


def test_after_the_end_one_cycle_stays():
    schedule = s.OneCycle(0.5, 20)
    assert schedule(19) == schedule(20) == schedule(10**9) == pytest.approx(0.5 / 25 / 1e4)
    for total in (1, 2, 3, 4):
        assert all(math.isfinite(x) for x in values(s.OneCycle(0.5, total, pct_start=0.5), 6))


@pytest.mark.parametrize("schedule", SOME, ids=lambda x: type(x).__name__)
def test_pure_frozen_and_of_host_numbers(schedule):
    wanted = values(schedule, 30)
    assert all(type(x) is float for x in wanted)
    again = copy.deepcopy(schedule)
    assert [again(t) for t in reversed(range(30))] == wanted[::-1]
    for kind in (np.int64, np.int32, np.uint8, np.float32, np.float64):
        assert schedule(kind(7)) == wanted[7]
        assert isinstance(schedule(kind(7)), float)
    pickled = pickle.loads(pickle.dumps(schedule))
    assert pickled == schedule
    assert hash(pickled) == hash(schedule)
    assert pickled(11) == wanted[11]
    with pytest.raises(AttributeError):
        schedule.value = 5


@pytest.mark.parametrize("schedule", SOME, ids=lambda x: type(x).__name__)
def test_made_again_from_its_name_and_fields(schedule):
    made = getattr(s, type(schedule).__name__)
    fields = {f.name: getattr(schedule, f.name) for f in dataclasses.fields(schedule) if f.init}
    assert made(**fields) == schedule


@pytest.mark.parametrize("schedule", SOME, ids=lambda x: type(x).__name__)
def test_bad_steps(schedule):
    name = type(schedule).__name__
    for step in (-1, -0.5, math.nan, np.int64(-2)):
        with pytest.raises(ValueError, match=f"^{name}: the step must be >= 0, got"):
            schedule(step)
    for step in (None, "3", True):
        with pytest.raises(TypeError, match=f"^{name}: the step must be a number, got"):
            schedule(step)


BAD = [
    (lambda: s.Step(0.1, step_size=0), "Step: step_size must be an integer >= 1, got 0; "),
    (lambda: s.Step(0.1, step_size=-3), "Step: step_size must be an integer >= 1, got -3; "),
    (lambda: s.Step(0.1, step_size=2.5), "Step: step_size must be an integer >= 1, got 2.5; "),
    (lambda: s.Step("0.1", step_size=2), "Step: value must be a finite number, got '0.1'; "),
    (lambda: s.Step(math.nan, step_size=2), "Step: value must be a finite number, got nan; "),
    (
        lambda: s.Exponential(gamma=-0.1),
        "Exponential: gamma must be a finite number >= 0, got -0.1",
    ),
    (
        lambda: s.MultiStep(milestones=[5, 3]),
        "MultiStep: milestones must be in order, got [5, 3]; sort them",
    ),
    (
        lambda: s.MultiStep(milestones=[-5, 3]),
        "MultiStep: milestones[0] must be an integer >= 0, got -5; ",
    ),
    (lambda: s.MultiStep(milestones=5), "MultiStep: milestones must be a list of integers, got 5"),
    (lambda: s.Lambda(factor=0.5), "Lambda: factor must be a callable of the steps done, got 0.5"),
    (lambda: s.Linear(total_iters=0), "Linear: total_iters must be an integer >= 1, got 0; "),
    (lambda: s.Polynomial(power=0), "Polynomial: power must be a finite number > 0, got 0; "),
    (lambda: s.CosineAnnealing(T_max=-1), "CosineAnnealing: T_max must be a finite number >= 1"),
    (
        lambda: s.CosineAnnealingWarmRestarts(T_0=3, T_mult=0),
        "CosineAnnealingWarmRestarts: T_mult must be an integer >= 1, got 0; ",
    ),
    (
        lambda: s.Cyclic(0.1, 0.2, step_size_up=0),
        "Cyclic: step_size_up must be a finite number > 0, got 0; ",
    ),
    (
        lambda: s.Cyclic(0.1, 0.2, step_size_down=-1),
        "Cyclic: step_size_down must be None or a finite number > 0, got -1; ",
    ),
    (
        lambda: s.Cyclic(0.1, 0.2, mode="square"),
        "Cyclic: mode must be one of 'triangular', 'triangular2', 'exp_range', got 'square'; ",
    ),
    (lambda: s.OneCycle(0.1, 0), "OneCycle: total_steps must be an integer >= 1, got 0; "),
    (
        lambda: s.OneCycle(0.1, 10, pct_start=1.5),
        "OneCycle: pct_start must be a finite number >= 0 and <= 1, got 1.5; ",
    ),
    (
        lambda: s.OneCycle(0.1, 10, pct_start=0.7, three_phase=True),
        "OneCycle: pct_start must be a finite number >= 0 and <= 0.5, got 0.7; ",
    ),
    (
        lambda: s.SWAAnneal(swa_lr=0.1, anneal_epochs=-1),
        "SWAAnneal: anneal_epochs must be an integer >= 0, got -1; ",
    ),
    (lambda: s.LinearWarmup(period=0), "LinearWarmup: period must be a finite number >= 1, got 0"),
    (
        lambda: s.UntunedLinearWarmup(beta2=1.0),
        "UntunedLinearWarmup: beta2 must be in [0, 1), got 1.0; ",
    ),
    (lambda: s.REX(total_steps=0), "REX: total_steps must be an integer >= 1, got 0; "),
    (
        lambda: s.WarmupStableDecay(decay=-2),
        "WarmupStableDecay: decay must be an integer >= 0, got -2; ",
    ),
    (
        lambda: s.WarmupStableDecay(decay=2, shape="exponential"),
        "WarmupStableDecay: end must be a finite number > 0, got 0.0; ",
    ),
    (
        lambda: s.knee(explore=8, total=9, warmup=2),
        "knee: total must be >= warmup + explore, 2 + 8, got 9; ",
    ),
    (
        lambda: s.Chebyshev(total_steps=12),
        "Chebyshev: total_steps must be a power of two in the fractal order, got 12; take 16",
    ),
    (
        lambda: s.Chebyshev(total_steps=8, m=2.0),
        "Chebyshev: M must be a finite number >= 2, got 1.0; ",
    ),
    (
        lambda: s.sequential([s.REX(total_steps=3)] * 3, milestones=[4]),
        "sequential: needs one milestone less than schedules, got 1 for 3; ",
    ),
    (
        lambda: s.sequential([s.REX(total_steps=3)] * 3, milestones=[4, 2]),
        "sequential: milestones must be in order, got [4, 2]; sort them",
    ),
    (lambda: s.sequential([], milestones=[]), "sequential: needs one milestone less than"),
    (
        lambda: s.sequential([0.1, s.Constant()], milestones=[4]),
        "sequential: schedules[0] must be a callable of the steps done, got 0.1; ",
    ),
    (lambda: s.chained(), "chained: needs at least one schedule, got none; "),
    (
        lambda: s.chained(s.Constant(), s.OneCycle(0.1, 3)),
        "chained: schedules[1] must be a schedule that steps from the value it finds, got OneCycle",
    ),
    (lambda: s.scale(0.1, 2.0), "scale: schedule must be a callable of the steps done, got 0.1; "),
    (
        lambda: s.scale(s.Constant(), "2"),
        "scale: factor must be a number or a schedule, got '2'; ",
    ),
    (
        lambda: s.ReduceLROnPlateau(factor=1.0),
        "ReduceLROnPlateau: factor must be in [0, 1), got 1.0; ",
    ),
    (
        lambda: s.ReduceLROnPlateau(patience=-1),
        "ReduceLROnPlateau: patience must be an integer >= 0, got -1; ",
    ),
    (
        lambda: s.ReduceLROnPlateau(mode="least"),
        "ReduceLROnPlateau: mode must be one of 'min', 'max', got 'least'; ",
    ),
]


@pytest.mark.parametrize(("make", "text"), BAD, ids=[t.partition(" must")[0] for _, t in BAD])
def test_bad_arguments(make, text):
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_what_is_defined_step_by_step_wants_whole_steps():
    for schedule in (SOME[0], SOME[16]):
        with pytest.raises(TypeError, match=r"only at whole steps known on the host, got 1\.5"):
            schedule(1.5)


def test_a_schedule_s_value_is_checked_as_its_hyperparameter():
    rule = isostep.rule("adam", lr=0.1, betas=(s.Linear(2.0, total_iters=4), 0.99))
    assert rule.at(1)["betas"] == (pytest.approx(2 / 3), 0.99)
    with pytest.raises(
        isostep.DomainError, match=r"^adam: betas\[0\]\(4\) must be in \[0, 1\), got"
    ):
        rule.at(5)


def test_schedules_of_any_hyperparameter():
    lr = s.sequential(
        [s.LinearWarmup(0.1, period=3), s.CosineAnnealing(0.1, T_max=9)], milestones=[3]
    )
    beta, decay = s.OneCycle(0.1, 12).momentum(), s.Exponential(0.3, gamma=0.8)
    backend = isostep.backend("numpy:reference")
    rule = isostep.rule("adamw", lr=lr, betas=(beta, 0.9), eps=1e-3, weight_decay=decay)
    p = np.ones(3)
    state = backend.init(rule, [p])
    q, m, v = np.ones(3), np.zeros(3), np.zeros(3)
    for t, g in enumerate(np.random.default_rng(1).standard_normal((12, 3))):
        backend.step(rule, [p], [g], state)
        b = beta(t)
        m, v = b * m + (1 - b) * g, 0.9 * v + 0.1 * g * g
        q = q - lr(t) * decay(t) * q
        q = q - lr(t) * (m / (1 - b ** (t + 1))) / (np.sqrt(v / (1 - 0.9 ** (t + 1))) + 1e-3)
        np.testing.assert_allclose(p, q, rtol=1e-12, atol=1e-13)


def test_beyond_every_float():
    assert s.Exponential(0.1, gamma=1.1)(10**5) == math.inf
    for step in (math.inf, 10**400):
        with pytest.raises(ValueError, match=r"^Step: the step must be below 2\*\*1024; "):
            s.Step(0.1, step_size=3)(step)


@pytest.mark.parametrize("number", [1, np.float32(0.1), np.float64(0.1), np.int32(2)])
def test_of_whatever_numbers_it_is_made_it_gives_python_s_floats(number):
    made = [
        s.Constant(number, total_iters=2),
        s.MultiStep(number, milestones=[3]),
        s.WarmupStableDecay(number),
        s.OneCycle(number, np.int64(10)),
        s.scale(s.Exponential(number, gamma=0.9), number),
        s.sequential([lambda t: number, lambda t: t], milestones=[3]),
    ]
    for schedule in made:
        assert [type(schedule(t)) for t in (0, 5)] == [float, float]
    assert s.Constant(np.float32(0.1))(0) == float(np.float32(0.1)) * (1 / 3)


def test_one_cycle_s_momentum_is_checked():
    with pytest.raises(ValueError, match=r"^OneCycle\.momentum: base_momentum must be a finite"):
        s.OneCycle(0.1, 10).momentum(0.0, 0.9)
    with pytest.raises(TypeError, match=r"^OneCycle\.momentum: max_momentum must be a finite"):
        s.OneCycle(0.1, 10).momentum(0.8, "0.9")
    with pytest.raises(ValueError, match=r"^scale: factor must be a finite number, got nan; "):
        s.scale(s.Constant(), math.nan)


def test_a_plateau_s_state_and_figures():
    plateau = s.ReduceLROnPlateau(patience=0)
    state = plateau.init(0.1)
    for figure in (np.float32(1.0), np.float64(2.0), 3):
        state = plateau.update(tuple(state), figure)
    assert [type(x) for x in state] == [float, float, int, int]
    assert state.value == pytest.approx(0.001)
    with pytest.raises(TypeError, match=r"^ReduceLROnPlateau: state must come from init"):
        plateau.update(0.1, 1.0)
    with pytest.raises(TypeError, match=r"^ReduceLROnPlateau: figure must be a number, got '1'"):
        plateau.update(state, "1")
