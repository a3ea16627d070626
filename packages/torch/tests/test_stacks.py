"""Rules with axes or matrices on stacks of tensors, and by compiled passes over these.

That every path of stacks does as array by array is shown in the conformance suite's test_stacks.py.
"""

from __future__ import annotations

import pytest
import torch

import isostep
import isostep_torch
from isostep import compose, pieces

SHAPES = [(5,), (6, 4), (6, 4), (), (1,), (1, 5), (2, 3, 4), (3, 0), (6, 4), (300, 250)]


RULES = {
    "clipped": compose(pieces.clip_by_global_norm(0.5), isostep.rule("adafactor", lr=0.1)),
    "sm3": isostep.rule("sm3", lr=0.1, momentum=0.9),
}


def problem(dtype, seed):
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=made, dtype=torch.float64).to(dtype) for s in SHAPES]


def lives(path, rule, dtype, steps=4, change=lambda k, grads: grads):
    backend = isostep.backend(path)
    ranks = rule.rule.ndim or range(6)
    fit = lambda arrays: [a for a, s in zip(arrays, SHAPES, strict=True) if len(s) in ranks]  # noqa: E731
    params = fit(problem(dtype, 0))
    state = backend.init(rule, params)
    for k in range(steps):
        backend.step(rule, params, change(k, fit(problem(dtype, 10 + k))), state)
    return {(i, n): a for i, p in enumerate(params) for n, a in {"p": p, **state.arrays[i]}.items()}


def agree(found, wanted, rtol):
    for key, value in wanted.items():
        torch.testing.assert_close(
            found[key],
            value,
            rtol=rtol,
            atol=rtol,
            equal_nan=True,
            msg=lambda m, key=key: f"{key}: {m}",
        )


def test_passes_are_taken_once_for_all_of_a_shape(monkeypatch):
    pytest.importorskip("numba", reason="of the extra `fused`")
    from isostep_torch.fused_cpu import TorchFused

    taken, run = [], TorchFused.passes

    def counted(self, axes, one, dtype, like, count, **more):
        taken.append((axes.shape, one.index, count))
        return run(self, axes, one, dtype, like, count, **more)

    monkeypatch.setattr(TorchFused, "passes", counted)
    lives("torch:fused", isostep.rule("adafactor"), torch.float32, steps=1)
    assert [x for x in taken if x[0] == (6, 4)] == [((6, 4), k, 3) for k in range(3)]
    assert {shape for shape, *_ in taken} == {s for s in SHAPES if s not in ((), (1,), (3, 0))}


@pytest.mark.parametrize("name", ["adafactor", "sm3", "novograd"])
def test_how_many_threads_there_are_changes_no_bit(name):
    pytest.importorskip("numba", reason="of the extra `fused`")
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(lives("torch:fused", isostep.rule(name), torch.float32, steps=2))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, other[k]) for k, a in found[0].items())


def test_nan_and_infinity_go_where_they_went():
    pytest.importorskip("numba", reason="of the extra `fused`")

    def spoiled(k, grads):
        for g in grads:
            if k == 1 and g.numel() > 3:
                g.view(-1)[2] = torch.nan
        return grads

    for name in ("sm3", "clipped"):
        wanted = lives("torch:loop", RULES[name], torch.float32, change=spoiled)
        agree(lives("torch:fused", RULES[name], torch.float32, change=spoiled), wanted, 2e-5)


def test_tensors_that_are_not_contiguous_are_stepped_where_they_lie():
    pytest.importorskip("numba", reason="of the extra `fused`")
    wanted, found = [], []
    for kept, path in ((wanted, {"fused": False, "foreach": False}), (found, {"fused": True})):
        torch.manual_seed(0)
        base = torch.randn(4, 3, 6, dtype=torch.float64)
        params = [torch.nn.Parameter(base.permute(2, 0, 1)), torch.nn.Parameter(base[0].clone().T)]
        where = [p.data_ptr() for p in params]
        optimizer = isostep_torch.Adafactor(params, lr=0.1, **path)
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(p.shape, dtype=p.dtype)
            optimizer.step()
        assert [p.data_ptr() for p in params] == where
        kept += [p.detach().clone() for p in params]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "option", [{"state_dtype": torch.bfloat16}, {"master_weights": True}, {"kahan": True}]
)
def test_halves_are_stored_once(option):
    """Parameters are computed with in float32 copies, which are written first; what is kept is rounded from these."""
    found = {}
    for path in ({"fused": False, "foreach": False}, {"foreach": True}, {}):
        torch.manual_seed(0)
        kind = torch.float32 if "state_dtype" in option else torch.bfloat16
        params = [torch.nn.Parameter(torch.randn(s).to(kind)) for s in ((6, 4), (6, 4), (5,))]
        optimizer = isostep_torch.NovoGrad(params, lr=0.1, weight_decay=0.1, **option, **path)
        for _ in range(4):
            for p in params:
                p.grad = torch.randn(p.shape).to(kind)
            optimizer.step()
        found[str(path)] = [p.detach() for p in params] + [
            v for p in params for v in optimizer.state[p].values() if torch.is_tensor(v)
        ]
    wanted, *others = found.values()
    for other in others:
        for a, b in zip(other, wanted, strict=True):
            torch.testing.assert_close(
                a, b, rtol=2e-5 if a.dtype is torch.float32 else 1e-2, atol=1e-6
            )


