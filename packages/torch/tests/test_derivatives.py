"""What ``differentiable`` hands back where a derivative could get lost: at zeros, and in what a state starts as."""

from __future__ import annotations

import pytest
import torch

import isostep
from isostep.domains import Pair, Real
from isostep_torch import calls, load_optimizer, traced

pytestmark = pytest.mark.whole  # not for want of a package: all rules, once

RULES = isostep.rules()
F = torch.float64


def start_of(name):
    """A parameter, and a gradient for each of three steps, where nothing is zero."""
    torch.manual_seed(0)
    shape = (3, 2) if isostep.definition(name).ndim else (4,)
    first = torch.randn(shape, dtype=F) + 3.0
    return first, [torch.randn(shape, dtype=F).abs() + 0.5 for _ in range(3)]


def run(name, first, grads, **hyper):
    definition = isostep.definition(name)
    p = first.clone()
    optimizer = load_optimizer(name)([p], differentiable=True, **hyper)
    for g in grads:
        p.grad = g * 1.0
        given = {n: {p: g * g + 0.1} for n in definition.inputs}
        optimizer.step(**given, **dict.fromkeys(definition.group_inputs, 0.7))
    return p


def derivatives(name, first, grads, lr=0.1):
    """Of the sum of the parameter, by the first parameter, the gradients and lr."""
    by = [x.clone().requires_grad_() for x in (first, *grads, torch.tensor(lr, dtype=F))]
    found = run(name, by[0], by[1:-1], lr=by[-1])
    assert found.isfinite().all()
    return torch.autograd.grad(found.sum(), by, allow_unused=True, materialize_grads=True)


def with_zeros(x, *places):
    x = x.clone()
    x.view(-1)[list(places)] = 0.0
    return x


@pytest.mark.parametrize("name", RULES)
def test_derivatives_at_zeros_are_finite(name):
    """A bias that starts at zero, a unit that is dead, all of a gradient zero: roots of zero, equal eigenvalues."""
    first, grads = start_of(name)
    zero = torch.zeros_like(first)
    dead = [with_zeros(g, *range(2)) for g in grads]
    for p, gs in (
        (zero, grads),
        (with_zeros(first, 0), grads),
        (first, dead),
        (first, [zero] * 3),
        (zero, [zero, *grads[1:]]),
    ):
        found = derivatives(name, p, gs)
        assert all(d.isfinite().all() for d in found), found


@pytest.mark.parametrize("name", RULES)
def test_derivatives_by_lr_at_zeros_are_those_of_finite_differences(name):
    first, grads = start_of(name)
    for p, gs in (
        (torch.zeros_like(first), grads),
        (first, [with_zeros(g, *range(2)) for g in grads]),
    ):
        h = 1e-6
        ahead, behind = (run(name, p, gs, lr=0.1 + d).sum() for d in (h, -h))
        expected = (ahead - behind) / (2 * h)
        torch.testing.assert_close(derivatives(name, p, gs)[-1], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", RULES)
def test_derivatives_elsewhere_are_those_of_torch(name, monkeypatch):
    first, grads = start_of(name)
    ours = derivatives(name, first, grads)
    monkeypatch.setattr(calls, "ROOTS", frozenset())
    monkeypatch.setattr(traced, "DECOMPOSED", {})
    for a, b in zip(ours, derivatives(name, first, grads), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("op", "exponent"), [("sqrt", ()), ("cbrt", ()), ("pow", (0.25,))])
def test_roots_keep_their_values_and_have_two_derivatives(op, exponent):
    x = torch.tensor([4.0, 0.0, -0.0, 1e-320, torch.inf, torch.nan], dtype=F)
    with torch.no_grad():
        plain = calls.call(op, x, *exponent)
    x.requires_grad_()
    ours = calls.call(op, x, *exponent)
    assert torch.equal(ours.detach().view(torch.int64), plain.view(torch.int64))
    (once,) = torch.autograd.grad(ours.sum(), x, create_graph=True)
    (twice,) = torch.autograd.grad(once.sum(), x)
    assert once[1:3].tolist() == twice[1:3].tolist() == [0.0, 0.0]
    near = torch.tensor([4.0, 0.3], dtype=F, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: calls.call(op, x, *exponent), near)
    assert torch.autograd.gradcheck(lambda x: calls.call(op, x, *exponent), near)


def test_a_power_of_a_matrix_has_its_derivative_where_eigenvalues_are_equal():
    """And below the bound, where it is constant along them."""
    basis = torch.linalg.qr(torch.randn(5, 5, dtype=F, generator=torch.Generator().manual_seed(0)))[
        0
    ]
    for values in ([2.0] * 5, [3.0, 3.0, 1.0, 1.0, 0.5], [4.0, 2.0, 0.01, 0.01, 0.0]):
        x = (basis * torch.tensor(values, dtype=F)) @ basis.mT
        numbers = [torch.tensor(v, dtype=F, requires_grad=True) for v in (-0.25, 0.1)]
        power = traced.DECOMPOSED["spectral_power"]
        assert torch.autograd.gradcheck(power, (x.requires_grad_(), *numbers), atol=1e-6)


def tensors_of(name):
    """Every hyperparameter that is a number and no choice, with a value inside its bounds."""
    found = {}
    for n, domain in isostep.definition(name).hyper.items():
        parts = domain.parts if isinstance(domain, Pair) else (domain,)
        values = [(d.cases or (d.default,))[0] if isinstance(d, Real) else None for d in parts]
        if any(v is None or d.is_static(v) for d, v in zip(parts, values, strict=True)):
            continue
        lows = [-torch.inf if d.low is None else d.low for d in parts]
        inside = [max(v, low + 0.01) for v, low in zip(values, lows, strict=True)]
        inside = [0.1] if n == "lr" else inside
        found[n] = [torch.tensor(v, dtype=F, requires_grad=True) for v in inside]
    return found


@pytest.mark.parametrize("name", RULES)
def test_differentiable_reaches_every_hyperparameter(name):
    """Those too of which only a state's first value is made."""
    first, grads = start_of(name)
    given = tensors_of(name)

    def by(*flat):
        rest, hyper = list(flat), {}
        for n, values in given.items():
            own = tuple(rest.pop(0) for _ in values)
            hyper[n] = own if isinstance(isostep.definition(name).hyper[n], Pair) else own[0]
        return run(name, first, grads, **hyper)

    flat = [x for values in given.values() for x in values]
    assert torch.autograd.gradcheck(by, flat, rtol=1e-5, atol=1e-6)
