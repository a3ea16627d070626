"""Schedules that torch has not, against pytorch_optimizer, where it is installed."""

import numpy as np
import pytest
import torch

from isostep import schedules as s

oracle = pytest.importorskip("pytorch_optimizer", reason="the oracle of these tests")


def lrs(make, steps):
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler, found = make(opt), []
    for _ in range(steps):
        found.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("T", [8, 16, 128])
def test_the_fractal_order(T):
    wanted = oracle.lr_scheduler.chebyshev.get_chebyshev_perm_steps(T)
    schedule = s.Chebyshev(0.3, total_steps=T)
    np.testing.assert_allclose([schedule(t) for t in range(T)], 0.3 * wanted, rtol=1e-13)


@pytest.mark.parametrize("T", [4, 32, 64])
def test_the_fractal_steps_are_the_authors_of_ranger21(T):
    authors = pytest.importorskip("ranger21.ranger21", reason="the oracle of this test")
    wanted = authors.cheb_steps(0.1, 1, T)[authors.cheb_perm(T)]
    schedule = s.Chebyshev(0.3, total_steps=T, m=0.1, M=1.0)
    np.testing.assert_allclose([schedule(t) for t in range(2 * T)], 0.3 * np.tile(wanted, 2), rtol=1e-13)


@pytest.mark.parametrize("shape", ["linear", "cosine", "1-sqrt", "1-square"])
def test_warmup_stable_decay(shape):
    wanted = lrs(lambda o: oracle.get_wsd_schedule(o, 20, 50, 70, cooldown_type=shape), 200)
    schedule = s.WarmupStableDecay(0.3, warmup=20, stable=50, decay=70, shape=shape)
    np.testing.assert_allclose([schedule(t) for t in range(200)], wanted, rtol=1e-12, atol=1e-15)
