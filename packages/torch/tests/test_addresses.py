"""Addresses of tensors by a compiled loop, against ``Tensor.data_ptr``."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

import isostep_torch
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
