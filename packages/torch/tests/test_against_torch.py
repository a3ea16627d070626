"""Every class of torch.optim whose rule isostep has: the same thirty steps, and each other's state dicts."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import isostep
import isostep_torch
from isostep_torch import load_optimizer

pytestmark = pytest.mark.whole  # not for want of a package: minutes of work, and once is enough

PATHS = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"fused": False, "foreach": False},
    "capturable": {"capturable": True},
}
SHAPES = [(5, 3), (7,), (), (1, 1), (2, 3, 4), (33,)]
MATRICES = [(5, 3), (3, 5), (4, 4)]
BETAS = {"betas": (0.8, 0.95), "eps": 1e-3}
DECAY = {"weight_decay": 0.1}

#: torch.optim's class -> settings, none of them neutral; isostep's rule is the class's name in small letters.
TABLE = {
    "SGD": [
        {"lr": 0.1, "momentum": 0.7, "dampening": 0.2, **DECAY},
        {"lr": 0.1, "momentum": 0.7, "nesterov": True},
        {"lr": 0.1},
    ],
    "Adam": [
        {"lr": 0.1, **BETAS, **DECAY},
        {"lr": 0.1, **BETAS, "amsgrad": True},
        {"lr": 0.1, **BETAS, **DECAY, "decoupled_weight_decay": True},
    ],
    "AdamW": [{"lr": 0.1, **BETAS, **DECAY}, {"lr": 0.1, **BETAS, **DECAY, "amsgrad": True}],
    "NAdam": [
        {"lr": 0.1, **BETAS, **DECAY, "momentum_decay": 0.3},
        {"lr": 0.1, **BETAS, **DECAY, "decoupled_weight_decay": True},
    ],
    "RAdam": [
        {"lr": 0.1, **BETAS, **DECAY},
        {"lr": 0.1, "betas": (0.7, 0.99), **DECAY, "decoupled_weight_decay": True},
    ],
    "Adamax": [{"lr": 0.1, **BETAS, **DECAY}],
    "Adagrad": [
        {"lr": 0.1, "eps": 1e-3, "lr_decay": 0.1, **DECAY, "initial_accumulator_value": 0.3}
    ],
    "Adadelta": [{"lr": 0.5, "rho": 0.8, "eps": 1e-3, **DECAY}],
    "RMSprop": [
        {"lr": 0.1, "alpha": 0.9, "eps": 1e-3, **DECAY},
        {"lr": 0.1, "alpha": 0.9, "eps": 1e-3, "momentum": 0.8, "centered": True},
    ],
    "Rprop": [{"lr": 0.02, "etas": (0.3, 1.9), "step_sizes": (0.01, 0.06)}],
    "ASGD": [{"lr": 0.1, "lambd": 0.2, "alpha": 0.6, "t0": 3.0, **DECAY}],
    "Adafactor": [{"lr": 0.1, "eps": (1e-3, 1e-2), "d": 1.2, **DECAY}],
    "Muon": [{"lr": 0.1, "momentum": 0.8, **DECAY}, {"lr": 0.1, "nesterov": False, "eps": 2.0}],
}
CASES = [
    pytest.param(kind, hyper, id=f"{kind}-{k}")
    for kind, settings in TABLE.items()
    if kind.lower() in isostep.rules()
    for k, hyper in enumerate(settings)
]
#: Where torch's own arithmetic differs from what its class says: what has to be the same for a comparison.
CONSTANT_LR = {
    "ASGD": "torch takes a new learning rate one step late",
}
#: What torch keeps beside the rule's state: it is checked through the steps that follow.
OWN = {"mu_product", "eta", "mu", "step"}


@pytest.fixture(autouse=True)
def _float64_scalars():
    """torch keeps step counts and NAdam's and ASGD's scalars in the default dtype: not float32 here."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def _iteration_in_the_gradients_dtype(monkeypatch):
    """torch.optim.Muon iterates in bfloat16, a few percent of a step off; here it keeps the dtype."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())


def tensors(kind, dtype):
    torch.manual_seed(0)
    shapes = MATRICES if kind == "Muon" else SHAPES
    return [torch.nn.Parameter(torch.randn(s).to(dtype)) for s in shapes]


def fill(params, k):
    torch.manual_seed(100 + k)
    for p in params:
        p.grad = (torch.randn(p.shape) * 10.0 ** (k % 5 - 2)).to(p.dtype)


def build(made, params, hyper, **options):
    """Two groups, of which the second has its own learning rate."""
    halves = [{"params": params[:2]}, {"params": params[2:], "lr": hyper["lr"] * 0.3}]
    return made(halves, **hyper, **options)


def close(found, wanted, bound, what=""):
    """Within ``bound`` of the largest element; empty ones are equal."""
    if wanted.numel():
        error = (found - wanted).abs().max() / wanted.abs().max().clamp(min=1.0)
        assert error < bound, what


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("kind", "hyper"), CASES)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 2e-5)], ids=str
)
def test_thirty_steps(kind, hyper, path, dtype, bound):
    """Parameters and the state that both have, after every step, with a learning rate that changes."""
    ours, theirs = tensors(kind, dtype), tensors(kind, dtype)
    mine = build(load_optimizer(kind.lower()), ours, hyper, **PATHS[path])
    other = build(getattr(torch.optim, kind), theirs, hyper)
    for k in range(30):
        for ps, optimizer in ((ours, mine), (theirs, other)):
            fill(ps, k)
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] *= 1.0 if kind in CONSTANT_LR else 0.97
        for a, b in zip(ours, theirs, strict=True):
            close(a.detach(), b.detach(), bound, f"parameter, step {k + 1}")
            for n, wanted in other.state[b].items():
                if isinstance(wanted, torch.Tensor) and n not in OWN:
                    close(mine.state[a][n], wanted, bound, f"{n}, step {k + 1}")


@pytest.mark.parametrize(("kind", "hyper"), CASES)
def test_state_dicts_go_both_ways(kind, hyper):
    """Ours takes torch's run over, torch's class takes ours, and both go on as if nothing had been."""
    theirs = tensors(kind, torch.float64)
    other = build(getattr(torch.optim, kind), theirs, hyper)
    for k in range(4):
        fill(theirs, k)
        other.step()
    ours = [torch.nn.Parameter(p.detach().clone()) for p in theirs]
    mine = build(load_optimizer(kind.lower()), ours, hyper)
    mine.load_state_dict(copy.deepcopy(other.state_dict()))
    assert [g["lr"] for g in mine.param_groups] == [g["lr"] for g in other.param_groups]
    for k in range(4, 7):
        for ps, optimizer in ((ours, mine), (theirs, other)):
            fill(ps, k)
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        close(a.detach(), b.detach(), 1e-11)
    back = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    third = build(getattr(torch.optim, kind), back, hyper)
    third.load_state_dict(copy.deepcopy(mine.state_dict()))
    for k in range(7, 10):
        for ps, optimizer in ((back, third), (theirs, other)):
            fill(ps, k)
            optimizer.step()
    for a, b in zip(back, theirs, strict=True):
        close(a.detach(), b.detach(), 1e-11)


def test_the_table_has_every_class_of_torch():
    """A class that torch adds is a line here, or a reason."""
    left_out = {
        "Optimizer",
        "LBFGS",
        "SparseAdam",
    }  # a base class; a solver; tested with sparse rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = {n for n in dir(torch.optim) if n[0].isupper() and n not in left_out}
    assert known == set(TABLE)
    assert {*known, "SparseAdam"} <= set(dir(isostep_torch))  # under the names they have there