def test_autograd_is_told_what_passes_have_written():
    pytest.importorskip("numba", reason="of the extra `fused`")
    p = torch.nn.Parameter(torch.randn(6, 4))
    optimizer = isostep_torch.Adafactor([p], fused=True)
    loss = (p * p).sum()
    p.grad = torch.randn(6, 4)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_memory_that_is_shared_is_not_written():
    pytest.importorskip("numba", reason="of the extra `fused`")
    backend, rule = isostep.backend("torch:fused"), isostep.rule("adafactor")
    p = torch.arange(24.0).reshape(6, 4)
    some = [torch.ones(4, 4), torch.ones(4, 4)]
    gaps = [torch.ones(6, 2), torch.ones(6, 3)]
    for params, grads in (
        ([p], [p]),
        ([p[:4], p[2:]], some),
        ([p[::2], p[2:]], [torch.ones(3, 4), torch.ones(4, 4)]),
        ([p[:, :2], p[:, 1:]], gaps),
        ([p[::2]], [p[1:4]]),
    ):
        state = backend.init(rule, params)
        with pytest.raises(ValueError, match="shares memory with another array; pass copies"):
            backend.step(rule, params, grads, state)
        assert state.t == [0] * len(params)
    assert torch.equal(p, torch.arange(24.0).reshape(6, 4))
    apart = [p[:, :2], p[:, 2:]]
    backend.step(rule, apart, [gaps[0], gaps[0]], backend.init(rule, apart))
    assert (p != torch.arange(24.0).reshape(6, 4)).all()


@pytest.mark.parametrize("path", ["torch:foreach", "torch:fused"])
def test_state_of_another_shape_is_refused(path):
    if path == "torch:fused":
        pytest.importorskip("numba", reason="of the extra `fused`")
    backend = isostep.backend(path)
    for name, wrong, shape, right in (
        ("adafactor", "row_var", (5, 1), (6, 1)),
        ("novograd", "moments", (6, 3), (6, 4)),
        ("novograd", "grads_ema", (1,), ()),
    ):
        rule = isostep.rule(name)
        params = [torch.ones(2, 4), torch.ones(6, 4)]
        state = backend.init(rule, params)
        state.arrays[1][wrong] = torch.zeros(shape)
        with pytest.raises(ValueError) as error:
            backend.step(rule, params, [torch.ones(2, 4), torch.ones(6, 4)], state)
        assert str(error.value) == (
            f"{name}: state {wrong} of a parameter of shape (6, 4) must have shape {right}, got {shape}; "
            "make a new state"
        )
        assert all(torch.equal(p, torch.ones_like(p)) for p in params)


@pytest.mark.parametrize("path", ["fused", "foreach"])
def test_a_gradient_that_is_a_view_of_another_parameter_is_seen_in_the_short_look(path):
    if path == "fused":
        pytest.importorskip("numba", reason="of the extra `fused`")
    p, q = (torch.nn.Parameter(torch.ones(size, 4)) for size in (6, 3))
    optimizer = isostep_torch.Adafactor([p, q], **{path: True})
    for _ in range(3):
        p.grad, q.grad = torch.ones(6, 4), torch.ones(3, 4)
        optimizer.step()
    p.grad, q.grad = torch.ones(6, 4), p.detach()[:3]
    before = [x.detach().clone() for x in (p, q)]
    with pytest.raises(ValueError, match="shares memory with another array; pass copies"):
        optimizer.step()
    assert all(torch.equal(x, y) for x, y in zip((p, q), before, strict=True))


@pytest.mark.parametrize("count", [1, 3])
def test_what_passes_keep_is_let_go_of_at_its_last_use(count):
    """Five iterations of Muon keep two matrices each, one with a view; a stack is one array of this size."""
    pytest.importorskip("numba", reason="of the extra `fused`")
    params = [torch.nn.Parameter(torch.ones(520, 520)) for _ in range(count)]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = isostep_torch.Muon(params, lr=0.1, fused=True)
    optimizer.step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as seen:
        optimizer.step()
    now, most = 0, 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    assert 1 < most / params[0].nbytes < 5


def test_an_array_that_does_not_lie_flat_is_copied_once(monkeypatch):
    pytest.importorskip("numba", reason="of the extra `fused`")
    from isostep_torch.fused_cpu import TorchFused

    copied, flat = [], TorchFused.flat
    monkeypatch.setattr(TorchFused, "flat", lambda self, a: copied.append(a.shape) or flat(self, a))
    p = torch.nn.Parameter(torch.ones(6, 8)[:, ::2])
    p.grad = torch.ones_like(p)
    isostep_torch.Adafactor([p], lr=0.1, fused=True).step()
    assert copied.count((6, 4)) == 2  # once of the parameter, once of the gradient
