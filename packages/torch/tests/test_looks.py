"""Looks of tensors by a compiled loop, and steps whose gradients are other tensors every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import isostep_torch
from isostep_torch import addresses, memory
from isostep_torch.looks import looks

pytest.importorskip("llvmlite", reason="of the extra `fused`")


class Other(torch.Tensor):
    """A subclass with memory of its own."""


#: Each differs from all others in what a plan depends on.
DIFFERENT = [
    lambda: torch.ones(6),
    lambda: torch.ones(5),
    lambda: torch.ones(6, dtype=torch.float64),
    lambda: torch.ones(6, dtype=torch.int32),
    lambda: torch.ones(6, device="meta"),
    lambda: torch.ones(12)[::2],
    lambda: torch.ones(2, 3),
    lambda: torch.ones(3, 2),
    lambda: torch.ones(3, 2).T,
    lambda: torch.ones(2, 3, 1),
    lambda: torch.ones(1, 3).expand(2, 3),
    lambda: torch.ones(2, 1).expand(2, 3),
    lambda: torch.ones(()),
    lambda: torch.ones(1),
    lambda: torch.ones(0),
    lambda: torch.ones(0, 6),
    lambda: torch.ones(6, 0),
]


def test_the_loop_runs_here():
    assert looks([torch.ones(3)]) is not None


def test_tensors_that_differ_look_different_and_those_that_do_not_do_not():
    once, again = ([make() for make in DIFFERENT] for _ in range(2))
    found = looks(once)
    assert len({*found.numbers.tolist()}) == len(DIFFERENT)
    np.testing.assert_array_equal(found.numbers, looks(again).numbers)
    np.testing.assert_array_equal(found.addresses, addresses.in_python(once))


def test_where_a_tensor_lies_is_no_part_of_its_look():
    base = torch.ones(20)
    found = looks([base[k : k + 4] for k in range(8)])
    assert len({*found.numbers.tolist()}) == 1
    assert (np.diff(found.addresses) == 4).all()


@pytest.mark.parametrize(
    "odd",
    [
        lambda: None,
        lambda: 3.0,
        lambda: torch.nn.Parameter(torch.ones(3)),
        lambda: torch.ones(3).as_subclass(Other),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch._neg_view(torch.ones(3)),
        lambda: torch.ones(3, dtype=torch.complex64).conj().imag,
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_is_no_plain_tensor_is_left_to_python(odd):
    plain = torch.ones(3)
    assert looks([plain, plain]) is not None
    for tensors in ([odd()], [plain, odd()], [odd(), plain]):
        assert looks(tensors) is None


def test_no_tensors():
    assert [len(a) for a in looks([])] == [0, 0]


#: What the gradient of a (4, 6) parameter is in steps 0, 1, ...; all hold the same numbers.
FORMS = {
    "new": [lambda g: g.clone()],
    "turned": [lambda g: g.clone(), lambda g: g.T.contiguous().T],
    "strided": [lambda g: torch.stack([g, -g], -1)[..., 0]],
    "strided in turn": [lambda g: g.clone(), lambda g: torch.stack([g, -g], -1)[..., 0]],
    "negative": [lambda g: g.clone(), lambda g: torch._neg_view(-g)],
    "subclass": [lambda g: g.clone(), lambda g: g.clone().as_subclass(Other)],
    "expanded": [lambda g: g[:1].clone().expand(4, 6), lambda g: g[:1].repeat(4, 1)],
}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_gradients_that_are_other_tensors_in_every_step(monkeypatch, form, compiled):
    if not compiled:
        monkeypatch.setattr(memory, "looks", lambda tensors: None)
    found = []
    for options in ({"fused": True}, {"fused": False, "foreach": False}):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(4, 6, dtype=torch.float64)) for _ in range(5)]
        optimizer = isostep_torch.AdamW(params, lr=0.1, weight_decay=0.3, **options)
        for k in range(6):
            for i, p in enumerate(params):
                make = FORMS[form][(k + i) % len(FORMS[form])]
                p.grad = make(torch.randn(1, 6, dtype=torch.float64).repeat(4, 1))
            optimizer.step()
        found.append([p.detach() for p in params])
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)


def test_a_new_gradient_in_a_parameters_memory_is_refused():
    params = [torch.nn.Parameter(torch.ones(4)) for _ in range(2)]
    optimizer = isostep_torch.AdamW(params, lr=0.1, fused=True)
    for p in params:
        p.grad = torch.ones(4)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    params[0].grad, params[1].grad = torch.ones(4), params[0].detach()
    with pytest.raises(ValueError, match="shares memory with another array"):
        optimizer.step()
    torch.testing.assert_close([p.detach() for p in params], before, rtol=0, atol=0)
