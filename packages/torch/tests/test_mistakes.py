"""What users get wrong between steps, or rely on autograd to see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import isostep_torch

PATHS = [{"fused": True}, {"foreach": True}, {"foreach": False, "fused": False}]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("options", [{}, {"state_dtype": torch.float64}, {"maximize": True}])
def test_autograd_sees_that_a_step_has_written(path, options):
    p, idle = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = isostep_torch.AdamW([p, idle], lr=0.1, **path, **options)
    loss = (p * p * p).sum()
    loss.backward(retain_graph=True)
    unused = (idle * idle).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    unused.backward()  # its parameter had no gradient, and was not stepped


@pytest.mark.parametrize("path", PATHS)
def test_a_parameter_that_lies_over_itself_is_refused(path):
    p = torch.ones(4, dtype=torch.float64).as_strided((3, 2), (1, 1)).requires_grad_()
    optimizer = isostep_torch.AdamW([p], lr=0.1, **path)
    p.grad = torch.ones(3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="share memory"):
        optimizer.step()
    assert (p.detach() == 1.0).all()


@pytest.mark.parametrize("path", PATHS)
def test_a_sparse_parameter_is_refused(path):
    p = torch.nn.Parameter(torch.eye(3).to_sparse())
    optimizer = isostep_torch.AdamW([p], lr=0.1, **path)
    optimizer.step()  # of no gradient: nothing happens
    p.grad = torch.eye(3).to_sparse()
    with pytest.raises(ValueError, match=r"adamw: params\[0\] must be dense, got layout"):
        optimizer.step()


@pytest.mark.parametrize("path", PATHS)
def test_a_conjugate_gradient_is_its_value(path):
    found = []
    for resolve in (False, True):
        p = torch.nn.Parameter(torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex128))
        optimizer = isostep_torch.AdamW([p], lr=0.1, **path)
        for k in range(3):
            g = torch.tensor([1j + k, 2.0 - 1j], dtype=torch.complex128).conj()
            p.grad = g.resolve_conj() if resolve else g
            assert p.grad.is_conj() is not resolve
            optimizer.step()
        found.append(p.detach())
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_a_conjugate_parameter_is_refused():
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64).conj())
    with pytest.raises(ValueError, match=r"adamw: .*conjugate view; use p.resolve_conj\(\)"):
        isostep_torch.AdamW([p])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtypes", [(torch.float32, None), (None, torch.float32)])
def test_state_takes_the_dtype_that_the_options_now_say(path, dtypes):
    """And goes on as a run does that was saved and loaded at the change."""
    found = []
    for saved in (False, True):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.bfloat16))
        optimizer = isostep_torch.AdamW([p], lr=0.1, state_dtype=dtypes[0], **path)
        for k in range(6):
            if k == 3:
                optimizer.param_groups[0]["state_dtype"] = dtypes[1]
                if saved:
                    optimizer.load_state_dict(optimizer.state_dict())
            p.grad = torch.full_like(p, 0.1 * k + 0.3)
            optimizer.step()
        own = optimizer.state[p]
        assert own["exp_avg"].dtype is (dtypes[1] or torch.bfloat16)
        found.append([p.detach(), own["exp_avg"], own["exp_avg_sq"]])
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("path", [*PATHS, {"capturable": True}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["AdamW", "Prodigy", "Adafactor"])
def test_a_model_that_is_moved_to_another_dtype_takes_its_state_along(name, dtype, path):
    """As if the optimizer had been saved and loaded then; Prodigy's group has numbers of its own."""
    found = []
    for saved in (False, True):
        model = torch.nn.Linear(3, 2)
        torch.nn.init.constant_(model.weight, 0.5)
        torch.nn.init.zeros_(model.bias)
        optimizer = getattr(isostep_torch, name)(model.parameters(), lr=0.1, **path)
        for k in range(6):
            if k == 4 and not saved:  # what has been loaded and not stepped yet is moved, too
                optimizer.load_state_dict(optimizer.state_dict())
            if k in (2, 4):
                model.to(dtype if k == 2 else torch.float32)
                if saved:
                    optimizer.load_state_dict(optimizer.state_dict())
            for p in model.parameters():
                p.grad = torch.linspace(-1.0, 0.1 * k, p.numel()).view(p.shape).to(p.dtype)
            optimizer.step()
        owns = [optimizer.state[p] for p in model.parameters()]
        assert {v.dtype for own in owns for v in own.values()} == {torch.float32}
        found.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_a_model_that_left_its_gradients_behind_is_refused_and_nothing_changes(path):
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = isostep_torch.AdamW([p], lr=0.1, **path)
    for _ in range(2):
        p.grad = torch.ones(3)
        optimizer.step()
    before = p.detach().double()
    p.data = before.clone()
    with pytest.raises(ValueError, match=r"float64.*got float32"):
        optimizer.step()
    assert optimizer.state[p]["exp_avg"].dtype is torch.float32
    assert torch.equal(p.detach(), before)
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[p]["step"] == 3


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"maximize": "no"}, "sgd: maximize must be True or False, got 'no'"),
        ({"capturable": 1}, "sgd: capturable must be True or False, got 1"),
        ({"kahan": None}, "sgd: kahan must be True or False, got None"),
        ({"fused": "yes"}, "sgd: fused must be None, True or False, got 'yes'"),
        ({"foreach": 0}, "sgd: foreach must be None, True or False, got 0"),
    ],
)
def test_an_option_of_another_type_is_refused(option, message):
    with pytest.raises(ValueError, match=message):
        isostep_torch.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1, **option)


