"""What torch asks of each of its optimizers (OptimizerInfo), asked of every rule on every path."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

import isostep
from isostep_torch import load_optimizer

pytestmark = pytest.mark.whole  # not for want of a package: minutes of work, and once is enough

PATHS = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"fused": False, "foreach": False},
}
RULES = isostep.rules()
EVERY = [(name, path) for name in RULES for path in PATHS]
BOUND = {torch.float64: 1e-11, torch.float32: 2e-5}


def parameters(name, shapes=((4, 3), (6,), (), (0,), (2, 3, 2)), dtypes=(torch.float64,)):
    """Parameters of every shape that the rule takes, one dtype after the other; the first is strided."""
    ndim = isostep.definition(name).ndim
    fit = [s for s in shapes if ndim is None or len(s) in ndim]
    torch.manual_seed(0)
    made = [torch.randn(s, dtype=torch.float64) for s in fit for _ in dtypes]
    made = [p.to(dtypes[k % len(dtypes)]) for k, p in enumerate(made)]
    made[0] = made[0].T.contiguous().T
    assert not made[0].is_contiguous()
    return [torch.nn.Parameter(p) for p in made]


def fill(params, k, skip=()):
    torch.manual_seed(100 + k)
    for place, p in enumerate(params):
        g = torch.randn(p.shape, dtype=torch.float64).to(p.dtype)
        p.grad = None if place in skip else g


def step(name, optimizer, params):
    own = isostep.definition(name)
    given = {p: p.grad.abs() + 0.1 for p in params if p.grad is not None}
    optimizer.step(**dict.fromkeys(own.inputs, given), **dict.fromkeys(own.group_inputs, 0.7))


def groups(params):
    """Two groups, of which the second has a learning rate of its own and ascends."""
    return [{"params": params[::2]}, {"params": params[1::2], "lr": 0.005, "maximize": True}]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("name", "path"), [e for e in EVERY if e[1] != "loop"])
def test_every_path_is_the_loop(name, path):
    """Two groups of mixed dtypes, strided, 0-d and empty parameters; some without a gradient now and then."""
    dtypes = (torch.float64, torch.float32)
    made = [parameters(name, dtypes=dtypes) for _ in range(2)]
    optimizers = [
        load_optimizer(name)(groups(ps), lr=0.01, **PATHS[p])
        for ps, p in zip(made, (path, "loop"), strict=True)
    ]
    for k in range(6):
        for ps, optimizer in zip(made, optimizers, strict=True):
            fill(ps, k, skip=(1, 2) if k in (0, 3) else ())
            before = [None if p.grad is None else p.grad.clone() for p in ps]
            step(name, optimizer, ps)
            for p, g in zip(ps, before, strict=True):
                assert g is None or torch.equal(p.grad, g)
        for a, b in zip(*made, strict=True):
            bound = BOUND[a.dtype]
            torch.testing.assert_close(a, b, rtol=bound, atol=bound)
            assert set(optimizers[0].state[a]) == set(optimizers[1].state[b])
            for n, value in optimizers[1].state[b].items():
                found = optimizers[0].state[a][n]
                assert found.dtype is value.dtype
                scale = float(value.abs().max()) if value.numel() else 0.0
                torch.testing.assert_close(found, value, rtol=bound, atol=bound * scale)
    skipped = [optimizers[0].state[p]["step"].item() for p in made[0][:4]]
    assert skipped == [6, 4, 4, 6][: len(skipped)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("name", "path"), EVERY)
def test_it_goes_down_and_maximize_goes_up(name, path):
    """A linear loss must fall, and with maximize the same steps are taken for the loss turned over."""
    ndim = isostep.definition(name).ndim
    shape = (4, 3) if ndim else (6,)
    slope = torch.linspace(0.5, 1.5, 12 if ndim else 6, dtype=torch.float64).reshape(shape)
    ends = []
    for sign, up in ((1, False), (-1, True)):
        p = torch.nn.Parameter(torch.ones(shape, dtype=torch.float64))
        optimizer = load_optimizer(name)([p], lr=0.01, maximize=up, **PATHS[path])
        losses = []
        for _ in range(14):  # adashift waits ten steps before its first
            optimizer.zero_grad()
            (loss := (slope * p).sum() * sign).backward()
            losses.append(loss.item())
            step(name, optimizer, [p])
        ends.append(p.detach())
        assert (losses[0] > losses[-1]) == (not up)
    assert torch.equal(*ends)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("name", "path"), EVERY)
def test_saving_pickling_and_copying_go_on_with_the_same_bits(name, path):
    params = parameters(name, dtypes=(torch.float32,))
    optimizer = load_optimizer(name)(groups(params), lr=0.01, **PATHS[path])
    for k in range(3):
        fill(params, k)
        step(name, optimizer, params)
    copies = [copy.deepcopy((params, optimizer)), pickle.loads(pickle.dumps((params, optimizer)))]
    twins = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = load_optimizer(name)(groups(twins), lr=0.5)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    copies.append((twins, other))
    for k in range(3, 5):
        for ps, opt in [(params, optimizer), *copies]:
            fill(ps, k)
            step(name, opt, ps)
    for ps, opt in copies:
        for a, b in zip(params, ps, strict=True):
            assert torch.equal(a, b)
            assert set(optimizer.state[a]) == set(opt.state[b])
            assert all(torch.equal(v, opt.state[b][n]) for n, v in optimizer.state[a].items())


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("name", "path"), EVERY)
def test_gradients_of_zero_and_none_and_nothing_at_all(name, path):
    params = parameters(name, dtypes=(torch.float32,))
    optimizer = load_optimizer(name)(params, lr=0.01, **PATHS[path])
    before = [p.detach().clone() for p in params]
    optimizer.step(**{n: {} for n in isostep.definition(name).inputs})
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    assert not optimizer.state
    for _ in range(2):
        for p in params:
            p.grad = torch.zeros_like(p)
        step(name, optimizer, params)
    assert all(p.isfinite().all() for p in params)
    with pytest.raises(ValueError, match="empty parameter list"):
        load_optimizer(name)([], lr=0.01)


@pytest.mark.parametrize("path", PATHS)
def test_half_precision_beside_others(path):
    kinds = (torch.bfloat16, torch.float16, torch.float64)
    made = [parameters("adamw", dtypes=kinds) for _ in range(2)]
    optimizers = [
        load_optimizer("adamw")(ps, lr=0.01, **PATHS[p])
        for ps, p in zip(made, (path, "loop"), strict=True)
    ]
    for k in range(3):
        for ps, optimizer in zip(made, optimizers, strict=True):
            fill(ps, k)
            optimizer.step()
    for a, b in zip(*made, strict=True):
        spacing = torch.finfo(a.dtype).eps if a.dtype is not torch.float64 else 1e-11
        torch.testing.assert_close(a, b, rtol=spacing, atol=spacing)


def test_other_devices_take_foreach():
    """Chosen by where the tensors are: what is neither CPU nor offered a kernel is foreach's."""
    p = torch.nn.Parameter(torch.ones(2, device="meta"))
    assert load_optimizer("adam")([p]).path.startswith("torch:foreach: other tensors")
    with pytest.raises(ValueError, match="fused=True runs on"):
        _ = load_optimizer("adam")([p], fused=True).path
