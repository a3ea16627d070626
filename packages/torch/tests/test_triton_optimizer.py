"""Optimizer classes on ``torch:fused(cuda)``: when it is chosen, and what it does, in Triton's interpreter."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import isostep_torch
from isostep_torch import paths

pytest.importorskip("triton", reason="needs triton, which runs the kernels")

from isostep.state import StepError
from isostep_torch import fused_traced
from isostep_torch.fused_cuda import TorchInterpreter, TorchTriton
from isostep_torch.fused_traced import TracedInterpreter

pytestmark = pytest.mark.whole  # triton comes with every package together
ON = {
    d: SimpleNamespace(device=torch.device(d), is_cpu=d == "cpu")
    for d in ("cuda:0", "cuda:1", "cpu", "meta")
}


def choice(*devices, **options):
    group = {**paths.OPTIONS, **options}
    params = [ON[d] for d in devices]
    return paths.path_of(group, params), paths.why(group, params)


def test_cuda_tensors_take_the_fused_path():
    assert choice("cuda:0", "cuda:0") == ("torch:fused(cuda)", "CUDA tensors")
    assert choice("cuda:0", capturable=True) == ("torch:fused(cuda)", "capturable")
    assert choice("cuda:0", fused=True)[0] == "torch:fused(cuda)"
    assert choice("cuda:0", fused=False)[0] == "torch:foreach"
    assert choice("cuda:0", foreach=True)[0] == "torch:foreach"
    assert choice("cuda:0", differentiable=True)[0] == "torch:loop"


def test_tensors_of_several_devices_take_foreach():
    assert choice("cuda:0", "cuda:1") == ("torch:foreach", "other tensors")
    assert choice("cuda:0", "cpu")[0] == "torch:foreach"
    with pytest.raises(
        ValueError, match=r"of one CUDA device with triton installed, .*; use foreach"
    ):
        choice("cuda:0", "cuda:1", fused=True)


def test_kernels_take_tensors_of_one_device():
    there = [
        SimpleNamespace(device=torch.device(d), layout=torch.strided) for d in ("cuda:0", "cuda:1")
    ]
    takes = TorchTriton().all_reachable
    assert takes([there[0], there[0]])
    assert takes([])
    assert not takes(there)
    assert not takes([there[0], ON["cpu"]])


def test_without_triton_the_path_says_so(monkeypatch):
    monkeypatch.setattr(paths, "_has", lambda module: module != "triton")
    assert choice("cuda:0") == ("torch:foreach", "CUDA tensors, and triton is not installed")


@pytest.fixture
def interpreted(monkeypatch):
    """CPU tensors in place of CUDA's."""

    def make(path, group):
        assert path == "torch:fused(cuda)"
        return TracedInterpreter() if paths.traced(group) else TorchInterpreter()

    monkeypatch.setattr(paths, "_on_cuda", lambda params: True)
    monkeypatch.setattr(paths, "_on_cpu", lambda params: False)
    monkeypatch.setattr(paths, "make", make)


def networks():
    torch.manual_seed(0)
    ours = torch.nn.Linear(5, 3)
    theirs = torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def train(network, optimizer, steps=4, scale=None):
    for k in range(steps):
        optimizer.zero_grad()
        x = torch.linspace(-1, 1, 10).reshape(2, 5) + k
        loss = network(x).square().sum()
        (loss * scale if scale is not None else loss).backward()
        optimizer.step()


@pytest.mark.parametrize("capturable", [False, True])
def test_adamw_is_torchs(interpreted, capturable):
    ours, theirs = networks()
    settings = {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True}
    lr = torch.tensor(0.05) if capturable else 0.05
    mine = isostep_torch.AdamW(ours.parameters(), lr=lr, capturable=capturable, **settings)
    assert mine.path.startswith("torch:fused(cuda): ")
    train(ours, mine)
    train(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.05, **settings))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)
    assert [float(own["step"]) for own in mine.state.values()] == [4.0, 4.0]


def test_a_scaler_is_heard_in_the_kernels(interpreted):
    ours, theirs = networks()
    mine = isostep_torch.AdamW(ours.parameters(), lr=0.05, capturable=True)
    assert mine._step_supports_amp_scaling
    mine.grad_scale, mine.found_inf = torch.tensor(512.0), torch.tensor(0.0)
    train(ours, mine, scale=512.0)
    other = isostep_torch.AdamW(theirs.parameters(), lr=0.05, capturable=True)
    train(theirs, other)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    kept = [p.detach().clone() for p in ours.parameters()]
    mine.found_inf = torch.tensor(1.0)
    train(ours, mine, steps=1, scale=512.0)
    assert all(map(torch.equal, ours.parameters(), kept))
    assert {float(own["step"]) for own in mine.state.values()} == {4.0}


def test_what_a_graph_copies_from_is_never_written_again(monkeypatch):
    """Capture as the host sees it: gradients of a captured backward pass lie elsewhere than those before."""
    now = False
    monkeypatch.setattr(fused_traced, "capturing", lambda place: now)
    device = fused_traced._Device(torch.device("cpu"))
    table = device.buffer(3, "int64")
    now = True
    with pytest.raises(StepError, match="captures a step of a new kind"):
        device.upload(table, np.arange(3))
    now = False
    device.upload(table, np.arange(3))
    now = True
    device.upload(table, np.arange(3) + 5)
    assert table.tolist() == [5, 6, 7]
    now = False
    device.upload(table, np.arange(3) + 9)
    assert table.tolist() == [9, 10, 11]
    now = True
    for _ in range(2):  # another graph, and one more that needs the same
        device.upload(table, np.arange(3) + 7)
    (sources,) = device._sources.values()
    assert [source.tolist() for source in sources] == [[5, 6, 7], [7, 8, 9]]