def test_a_flag_may_be_numpys():
    """As a random search draws it."""
    p = torch.nn.Parameter(torch.ones(2))
    flags = np.array([True, False])
    optimizer = isostep_torch.SGD([p], lr=0.1, maximize=flags[0], foreach=flags[1])
    p.grad = torch.ones(2)
    optimizer.step()
    assert (p > 1).all()
    group = optimizer.state_dict()["param_groups"][0]
    assert group["maximize"] is True
    assert group["foreach"] is False
    assert isostep_torch.LBFGS([p], maximize=flags[1]).param_groups[0]["maximize"] == flags[1]


def stepped():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = isostep_torch.AdamW([p], lr=0.1)
    p.grad = torch.ones(3)
    optimizer.step()
    return optimizer, p


def both_paths(optimizer, p):
    optimizer.param_groups[0].update(fused=True, foreach=True)


def no_tensor(optimizer, p):
    optimizer.state[p]["exp_avg"] = 3.0


def lost(optimizer, p):
    del optimizer.param_groups[0]["eps"]


def two_rates(optimizer, p):
    optimizer.param_groups[0]["lr"] = torch.tensor([0.1, 0.2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (both_paths, "adamw: fused and foreach cannot both be True; choose one path"),
        (no_tensor, "adamw: state exp_avg must be a tensor, got 3.0"),
        (lost, "adamw: a parameter group has lost its 'eps'; set it again"),
        (two_rates, r"adamw: lr must be one number, got a tensor of shape \(2,\)"),
    ],
)
def test_what_is_wrong_between_steps_is_one_clear_line(change, message):
    optimizer, p = stepped()
    change(optimizer, p)
    before = p.detach().clone()
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    torch.testing.assert_close(p.detach(), before, rtol=0, atol=0)


def test_a_closure_must_be_one():
    optimizer, _ = stepped()
    with pytest.raises(
        TypeError, match="adamw: step takes a closure that computes the loss, got 'x'"
    ):
        optimizer.step("x")


def test_a_rate_of_two_numbers_is_refused_when_made():
    with pytest.raises(
        ValueError, match=r"adamw: lr must be one number, got a tensor of shape \(2,\)"
    ):
        isostep_torch.AdamW([torch.nn.Parameter(torch.ones(2))], lr=torch.tensor([0.1, 0.2]))


def test_a_lazy_module_may_be_given_before_it_knows_its_shapes():
    """As torch.optim takes one: its parameters are the same objects when they have become tensors."""
    model = torch.nn.LazyLinear(3)
    optimizer = isostep_torch.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert optimizer.state[model.weight]["exp_avg"].shape == (3, 4)


def cuts(x):
    """Of one array: what lies over one another, and what only lies between one another."""
    rows = x.view(8, 8)
    shared = [(x[0:6:2], x[2:8:2]), (x[:6], x[1:9:2]), (x[:6], x[3:9]), (rows[:, :5], rows[:, 4:])]
    apart = [(x[::2], x[1::2]), (rows[:, :4], rows[:, 4:]), (rows.T[0], rows.T[1])]
    return shared, apart


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["AdamW", "Adafactor"])
def test_parameters_that_lie_over_one_another_are_refused_and_neighbours_are_not(name, path):
    for k, kind in enumerate(cuts(torch.empty(64))):
        for i in range(len(kind)):
            x = torch.ones(64)
            params = [a.detach().requires_grad_() for a in cuts(x)[k][i]]
            optimizer = getattr(isostep_torch, name)(params, lr=0.1, **path)
            for p in params:
                p.grad = torch.ones_like(p)
            if k:
                optimizer.step()
                assert all((p.detach() != 1.0).all() for p in params)
                continue
            with pytest.raises(ValueError, match="shares memory with another array; pass copies"):
                optimizer.step()
            assert (x == 1.0).all()
            assert not any(optimizer.state.values())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [1, 3])
def test_one_state_array_of_two_parameters_is_refused(path, size):
    params = [torch.nn.Parameter(torch.ones(size)) for _ in range(2)]
    optimizer = isostep_torch.AdamW(params, lr=0.1, **path)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    one, other = (optimizer.state[p] for p in params)
    kept, other["exp_avg"] = other["exp_avg"], one["exp_avg"]
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match="shares memory with another array; pass copies"):
        optimizer.step()
    assert all(map(torch.equal, before, params))
    other["exp_avg"] = kept
    other["mine"] = one["exp_avg"]  # what no step writes may be anything
    optimizer.step()
    assert one["step"] == 2
