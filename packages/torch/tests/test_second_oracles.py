"""SAM, ASAM and PCGrad against pytorch_optimizer, where it is installed."""

import random

import pytest
import torch

from isostep_torch import second

oracle = pytest.importorskip("pytorch_optimizer", reason="the oracle of these tests")


def problem():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)
    ).double()
    return net, torch.randn(16, 4, dtype=torch.float64), torch.randn(16, 1, dtype=torch.float64)


def exact_norm(groups, weight_adaptive):
    """The package's squared norm, which it holds in float32, in float64."""
    assert weight_adaptive
    return sum(
        (p.grad * (p.detach().abs() if g["adaptive"] else 1.0)).square().sum()
        for g in groups
        for p in g["params"]
    ).reshape(1)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam(adaptive, monkeypatch):
    monkeypatch.setattr("pytorch_optimizer.optimizer.sam.get_global_gradient_norm", exact_norm)
    (a, x, y), (b, _, _) = problem(), problem()
    mine = second.SAM(torch.optim.AdamW(a.parameters(), lr=0.02, eps=1e-3), 0.3, adaptive=adaptive)
    theirs = oracle.SAM(
        b.parameters(), torch.optim.AdamW, rho=0.3, adaptive=adaptive, lr=0.02, eps=1e-3
    )

    def closure(net, optimizer):
        def run():
            optimizer.zero_grad()
            loss = (net(x) - y).square().mean()
            loss.backward()
            return loss

        return run

    for _ in range(20):
        mine.step(closure(a, mine))
        closure(b, theirs)()
        theirs.step(closure(b, theirs))
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_pcgrad(reduction, monkeypatch):
    net, x, y = problem()
    params = list(net.parameters())
    # Its random order made ours: as numbered. It projects each on its own gradient as well, which does nothing.
    monkeypatch.setattr(random, "shuffle", lambda items: None)
    out = net(x)
    losses = [out.mean(), -out.square().mean(), (out - y).square().mean(), -(out * y).mean()]
    wrapped = oracle.PCGrad(torch.optim.SGD(params, lr=0.1), reduction=reduction)
    wrapped.pc_backward(losses)
    wanted = [p.grad.clone() for p in params]
    second.pcgrad(losses, params, reduction=reduction)
    for p, w in zip(params, wanted, strict=True):
        torch.testing.assert_close(p.grad, w, rtol=1e-10, atol=1e-12)
