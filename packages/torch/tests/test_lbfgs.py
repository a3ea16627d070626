"""LBFGS is torch.optim.LBFGS, to the bit: parameters, losses, evaluations and state; and the NumPy form to 1e-10."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch

import isostep
import isostep_torch
from isostep.state import StepError
from isostep_torch import LBFGS


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def valleys(x):
    scales = torch.arange(1, len(x) + 1, dtype=x.dtype)
    return (torch.log1p(x * x) * scales).sum() + torch.sin(x).sum() + 0.01 * (x**4).sum()


def steep(x):
    return (torch.exp(x) - 3 * x).sum() + torch.cos(5 * x[0] * x[1])


def square(x):
    return (x * x).sum()


SETTINGS = [
    {"lr": 0.04},
    {"lr": 0.05, "history_size": 3, "max_iter": 7, "tolerance_change": 1e-4},
    {"line_search_fn": "strong_wolfe"},
    {"line_search_fn": "strong_wolfe", "lr": 0.7, "history_size": 3, "max_iter": 7},
    {"line_search_fn": "strong_wolfe", "lr": 0.01, "max_iter": 4, "max_eval": 6},
    {"line_search_fn": "strong_wolfe", "tolerance_grad": 0.1, "max_iter": 3, "max_eval": 50},
    {"lr": 0.04, "tolerance_grad": -1, "tolerance_change": -1, "max_iter": 9},
]


class Problem:
    """A function of two parameters, an optimizer on it, and how often its closure ran."""

    def __init__(self, kind, function, x, **hyper):
        self.function, self.count = function, 0
        self.params = [x[:5].clone().requires_grad_(), x[5:].reshape(2, 4).clone().requires_grad_()]
        self.optimizer = kind(self.params, **hyper)

    def closure(self):
        self.count += 1
        self.optimizer.zero_grad()
        loss = self.function(torch.cat([p.reshape(-1) for p in self.params]))
        loss.backward()
        return loss

    def step(self):
        return self.optimizer.step(self.closure).item()


def same(a, b):
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return torch.equal(torch.as_tensor(a), torch.as_tensor(b, dtype=torch.as_tensor(a).dtype))
    if isinstance(a, list):
        return len(a) == len(b) and all(itertools.starmap(same, zip(a, b, strict=True)))
    return a == b


def assert_same(ours, torchs):
    assert ours.count == torchs.count
    assert all(map(torch.equal, ours.params, torchs.params))
    own, other = ours.optimizer.state[ours.params[0]], torchs.optimizer.state[torchs.params[0]]
    assert set(other) - set(own) <= {"al"}  # torch's scratch
    for name, value in own.items():
        assert same(value, other[name]), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("function", [rosenbrock, valleys, steep])
@pytest.mark.parametrize("hyper", SETTINGS, ids=range(len(SETTINGS)))
def test_every_iterate_count_and_state_is_torchs(hyper, function, dtype):
    torch.manual_seed(0)
    x = torch.randn(13, dtype=dtype)
    ours, torchs = (Problem(kind, function, x, **hyper) for kind in (LBFGS, torch.optim.LBFGS))
    for _ in range(8):
        assert ours.step() == torchs.step()
        assert_same(ours, torchs)
    assert torchs.count > 15


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_negative_tolerances_end_no_step(search):
    """Not even a gradient of zero does, one over whose size is the length of the first iteration."""
    hyper = {"tolerance_grad": -1, "tolerance_change": -1, "max_iter": 4, "line_search_fn": search}
    x = torch.zeros(13, dtype=torch.float64)
    ours, torchs = (Problem(kind, square, x, **hyper) for kind in (LBFGS, torch.optim.LBFGS))
    for _ in range(2):
        assert ours.step() == torchs.step() == 0
        assert_same(ours, torchs)
    own = np.zeros(13)
    solver = isostep.solvers.lbfgs(**hyper)
    with np.errstate(all="raise"):
        _, (own,), state = solver.step(lambda p: (float(p[0] @ p[0]), [2 * p[0]]), [own])
    assert state.n_iter == 4
    assert not own.any()


@pytest.mark.parametrize("function", [rosenbrock, valleys, steep])
@pytest.mark.parametrize("hyper", SETTINGS, ids=range(len(SETTINGS)))
def test_the_form_for_arrays_is_within_rounding(hyper, function):
    torch.manual_seed(0)
    x = torch.randn(13, dtype=torch.float64)
    torchs = Problem(torch.optim.LBFGS, function, x, **hyper)

    def loss_and_grad(params):
        x = torch.tensor(np.concatenate([p.reshape(-1) for p in params]), requires_grad=True)
        loss = function(x)
        loss.backward()
        return loss.item(), [x.grad[:5].numpy(), x.grad[5:].reshape(2, 4).numpy()]

    solver, state = isostep.solvers.lbfgs(**hyper), None
    params = [x[:5].numpy(), x[5:].reshape(2, 4).numpy()]
    for _ in range(2):  # in a curved valley rounding grows a hundredfold from step to step
        loss, params, state = solver.step(loss_and_grad, params, state)
        np.testing.assert_allclose(loss, torchs.step(), rtol=1e-10)
        for p, q in zip(params, torchs.params, strict=True):
            np.testing.assert_allclose(p, q.detach().numpy(), rtol=0, atol=1e-10)
        own = torchs.optimizer.state[torchs.params[0]]
        assert (state.func_evals, state.n_iter) == (own["func_evals"], own["n_iter"])
        assert len(state.ro) == len(own["ro"])


def test_state_dicts_are_interchangeable_both_ways():
    torch.manual_seed(1)
    x = torch.randn(13, dtype=torch.float64)
    hyper = {"line_search_fn": "strong_wolfe", "max_iter": 3, "lr": 0.5}
    kinds = (LBFGS, torch.optim.LBFGS)
    first = [Problem(kind, valleys, x, **hyper) for kind in kinds]
    for problem in first:
        problem.step()
    crossed = []
    for problem, kind in zip(first, kinds[::-1], strict=True):
        other = Problem(kind, valleys, torch.cat([p.detach().reshape(-1) for p in problem.params]))
        other.optimizer.load_state_dict(copy.deepcopy(problem.optimizer.state_dict()))
        other.count = problem.count
        crossed.append(other)
    again = pickle.loads(pickle.dumps(first[0].optimizer))
    assert again.state_dict()["param_groups"] == first[0].optimizer.state_dict()["param_groups"]
    for _ in range(3):
        assert len({problem.step() for problem in (*first, *crossed)}) == 1
    for ours, torchs in ((first[0], first[1]), (crossed[1], crossed[0])):
        assert_same(ours, torchs)


def test_schedulers_missing_gradients_and_complex_parameters():
    def run(kind):
        z = torch.nn.Parameter(torch.tensor([1 + 2j, -0.5j], dtype=torch.complex128))
        unused = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = kind([z, unused], lr=0.4, max_iter=3)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

        def closure():
            optimizer.zero_grad()
            loss = (z * z - 1).abs().square().sum()
            loss.backward()
            return loss

        losses = []
        for _ in range(3):
            losses.append(optimizer.step(closure).item())
            schedule.step()
        assert torch.equal(unused, torch.ones(3, dtype=torch.float64))
        return torch.view_as_real(z.detach()), losses

    (ours, losses), (torchs, others) = run(LBFGS), run(torch.optim.LBFGS)
    torch.testing.assert_close(ours, torchs, rtol=0, atol=1e-14)
    np.testing.assert_allclose(losses, others, rtol=1e-14)


def test_maximize_goes_up_as_the_other_goes_down():
    x = torch.linspace(-1, 2, 13, dtype=torch.float64)
    hyper = {"line_search_fn": "strong_wolfe", "max_iter": 3}
    down = Problem(LBFGS, valleys, x, **hyper)
    up = Problem(LBFGS, lambda x: -valleys(x), x, maximize=True, **hyper)
    for _ in range(3):
        assert down.step() == -up.step()
    assert all(map(torch.equal, down.params, up.params))
    saved = down.optimizer.state_dict()
    del saved["param_groups"][0]["maximize"]  # of torch's class before 2.14
    up.optimizer.load_state_dict(saved)
    assert not up.optimizer.param_groups[0]["maximize"]


def test_a_tensor_as_lr_is_read_not_kept():
    def run(lr):
        problem = Problem(LBFGS, valleys, torch.linspace(-1, 2, 13), lr=lr, max_iter=3)
        for _ in range(3):
            problem.step()
            problem.optimizer.param_groups[0]["lr"] *= 0.5
        return problem.params

    assert all(map(torch.equal, run(0.25), run(torch.tensor(0.25))))


def test_an_error_leaves_parameters_and_state_as_they_were():
    torch.manual_seed(0)
    problem = Problem(LBFGS, valleys, torch.randn(13), lr=0.1, max_iter=4)
    problem.step()
    before = copy.deepcopy((problem.params, problem.optimizer.state_dict()))

    def assert_unchanged():
        assert all(map(torch.equal, problem.params, before[0]))
        state = problem.optimizer.state_dict()["state"][0]
        assert all(same(v, before[1]["state"][0][n]) for n, v in state.items())

    calls = []

    def broken():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return problem.closure()

    with pytest.raises(KeyboardInterrupt):
        problem.optimizer.step(broken)
    assert_unchanged()
    with pytest.raises(StepError, match="finite at the start, got the loss nan"):
        problem.optimizer.step(lambda: problem.closure() * torch.nan)
    assert_unchanged()
    with pytest.raises(StepError, match="step needs a closure that computes loss and gradients"):
        problem.optimizer.step()
    with pytest.raises(ValueError, match="the state dict has no 'history_size'"):
        problem.optimizer.load_state_dict(torch.optim.SGD(problem.params, 0.1).state_dict())
    assert_unchanged()
    with pytest.raises(StepError, match="one group of parameters, got a second"):
        LBFGS([{"params": problem.params[:1]}, {"params": problem.params[1:]}])
    with pytest.raises(isostep.DomainError, match="lbfgs: max_iter must be an integer >= 1, got 0"):
        LBFGS(problem.params, max_iter=0)


def test_it_is_found_where_optimizers_are():
    assert isostep_torch.list_optimizers("*bfgs") == ["lbfgs"]
    assert isostep_torch.load_optimizer("lbfgs") is isostep_torch.load_optimizer("LBFGS") is LBFGS
    assert "LBFGS" in dir(isostep_torch)
