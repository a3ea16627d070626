"""Every scheduler of torch.optim.lr_scheduler, step by step, and schedules as torch hyperparameters."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler, swa_utils

import isostep
from isostep import schedules as s
from isostep_torch import from_rule

STEPS = 200
V = 0.3


def optimizer(lr=V):
    return torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=lr, betas=(0.9, 0.99))


def lrs(opt, scheduler, steps=STEPS, key=lambda group: group["lr"]):
    """What torch sets before each of the steps."""
    found = []
    for _ in range(steps):
        found.append(float(key(opt.param_groups[0])))
        opt.step()
        scheduler.step()
    return found


def lam(t):
    return 0.95**t * (1.5 + math.sin(t))


# name: torch's scheduler of an optimizer, ours. Settings off the defaults, events within the 200 steps.
CASES = {
    "lambda": (lambda o: lr_scheduler.LambdaLR(o, lam), s.Lambda(V, factor=lam)),
    "multiplicative": (
        lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.98 + 0.01 * (t % 3)),
        s.Multiplicative(V, factor=lambda t: 0.98 + 0.01 * (t % 3)),
    ),
    "step": (lambda o: lr_scheduler.StepLR(o, 7, 0.8), s.Step(V, step_size=7, gamma=0.8)),
    "multistep": (
        lambda o: lr_scheduler.MultiStepLR(o, [3, 50, 50, 120], 0.4),
        s.MultiStep(V, milestones=[3, 50, 50, 120], gamma=0.4),
    ),
    "constant": (
        lambda o: lr_scheduler.ConstantLR(o, 0.7, 31),
        s.Constant(V, factor=0.7, total_iters=31),
    ),
    "linear": (
        lambda o: lr_scheduler.LinearLR(o, 0.2, 0.9, 77),
        s.Linear(V, start_factor=0.2, end_factor=0.9, total_iters=77),
    ),
    "exponential": (lambda o: lr_scheduler.ExponentialLR(o, 0.97), s.Exponential(V, gamma=0.97)),
    "polynomial": (
        lambda o: lr_scheduler.PolynomialLR(o, 150, 2.5),
        s.Polynomial(V, total_iters=150, power=2.5),
    ),
    "cosine": (
        lambda o: lr_scheduler.CosineAnnealingLR(o, 60, 0.02),
        s.CosineAnnealing(V, T_max=60, eta_min=0.02),
    ),
    "restarts": (
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 13, 1, 0.02),
        s.CosineAnnealingWarmRestarts(V, T_0=13, eta_min=0.02),
    ),
    "longer restarts": (
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 3, 0.02),
        s.CosineAnnealingWarmRestarts(V, T_0=5, T_mult=3, eta_min=0.02),
    ),
    "cyclic": (
        lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.4, 7, 13),
        s.Cyclic(0.1, 0.4, step_size_up=7, step_size_down=13),
    ),
    "cyclic halving": (
        lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.4, 9, mode="triangular2"),
        s.Cyclic(0.1, 0.4, step_size_up=9, mode="triangular2"),
    ),
    "cyclic fading": (
        lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.4, 9, mode="exp_range", gamma=0.98),
        s.Cyclic(0.1, 0.4, step_size_up=9, mode="exp_range", gamma=0.98),
    ),
    "cyclic by hand": (
        lambda o: lr_scheduler.CyclicLR(
            o, 0.1, 0.4, 9, scale_fn=lambda x: 1 / (5**x * 0.01), scale_mode="cycle"
        ),
        s.Cyclic(0.1, 0.4, step_size_up=9, scale_fn=lambda x: 1 / (5**x * 0.01)),
    ),
    "cyclic by hand of steps": (
        lambda o: lr_scheduler.CyclicLR(
            o, 0.1, 0.4, 9, scale_fn=lambda x: 0.9**x, scale_mode="iterations"
        ),
        s.Cyclic(0.1, 0.4, step_size_up=9, scale_fn=lambda x: 0.9**x, scale_mode="iterations"),
    ),
    "one cycle": (
        lambda o: lr_scheduler.OneCycleLR(o, 0.5, 201, pct_start=0.37, div_factor=7),
        s.OneCycle(0.5, 201, pct_start=0.37, div_factor=7),
    ),
    "one cycle straight": (
        lambda o: lr_scheduler.OneCycleLR(
            o, 0.5, 201, anneal_strategy="linear", final_div_factor=30
        ),
        s.OneCycle(0.5, 201, anneal_strategy="linear", final_div_factor=30),
    ),
    "one cycle of three": (
        lambda o: lr_scheduler.OneCycleLR(o, 0.5, 201, pct_start=0.4, three_phase=True),
        s.OneCycle(0.5, 201, pct_start=0.4, three_phase=True),
    ),
    "one cycle at once down": (
        lambda o: lr_scheduler.OneCycleLR(o, 0.5, 201, pct_start=0.0),
        s.OneCycle(0.5, 201, pct_start=0.0),
    ),
    "swa": (
        lambda o: swa_utils.SWALR(o, 0.05, 40),
        s.SWAAnneal(V, swa_lr=0.05, anneal_epochs=40),
    ),
    "swa straight": (
        lambda o: swa_utils.SWALR(o, 0.05, 40, "linear"),
        s.SWAAnneal(V, swa_lr=0.05, anneal_epochs=40, anneal_strategy="linear"),
    ),
    "swa at once": (
        lambda o: swa_utils.SWALR(o, 0.05, 0),
        s.SWAAnneal(V, swa_lr=0.05, anneal_epochs=0),
    ),
    "chained": (
        lambda o: lr_scheduler.ChainedScheduler(
            [
                lr_scheduler.ConstantLR(o, 0.4, 25),
                lr_scheduler.ExponentialLR(o, 0.98),
                lr_scheduler.MultiStepLR(o, [60, 100], 0.5),
                lr_scheduler.LinearLR(o, 0.3, 0.8, 90),
            ]
        ),
        s.chained(
            s.Constant(V, factor=0.4, total_iters=25),
            s.Exponential(gamma=0.98),
            s.MultiStep(milestones=[60, 100], gamma=0.5),
            s.Linear(start_factor=0.3, end_factor=0.8, total_iters=90),
        ),
    ),
    "chained annealing": (  # past T_max, where a product would differ
        lambda o: lr_scheduler.ChainedScheduler(
            [
                lr_scheduler.ExponentialLR(o, 0.99),
                lr_scheduler.CosineAnnealingLR(o, 70, 0.03),
                lr_scheduler.MultiplicativeLR(o, lambda t: 1.0 - 0.01 * (t % 2)),
            ]
        ),
        s.chained(
            s.Exponential(V, gamma=0.99),
            s.CosineAnnealing(T_max=70, eta_min=0.03),
            s.Multiplicative(factor=lambda t: 1.0 - 0.01 * (t % 2)),
        ),
    ),
    "sequential": (
        lambda o: lr_scheduler.SequentialLR(
            o,
            [
                lr_scheduler.LinearLR(o, 0.1, 1.0, 20),
                lr_scheduler.CosineAnnealingLR(o, 100, 0.01),
                lr_scheduler.ExponentialLR(o, 0.9),
            ],
            [20, 140],
        ),
        s.sequential(
            [
                s.Linear(V, start_factor=0.1, total_iters=20),
                s.CosineAnnealing(V, T_max=100, eta_min=0.01),
                s.Exponential(V, gamma=0.9),
            ],
            milestones=[20, 140],
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_torch_over_200_steps(name):
    make, schedule = CASES[name]
    opt = optimizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own epoch argument in SequentialLR
        wanted = lrs(opt, make(opt))
    found = [schedule(t) for t in range(STEPS)]
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    assert any(abs(x - V) > 1e-3 for x in found)
    # Pure: any order of calls, and one fresh call in mid-run, give the same to the bit.
    assert [schedule(t) for t in reversed(range(STEPS))] == found[::-1]
    assert copy.deepcopy(schedule)(137) == found[137]


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("sequential", "chained annealing")])
def test_equals_torch_resumed_in_mid_run(name):
    make, schedule = CASES[name]
    first = optimizer()
    scheduler = make(first)
    lrs(first, scheduler, 83)
    second = optimizer()
    again = make(second)
    again.load_state_dict(scheduler.state_dict())
    second.load_state_dict(first.state_dict())
    wanted = lrs(second, again, 60)
    found = [schedule(83 + k) for k in range(60)]
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    ["step", "multistep", "constant", "linear", "exponential", "polynomial", "cosine"],
)
def test_closed_forms_equal_the_chainable_ones(name):
    make, schedule = CASES[name]
    opt = optimizer()
    scheduler = make(opt)
    for t in range(STEPS):
        scheduler.last_epoch = t
        (closed,) = scheduler._get_closed_form_lr()
        assert schedule(t) == pytest.approx(closed, rel=1e-14, abs=1e-15)
    value = schedule(0)
    for t in range(1, STEPS):
        value = schedule.advance(value, t, V)
        assert value == pytest.approx(schedule(t), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("make", "schedule"),
    [
        (
            lambda o: lr_scheduler.CyclicLR(
                o, 0.1, 0.4, 7, 13, base_momentum=0.7, max_momentum=0.95, mode="triangular2"
            ),
            s.Cyclic(0.1, 0.4, step_size_up=7, step_size_down=13, mode="triangular2").momentum(
                0.7, 0.95
            ),
        ),
        (
            lambda o: lr_scheduler.OneCycleLR(o, 0.5, 201, base_momentum=0.7, max_momentum=0.96),
            s.OneCycle(0.5, 201).momentum(0.7, 0.96),
        ),
        (
            lambda o: lr_scheduler.OneCycleLR(
                o, 0.5, 201, three_phase=True, anneal_strategy="linear"
            ),
            s.OneCycle(0.5, 201, three_phase=True, anneal_strategy="linear").momentum(),
        ),
    ],
)
def test_momentum_cycles(make, schedule):
    opt = optimizer()
    wanted = lrs(opt, make(opt), key=lambda group: group["betas"][0])
    assert max(wanted) - min(wanted) > 0.05
    np.testing.assert_allclose([schedule(t) for t in range(STEPS)], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_plateau_equals_torch(mode, threshold_mode):
    settings = {
        "mode": mode,
        "factor": 0.7,
        "patience": 2,
        "threshold": 0.05,
        "threshold_mode": threshold_mode,
        "cooldown": 3,
        "min_lr": 1e-3,
        "eps": 1e-4,
    }
    opt = optimizer()
    scheduler = lr_scheduler.ReduceLROnPlateau(opt, **settings)
    plateau = s.ReduceLROnPlateau(**settings)
    state = plateau.init(V)
    rng = np.random.default_rng(3)
    figures = 2.0 + 0.3 * rng.standard_normal(STEPS) + np.linspace(1, 0, STEPS)
    figures[40] = math.nan
    seen = set()
    for k, figure in enumerate(figures):
        if k == 77:  # resumed: the tuple is all there is
            state = s.PlateauState(*tuple(state))
        scheduler.step(figure)
        state = plateau.update(state, float(figure))
        assert state.value == opt.param_groups[0]["lr"]
        assert (state.best, state.bad, state.cooldown) == (
            scheduler.best,
            scheduler.num_bad_epochs,
            scheduler.cooldown_counter,
        )
        seen.add(state.value)
    assert len(seen) > 5


def test_a_rule_s_hyperparameters_follow_schedules():
    lr, beta, decay = (
        s.OneCycle(0.1, 12),
        s.OneCycle(0.1, 12).momentum(),
        s.Linear(0.3, start_factor=1.0, end_factor=0.1, total_iters=6),
    )
    grads = np.random.default_rng(0).standard_normal((12, 5))
    p = torch.ones(5, dtype=torch.float64, requires_grad=True)
    opt = from_rule(
        isostep.rule("adamw", lr=lr, betas=(beta, 0.9), eps=1e-3, weight_decay=decay), [p]
    )
    q = torch.ones(5, dtype=torch.float64, requires_grad=True)
    other = torch.optim.AdamW([q], eps=1e-3)
    for t, g in enumerate(grads):
        p.grad = torch.tensor(g)
        q.grad = torch.tensor(g)
        group = other.param_groups[0]
        group["lr"], group["betas"], group["weight_decay"] = lr(t), (beta(t), 0.9), decay(t)
        opt.step()
        other.step()
        # torch's bias correction takes this step's beta to the power t, as the rule's does.
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.int64])
@pytest.mark.parametrize(
    "name",
    [
        n
        for n in CASES
        if n not in ("lambda", "multiplicative", "chained annealing", "cyclic by hand")
    ],
)
def test_steps_that_are_tensors(name, kind):
    _, schedule = CASES[name]
    wide = kind is torch.float64
    tolerance = {"rtol": 1e-12, "atol": 1e-13} if wide else {"rtol": 5e-6, "atol": 3e-7}
    for t in (0, 1, 7, 25, 60, 61, 113, 140, 199):
        found = schedule(torch.tensor(t, dtype=kind))
        assert isinstance(found, torch.Tensor)
        assert found.shape == ()
        assert found.dtype is (torch.float64 if wide else torch.float32)
        np.testing.assert_allclose(found.item(), schedule(t), **tolerance)
