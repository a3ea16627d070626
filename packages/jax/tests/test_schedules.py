"""Schedules under jax.jit, against the host in both precisions, and against optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isostep
import isostep_jax
from isostep import schedules as s

V = 0.3
STEPS = 200

TRACED = {
    "lambda": s.Lambda(V, factor=lambda t: 1.0 / (1.0 + 0.1 * t)),
    "step": s.Step(V, step_size=7, gamma=0.8),
    "step to nothing": s.Step(V, step_size=7, gamma=0.0),
    "multistep": s.MultiStep(V, milestones=[3, 50, 50, 120], gamma=0.4),
    "constant": s.Constant(V, factor=0.7, total_iters=31),
    "linear": s.Linear(V, start_factor=0.2, end_factor=0.9, total_iters=77),
    "exponential": s.Exponential(V, gamma=0.97),
    "polynomial": s.Polynomial(V, total_iters=150, power=2.5),
    "cosine": s.CosineAnnealing(V, T_max=60, eta_min=0.02),
    "restarts": s.CosineAnnealingWarmRestarts(V, T_0=13, eta_min=0.02),
    "longer restarts": s.CosineAnnealingWarmRestarts(V, T_0=5, T_mult=3, eta_min=0.02),
    "cyclic": s.Cyclic(0.1, 0.4, step_size_up=7, step_size_down=13, mode="triangular2"),
    "cyclic fading": s.Cyclic(0.1, 0.4, step_size_up=9, mode="exp_range", gamma=0.98),
    "one cycle": s.OneCycle(0.5, 150, pct_start=0.37),
    "one cycle of three": s.OneCycle(0.5, 150, three_phase=True, anneal_strategy="linear"),
    "momentum": s.OneCycle(0.5, 150).momentum(),
    "swa": s.SWAAnneal(V, swa_lr=0.05, anneal_epochs=40),
    "swa at once": s.SWAAnneal(V, swa_lr=0.05, anneal_epochs=0),
    "warmup": s.LinearWarmup(V, period=40),
    "untuned": s.UntunedLinearWarmup(V, beta2=0.98),
    "inverse square root": s.InverseSquareRoot(V, warmup=40),
    "rex": s.REX(V, total_steps=170),
    "wsd": s.WarmupStableDecay(V, warmup=20, stable=50, decay=70, shape="1-sqrt", end=0.1),
    "wsd exponential": s.WarmupStableDecay(V, warmup=20, decay=70, shape="exponential", end=0.1),
    "knee": s.knee(V, explore=90, total=180),
    "chebyshev": s.Chebyshev(V, total_steps=64),
    "sequential": s.sequential(
        [s.Linear(V, total_iters=20), s.CosineAnnealing(V, T_max=90), lambda t: 0.1 + 0.0 * t],
        milestones=[20, 110],
    ),
    "chained": s.chained(s.Exponential(V, gamma=0.98), s.MultiStep(milestones=[60], gamma=0.5)),
    "scaled": s.scale(s.Exponential(V, gamma=0.98), s.CosineAnnealing(T_max=60)),
    "decay": s.RestartCosineInternalDecay(150, 4, 3),
}


@pytest.mark.parametrize("wide", [True, False], ids=["x64", "float32"])
@pytest.mark.parametrize("name", TRACED)
def test_traced_equals_the_host(name, wide):
    schedule = TRACED[name]
    wanted = [schedule(t) for t in range(STEPS)]
    with jax.enable_x64(wide):
        run = jax.jit(schedule)
        found = [run(jnp.asarray(t)) for t in range(STEPS)]
        # the steps as a rule's transformation gives them
        floats = [
            run(jnp.asarray(t, jnp.float64 if wide else jnp.float32)) for t in range(0, STEPS, 7)
        ]
    assert {x.dtype for x in found} == {jnp.dtype("float64" if wide else "float32")}
    assert {x.shape for x in found} == {()}
    # float32: the cosine of pi t / T in its own rounding, against a value of at most 0.5
    tolerance = {"rtol": 1e-12, "atol": 1e-13} if wide else {"rtol": 2e-6, "atol": 2e-7}
    np.testing.assert_allclose(np.array(found), wanted, **tolerance)
    np.testing.assert_allclose(np.array(floats), wanted[::7], **tolerance)


def test_what_is_defined_step_by_step_says_so_under_jit():
    for schedule in (
        s.Multiplicative(V, factor=lambda t: 0.9),
        s.chained(s.Exponential(V, gamma=0.9), s.CosineAnnealing(T_max=9)),
    ):
        with pytest.raises(TypeError, match="only at whole steps known on the host"):
            jax.jit(schedule)(3)


STAIRS = {10: 0.5, 60: 0.2, 61: 3.0}
# optax's schedule, ours
OPTAX = {
    "constant": (optax.constant_schedule(V), s.Linear(V, start_factor=1.0)),
    "linear": (
        optax.linear_schedule(0.06, V, 50),
        s.Linear(V, start_factor=0.2, total_iters=50),
    ),
    "polynomial": (
        optax.polynomial_schedule(V, 0.0, 3, 150),
        s.Polynomial(V, total_iters=150, power=3),
    ),
    "delayed": (
        optax.polynomial_schedule(V, 0.0, 2, 50, transition_begin=30),
        s.sequential([lambda t: V, s.Polynomial(V, total_iters=50, power=2)], milestones=[30]),
    ),
    "piecewise": (
        optax.piecewise_constant_schedule(V, STAIRS),
        s.chained(
            s.Exponential(V, gamma=1.0),
            *(s.MultiStep(milestones=[m], gamma=g) for m, g in STAIRS.items()),
        ),
    ),
    "exponential": (
        optax.exponential_decay(V, 20, 0.5),
        s.Exponential(V, gamma=0.5**0.05),
    ),
    "staircase": (
        optax.exponential_decay(V, 20, 0.5, staircase=True),
        s.Step(V, step_size=20, gamma=0.5),
    ),
    "cosine": (
        optax.cosine_decay_schedule(V, 90, alpha=0.1),
        s.WarmupStableDecay(V, decay=90, shape="cosine", end=0.1),
    ),
    "warmup cosine": (
        optax.warmup_cosine_decay_schedule(0.03, V, 20, 110, 0.006),
        s.WarmupStableDecay(V, warmup=20, decay=90, shape="cosine", start=0.1, end=0.02),
    ),
    "warmup constant": (
        optax.warmup_constant_schedule(0.03, V, 20),
        s.WarmupStableDecay(V, warmup=20, start=0.1),
    ),
    "warmup exponential": (
        optax.warmup_exponential_decay_schedule(0.03, V, 20, 15, 0.6),
        s.sequential(
            [
                s.Linear(V, start_factor=0.1, total_iters=20),
                s.Exponential(V, gamma=0.6 ** (1 / 15)),
            ],
            milestones=[20],
        ),
    ),
    "sgdr": (
        optax.sgdr_schedule(
            [
                {"init_value": 0.0, "peak_value": V, "decay_steps": 50, "warmup_steps": 10},
                {"init_value": 0.1, "peak_value": 0.2, "decay_steps": 90, "warmup_steps": 5},
            ]
        ),
        s.sequential(
            [
                s.WarmupStableDecay(V, warmup=10, decay=40, shape="cosine"),
                s.WarmupStableDecay(0.2, warmup=5, decay=85, shape="cosine", start=0.5),
            ],
            milestones=[50],
        ),
    ),
    "joined": (
        optax.join_schedules(
            [optax.linear_schedule(0.0, V, 30), optax.exponential_decay(V, 10, 0.7)], [30]
        ),
        s.sequential(
            [s.trapezoid(V, warmup=30, stable=0, decay=0), s.Exponential(V, gamma=0.7**0.1)],
            milestones=[30],
        ),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_equals_optax(name):
    theirs, ours = OPTAX[name]
    with jax.enable_x64(True):
        wanted = [float(theirs(jnp.asarray(t))) for t in range(STEPS)]
    np.testing.assert_allclose([ours(t) for t in range(STEPS)], wanted, rtol=1e-12, atol=1e-13)


def test_a_plateau_under_jit():
    plateau = s.ReduceLROnPlateau(factor=0.7, patience=2, threshold=0.05, cooldown=1, min_lr=1e-2)
    figures = 2.0 + 0.5 * np.random.default_rng(2).standard_normal(60)
    with jax.enable_x64(True):
        update = jax.jit(plateau.update)
        host = plateau.init(V)
        device = jax.tree.map(jnp.asarray, host)
        for figure in figures:
            host, device = plateau.update(host, float(figure)), update(device, figure)
            assert [float(x) for x in device] == pytest.approx(list(host), rel=1e-14)
    assert host.value < 0.1


HYPER = {
    "lr": s.sequential([s.LinearWarmup(0.1, period=3), s.REX(0.1, total_steps=9)], milestones=[3]),
    "betas": (s.OneCycle(0.1, 12).momentum(), 0.9),
    "eps": 1e-3,
    "weight_decay": s.Exponential(0.3, gamma=0.8),
}


def test_a_rule_s_hyperparameters_follow_schedules():
    rule = isostep.rule("adamw", **HYPER)
    host, device = isostep.backend("numpy:reference"), isostep.backend("jax:jit")
    grads = np.random.default_rng(1).standard_normal((12, 3))
    p, q = [np.ones(3)], [device.asarray(np.ones(3))]
    a, b = host.init(rule, p), device.init(rule, q)
    with jax.enable_x64(True):
        tx = isostep_jax.adamw(**HYPER)
        tree = {"w": jnp.ones(3)}
        state = tx.init(tree)
        update = jax.jit(tx.update)
    for g in grads:
        host.step(rule, p, [g], a)
        q, b = device.step(rule, q, [device.asarray(g)], b)
        np.testing.assert_allclose(device.to_numpy(q[0]), p[0], rtol=1e-12, atol=1e-13)
        with jax.enable_x64(True):
            u, state = update({"w": jnp.asarray(g)}, state, tree)
            tree = jax.tree.map(jnp.add, tree, u)
        np.testing.assert_allclose(np.array(tree["w"]), p[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("T", [355, 49, 98, 1000])
def test_where_the_decays_end_under_jit(T):
    # 0.5 * 355 / 355 is below 0.5 where XLA multiplies by a rounded inverse
    for n in (0.5, 1, 2, 3.5):
        for kind in (s.RestartCosineInternalDecay, s.CosineInternalDecay):
            schedule = kind(T, n, zero_after=n)
            steps = range(T - 2, T + 2)
            found = jax.jit(jax.vmap(schedule))(jnp.asarray(steps, jnp.float32))
            assert [x == 0 for x in found.tolist()] == [t >= T for t in steps]
            assert [schedule(t) == 0 for t in steps] == [t >= T for t in steps]


def test_late_steps_of_a_cosine_under_jit():
    schedule = s.CosineAnnealing(0.1, T_max=98, eta_min=0.01)
    steps = [100_000, 123_457, 1_000_003]
    found = jax.jit(jax.vmap(schedule))(jnp.asarray(steps, jnp.int32))
    np.testing.assert_allclose(found, [schedule(t) for t in steps], rtol=2e-6)


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (jnp.ones(1), "float32 (1,)"),  # the update of a leaf without axes would have one
        (np.ones((1, 1), np.float32), "float32 (1, 1)"),
        ([0.1], "float32 (1,)"),
        (None, "NoneType"),
        ("0.1", "str"),
        (True, "bool ()"),
        (1j, "complex64 ()"),
    ],
)
def test_what_is_not_one_number_is_one_line(given, got):
    tx = isostep_jax.adam(0.1, betas=(0.9, lambda done: given))
    params = {"s": jnp.float32(1.0), "v": jnp.ones(3)}
    for call in (tx.update, jax.jit(tx.update)):
        with pytest.raises(isostep.DomainError) as caught:
            call(params, isostep_jax.adam().init(params), params)
        assert str(caught.value) == (
            f"adam: betas must be one real number at every step, got {got} of its schedule"
        )
