"""Addresses of tensors by a compiled loop, against ``Tensor.data_ptr``."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

import isostep_torch
from isostep.state import StepError
from isostep_torch import addresses

pytest.importorskip("llvmlite", reason="of the extra `fused`")


class Other(torch.Tensor):
    """A subclass with memory of its own."""


def tensors():
    base = torch.arange(24.0).reshape(4, 6)
    conj = torch.ones(3, dtype=torch.complex64)
    return [
        base, base[1:], base.T, base[:, ::2], torch.empty(0), torch.ones(()), torch.nn.Parameter(base[2]),
        torch.ones(2, dtype=torch.bfloat16), torch.view_as_real(conj), base.as_subclass(Other), torch.empty(3)[3:],
    ]  # fmt: skip


def test_the_loop_runs_here():
    assert addresses._reader() is not None


def test_they_are_those_of_data_ptr_now_and_after_a_move():
    every = tensors()
    find = addresses.finder(every)
    np.testing.assert_array_equal(find()[0], addresses.in_python(every))
    every[0].data = every[0].data.clone()
    torch.utils.swap_tensors(every[5], torch.zeros(()))
    every[7].share_memory_()
    with torch.no_grad():
        every[1].set_(torch.zeros(5))
    np.testing.assert_array_equal(find()[0], addresses.in_python(every))


def test_a_place_tells_how_the_elements_lie():
    """Memory that is freed is handed out again, and a transposed parameter lies where it lay."""
    base = torch.arange(36.0)
    square = base.view(6, 6)
    views = [base, base[:20], square, square.T, base.view(4, 9), base[0], base[::2]]
    views += [base.view(torch.int32), base.view(torch.bfloat16)[:36], torch._neg_view(base)]
    for places in (addresses.finder(views)(), addresses.places_in_python(views)):
        assert len({*places[0].tolist()}) == 1
        assert len({*places[1].tolist()}) == len(views)


def test_nothing_is_kept_alive():
    gone = torch.ones(3)
    seen = weakref.ref(gone)
    find = addresses.finder([gone])
    del gone
    assert seen() is None
    del find


def test_an_empty_list_is_left_to_python():
    assert addresses.finder([]) is None


@pytest.mark.parametrize("what", ["no loop", "another layout"])
def test_where_anything_is_not_as_expected_tensors_are_asked_one_by_one(monkeypatch, what):
    if what == "no loop":
        monkeypatch.setattr(addresses, "_reader", lambda: None)
    else:
        monkeypatch.setattr(addresses, "_KINDS", {})
        monkeypatch.setattr(
            addresses, "in_python", lambda tensors: np.zeros(len(tensors), np.int64)
        )
    assert addresses.finder([torch.ones(3)]) is None
    monkeypatch.undo()
    if what == "no loop":
        monkeypatch.setattr(addresses, "_reader", lambda: None)
    found = []
    for make in (isostep_torch.AdamW, torch.optim.AdamW):
        p = torch.nn.Parameter(torch.ones(5, dtype=torch.float64))
        optimizer = make([p], lr=0.1)
        for k in range(3):
            p.grad = torch.full_like(p, k + 1.0)
            optimizer.step()
            optimizer.state[p]["exp_avg"].data = optimizer.state[p]["exp_avg"].data.clone()
        found.append(p.detach())
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)


PATHS = {"best": {}, "foreach": {"foreach": True}, "loop": {"fused": False, "foreach": False}}
FUSED_STACKED_PASSES = ["AdamW", "NovoGrad", "Adafactor"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", FUSED_STACKED_PASSES)
def test_what_lies_in_a_parameter_s_place_in_another_dtype_is_no_parameter(name, path):
    """Half as wide, so that a step by address would write behind it; its gradient is still a float32 one."""
    memory = torch.zeros(64)
    p = torch.nn.Parameter(torch.zeros(2, 4))
    p.data = memory[:8].view(2, 4)
    optimizer = getattr(isostep_torch, name)([p], lr=0.1, **PATHS[path])
    p.grad = torch.randn(2, 4)
    optimizer.step()
    optimizer.step()
    p.data = memory.view(torch.bfloat16)[:8].view(2, 4)
    before = memory.clone()
    with pytest.raises(StepError, match="bfloat16"):
        optimizer.step()
    assert torch.equal(memory, before)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("whose", ["parameter", "state"])
@pytest.mark.parametrize("name", FUSED_STACKED_PASSES)
def test_elements_whose_sign_is_not_that_in_memory(name, whose, path):
    """``p.data = torch._neg_view(...)`` in the same place, as what a conjugate's imaginary part is."""
    torch.manual_seed(0)
    begin = [torch.randn(2, 4) for _ in range(3)]
    ends = []
    for given in ({"fused": False, "foreach": False}, PATHS[path]):
        params = [torch.nn.Parameter(x.clone()) for x in begin]
        optimizer = getattr(isostep_torch, name)(params, lr=0.1, **given)
        for i in range(5):
            for k, p in enumerate(params):
                p.grad = torch.sin(torch.arange(8.0).reshape(2, 4) + 2 * i + k)
            if i == 3:
                own = [x for p in params for n, x in optimizer.state[p].items() if n != "step"]
                for x in params if whose == "parameter" else [x for x in own if x.ndim]:
                    x.data = torch._neg_view(-x.data if whose == "state" else x.data)
            optimizer.step()
        ends.append([p.detach().clone() for p in params])
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)
