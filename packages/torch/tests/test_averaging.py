"""Averages against torch.optim.swa_utils, with a model's weights swapped in and out."""

import pytest
import torch
from torch.optim import swa_utils

import isostep_torch
from isostep import averaging

PATHS = ["torch:loop", "torch:foreach", "torch:fused"]


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 2)
    ).double()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("weight", "theirs"),
    [
        (averaging.equal(), {}),
        (averaging.ema(0.9), {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.9)}),
        (averaging.ema(0.9), {"avg_fn": swa_utils.get_ema_avg_fn(0.9)}),
    ],
)
def test_equals_swa_utils(path, weight, theirs):
    net = model()
    params = list(net.parameters())
    wanted = swa_utils.AveragedModel(net, **theirs)
    average = averaging.Average(path, weight)
    opt = torch.optim.SGD(params, lr=0.1)
    for k in range(25):
        net(torch.randn(8, 4, dtype=torch.float64)).square().mean().backward()
        opt.step()
        opt.zero_grad()
        if k % 2 == 0:
            wanted.update_parameters(net)
            average.update(params)
        for mine, other in zip(average.arrays, wanted.module.parameters(), strict=True):
            torch.testing.assert_close(mine, other.detach(), rtol=1e-13, atol=1e-13)
    assert average.count == int(wanted.n_averaged) == 13


def test_evaluated_with_averages_and_their_own_batch_norm():
    net = model()
    params, buffers = list(net.parameters()), list(net.buffers())
    average = averaging.Average("torch", averaging.equal())
    average.update(params)
    with torch.no_grad():
        params[0].add_(1.0)
    average.update(params)
    net(torch.randn(8, 4, dtype=torch.float64))
    saved = [x.clone() for x in (*params, *buffers)]
    data = [torch.randn(16, 4, dtype=torch.float64) for _ in range(3)]

    def evaluate():
        with average.swapped(params, keep=buffers):
            torch.testing.assert_close(params[0], average.arrays[0])
            assert params[0].requires_grad
            swa_utils.update_bn(data, net)
            assert int(buffers[2]) == 3
            assert not torch.equal(buffers[0], saved[len(params)])
            message = "in the evaluation"
            raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="in the evaluation"):
        evaluate()
    for x, y in zip((*params, *buffers), saved, strict=True):
        assert torch.equal(x, y)
        assert x.dtype == y.dtype
    assert int(buffers[2]) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_evaluation_weights_are_swapped_in_and_out(dtype):
    torch.manual_seed(0)
    p, q = (torch.randn(4).to(dtype).requires_grad_() for _ in range(2))
    statistics = torch.zeros(3)
    options = {"master_weights": True} if dtype is torch.bfloat16 else {}
    optimizer = isostep_torch.ScheduleFreeSGD([p, q], lr=0.3, momentum=0.8, fused=False, **options)
    for _ in range(3):
        p.grad = torch.randn_like(p)
        optimizer.step()
    before = [x.detach().clone() for x in (p, q)]
    own = optimizer.state[p]
    y = own.get("master_weight", p.detach())
    wanted = y + (1 - 1 / 0.8) * (own["z"] - y)  # x of y = momentum * x + (1 - momentum) * z

    def evaluate():
        with optimizer.evaluating(keep=[statistics]):
            torch.testing.assert_close(p.detach(), wanted.to(dtype))
            assert torch.equal(q, before[1])  # it has not been stepped
            statistics.add_(1.0)
            message = "in the evaluation"
            raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="in the evaluation"):
        evaluate()
    assert torch.equal(p, before[0])
    assert p.requires_grad
    assert torch.equal(statistics, torch.zeros(3))
