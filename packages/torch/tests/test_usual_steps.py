"""The short look of a usual step, and everything after which a step must look again."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch

import isostep
import isostep_torch
from isostep import ArrayBackend, compose, rule
from isostep.lower.fused import FusedBackend
from isostep.pieces import lookahead

pytest.importorskip("numba")

SHAPES = [(3, 4), (5,), (), (2, 3, 2), (3, 3)]


def made(path, name="adamw"):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in SHAPES]
    if name.startswith("lookahead"):
        inner = (
            rule("novograd", lr=0.1)
            if name.endswith("novograd")
            else rule("sgd", lr=0.1, momentum=0.9)
        )
        return isostep_torch.from_rule(compose(inner, lookahead(k=3)), params, **path)
    hyper = {"momentum": 0.9} if name == "sgd" else {}
    return isostep_torch.load_optimizer(name)(params, lr=0.1, **hyper, **path)


def give(optimizer, k, turned=False):
    torch.manual_seed(100 + k)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.randn_like(p)
            if turned and p.ndim > 1:
                p.grad = p.grad.mT.contiguous().mT


@pytest.fixture
def long_looks(monkeypatch):
    """How many steps have taken the long look."""
    found, long = [], FusedBackend._plans
    monkeypatch.setattr(FusedBackend, "_plans", lambda *a: (found.append(1), long(*a))[1])
    return found


def nothing(optimizer, k):
    pass


def another_rate(optimizer, k):
    optimizer.param_groups[0]["lr"] *= 0.9


def less_gradients(optimizer, k):
    optimizer.param_groups[0]["params"][k % 3].grad = None


def parameters_elsewhere(optimizer, k):
    for p in optimizer.param_groups[0]["params"]:
        p.data = p.data.clone() * 0.5


def state_elsewhere(optimizer, k):
    for own in optimizer.state.values():
        for v in own.values():
            v.data = v.data.clone() * (0.5 if v.ndim else 1)


def parameter_turned_where_it_lies(optimizer, k):
    last = optimizer.param_groups[0]["params"][-1]
    last.data = last.data.mT


def state_turned_where_it_lies(optimizer, k):
    for v in optimizer.state[optimizer.param_groups[0]["params"][-1]].values():
        v.data = v.data.mT if v.ndim else v.data


def counts_set(optimizer, k):
    for i, own in enumerate(optimizer.state.values()):
        if "step" in own:
            own["step"].fill_(7 + i % 2)


def another_structure(optimizer, k):
    group = optimizer.param_groups[0]
    if "nesterov" in group:
        group["nesterov"] = not group["nesterov"]
    if "grad_averaging" in group:
        group["grad_averaging"] = not group["grad_averaging"]
        return  # maximize would be another way to keep state
    group["maximize"] = not group["maximize"]


def gradients_turned(optimizer, k):
    give(optimizer, k, turned=True)


def reloaded(optimizer, k):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def cleared(optimizer, k):
    optimizer.state.clear()


def another_order(optimizer, k):
    optimizer.param_groups[0]["params"].reverse()


EVENTS = (
    nothing, another_rate, less_gradients, parameters_elsewhere, state_elsewhere, parameter_turned_where_it_lies,
    state_turned_where_it_lies, counts_set, another_structure, gradients_turned, reloaded, cleared, another_order,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "path"),
    [
        *((n, "fused") for n in ("adamw", "sgd", "lookahead", "lamb", "novograd", "adafactor")),
        ("novograd", "foreach"),
        ("lookahead of novograd", "fused"),
    ],
)
@pytest.mark.parametrize("event", EVENTS, ids=lambda e: e.__name__)
def test_after_every_event_a_step_is_that_of_the_loop(event, name, path):
    if name == "adafactor" and event is state_turned_where_it_lies:
        event = nothing  # rows would be columns: another shape, which is refused
    ours, loop = made({path: True}, name), made({"fused": False, "foreach": False}, name)
    for k in range(9):
        for optimizer in (ours, loop):
            give(optimizer, k)
            if k in (4, 6):
                event(optimizer, k)
            optimizer.step()
        pairs = zip(ours.param_groups[0]["params"], loop.param_groups[0]["params"], strict=True)
        for p, q in pairs:
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
            for n, v in loop.state[q].items():
                torch.testing.assert_close(ours.state[p][n], v, rtol=1e-12, atol=1e-13)


def looks_once_and_after_a_move(optimizer, looks):
    for k in range(6):
        give(optimizer, k)
        another_rate(optimizer, k)
        optimizer.step()
    assert len(looks) == 1
    parameters_elsewhere(optimizer, 6)
    optimizer.step()
    optimizer.step()
    assert len(looks) == 2


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_usual_steps_take_no_long_look(name, long_looks):
    optimizer = made({"fused": True}, name)
    looks_once_and_after_a_move(optimizer, long_looks)


@pytest.mark.parametrize("path", ["fused", "foreach"])
def test_usual_steps_on_stacks_take_no_long_look(path, monkeypatch):
    taken, long = [], ArrayBackend.prepare
    monkeypatch.setattr(ArrayBackend, "prepare", lambda *a: (taken.append(1), long(*a))[1])
    optimizer = made({path: True}, "novograd")
    looks_once_and_after_a_move(optimizer, taken)


def test_parameters_that_look_the_same_are_not_taken_for_each_other():
    found = []
    for path in ({"fused": True}, {"fused": False, "foreach": False}):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(3, 4, dtype=torch.float64)) for _ in range(2)]
        optimizer = isostep_torch.NovoGrad(params, lr=0.1, **path)
        for k in range(6):
            for p in params:
                p.grad = torch.randn_like(p)
            if k == 4:
                optimizer.param_groups[0]["params"].reverse()
            optimizer.step()
        found.append([p.detach() for p in params])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_a_state_that_is_not_an_optimizers_is_looked_at_in_every_step():
    backend, novograd = isostep.backend("torch:fused"), rule("novograd")
    params, grads = [torch.ones(3, 4)], [torch.ones(3, 4)]
    state = backend.init(novograd, params)
    for _ in range(3):
        backend.step(novograd, params, grads, state)
    state.arrays[0]["moments"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="state moments of a parameter of shape"):
        backend.step(novograd, params, grads, state)


def test_figures_are_taken_as_soon_as_they_are_asked_for():
    optimizer = made({"fused": True}, "novograd")
    for k in range(4):
        give(optimizer, k)
        optimizer.step()
    observer = optimizer.observe()
    give(optimizer, 4)
    optimizer.step()
    assert observer.rows()


def test_a_repeated_step_holds_no_gradient():
    optimizer, gradients = made({"fused": True}, "novograd"), []
    for k in range(4):
        give(optimizer, k)
        gradients += [weakref.ref(p.grad) for p in optimizer.param_groups[0]["params"]]
        optimizer.step()
    optimizer.zero_grad()
    assert not any(g() for g in gradients)


@pytest.mark.parametrize("name", ["adamw", "novograd"])
def test_a_gradient_that_comes_to_lie_on_a_parameter_is_refused_and_nothing_is_changed(name):
    optimizer = made({"fused": True}, name)
    for k in range(3):
        give(optimizer, k)
        optimizer.step()
    first, *_ = optimizer.param_groups[0]["params"]
    good, first.grad = first.grad, first.detach()
    before = copy.deepcopy([p.detach() for p in optimizer.param_groups[0]["params"]])
    for _ in range(2):
        with pytest.raises(ValueError, match="shares memory with another array"):
            optimizer.step()
    assert all(map(torch.equal, before, optimizer.param_groups[0]["params"]))
    assert {own["step"].item() for own in optimizer.state.values()} == {3}
    first.grad = good
    optimizer.step()
    assert {own["step"].item() for own in optimizer.state.values()} == {4}
