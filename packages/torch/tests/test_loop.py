"""``torch:loop``: in place, outside autograd, halves computed in float32, and NumPy's bits."""

import copy
import sys

import numpy as np
import pytest
import torch

import isostep
from isostep import pieces, schedules
from isostep.rule import compose
from isostep.state import StepError

BACKEND = isostep.backend("torch:loop")
REFERENCE = isostep.backend("numpy:reference")
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
ADAMW = isostep.rule("adamw", lr=0.1, betas=(0.8, 0.7), eps=1e-3, weight_decay=0.1)


def tensors(shapes=((5, 3), (7,), ()), dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


def run(rule, params, rounds, backend=BACKEND):
    state = backend.init(rule, params)
    for grads in rounds:
        params, state = backend.step(rule, params, grads, state)
    return params, state


def test_torch_is_found_by_name():
    assert BACKEND.name == "torch:loop"
    assert isinstance(BACKEND, isostep.Backend)
    assert isostep.backend("torch").name.startswith("torch:")
    with pytest.raises(
        isostep.BackendError, match=r"^torch has no path 'fast'; it has ([\w()]+, )*loop"
    ):
        isostep.backend("torch:fast")


def test_steps_are_in_place_and_leave_the_gradient():
    params, (grads,) = tensors(), [tensors(seed=1)]
    places, kept = [p.data_ptr() for p in params], [g.clone() for g in grads]
    state = BACKEND.init(ADAMW, params)
    owned = [{n: a.data_ptr() for n, a in own.items()} for own in state.arrays]
    before = [p.clone() for p in params]
    found, after = BACKEND.step(ADAMW, params, grads, state)
    assert found is params
    assert after is state
    assert [p.data_ptr() for p in params] == places
    assert [{n: a.data_ptr() for n, a in own.items()} for own in state.arrays] == owned
    assert all(torch.equal(g, k) for g, k in zip(grads, kept, strict=True))
    assert all((p != b).all() for p, b in zip(params, before, strict=True))
    assert state.t == [1, 1, 1]


def test_parameters_of_a_network_are_stepped_outside_autograd():
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    params = list(net.parameters())
    net(torch.ones(4, 3)).square().sum().backward()
    gradients = [p.grad for p in params]
    values = [g.clone() for g in gradients]
    plain = [p.detach().clone() for p in params]
    state = BACKEND.init(ADAMW, params)
    BACKEND.step(ADAMW, params, gradients, state)
    run(ADAMW, plain, [values])
    for p, g, v, wanted in zip(params, gradients, values, plain, strict=True):
        assert torch.equal(p.detach(), wanted)
        assert p.requires_grad
        assert p.is_leaf
        assert p.grad_fn is None
        assert p.grad is g
        assert torch.equal(g, v)
    for own in state.arrays:
        assert not any(a.requires_grad for a in own.values())
    net(torch.ones(4, 3)).sum().backward()  # autograd goes on as if nothing had been


def test_gradients_and_states_that_require_grad_do_not_matter():
    params = [torch.ones(3, requires_grad=True)]
    grads = [torch.ones(3, requires_grad=True) * 2]
    assert grads[0].grad_fn is not None
    rule = compose(isostep.rule("addsign"), pieces.lookahead(2))
    _, state = run(rule, params, [grads, grads])
    assert params[0].grad_fn is None
    assert not any(a.requires_grad for a in state.arrays[0].values())


# torch's float32 square root on the CPU is not always NumPy's (correctly rounded) one: half precision hides it.
ROOTED = [
    ADAMW,
    isostep.rule("adam", amsgrad=True, dialect="optax", weight_decay=0.1),
    compose(isostep.rule("adamw"), pieces.lookahead(2)),
]
EXACT = [
    isostep.rule("addsign", sign_internal_decay=schedules.CosineInternalDecay(3)),
    isostep.rule("sgd", momentum=0.9, nesterov=True, weight_decay=0.1),
    compose(isostep.rule("addsign"), pieces.lookahead(2)),
]


@pytest.mark.whole
@pytest.mark.parametrize(
    ("rule", "dtype"),
    [*((r, d) for r in EXACT for d in DTYPES), *((r, d) for r in ROOTED for d in DTYPES[2:])],
    ids=str,
)
def test_bits_of_the_reference(rule, dtype):
    params, rounds = tensors(dtype=dtype), [tensors(dtype=dtype, seed=k) for k in (1, 2, 3)]
    rounds[1][1] = None
    arrays = [BACKEND.to_numpy(p) for p in params]
    numbers = [[None if g is None else BACKEND.to_numpy(g) for g in grads] for grads in rounds]
    found, state = run(rule, params, rounds)
    wanted, wanted_state = run(rule, arrays, numbers, REFERENCE)
    assert state.t == wanted_state.t == [3, 2, 3]
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype is dtype
        np.testing.assert_array_equal(BACKEND.to_numpy(a), b, strict=True)
    for own, others in zip(state.arrays, wanted_state.arrays, strict=True):
        for name, a in own.items():
            assert a.dtype is dtype
            np.testing.assert_array_equal(BACKEND.to_numpy(a), others[name], strict=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_halves_compute_in_float32_and_round_once(dtype):
    p, g = tensors([(257,)], dtype)[0], tensors([(257,)], dtype, seed=1)[0]
    rule = isostep.rule("sgd", lr=0.3, momentum=0.9, weight_decay=0.1)
    wide = g.float() + 0.1 * p.float()
    (found,), state = run(rule, [p.clone()], [[g]])
    assert torch.equal(found, (p.float() + -0.3 * wide).to(dtype))
    assert torch.equal(state.arrays[0]["momentum_buffer"], wide.to(dtype))
    rounded_everywhere = p - 0.3 * (g + 0.1 * p)
    assert not torch.equal(found, rounded_everywhere)


def test_arrays_of_any_layout():
    memory = torch.arange(40.0).reshape(8, 5)
    views = [memory[::2, 1:4], memory[1::2].T]
    plain = [v.clone().contiguous() for v in views]
    outside = memory[::2, ::4].clone()
    grads = [tensors([v.shape], seed=3)[0] for v in views]
    state = run(ADAMW, views, [grads, [g.T.contiguous().T for g in grads]])[1]
    run(ADAMW, plain, [grads, grads])
    for view, wanted in zip(views, plain, strict=True):
        assert not view.is_contiguous()
        assert torch.equal(view, wanted)
    assert torch.equal(memory[::2, ::4], outside)
    assert [a.shape for a in state.arrays[1].values()] == [(5, 4)] * 2


def test_an_old_parameter_as_state_is_the_old_one():
    def update(p, g, before, t, /, *, lr):
        return -lr * g, p

    part = isostep.Rule(
        name="mine", update=update, state=("before",), hyper={"lr": isostep.domains.Real(0.5)}
    )
    (p,), state = run(part.bind(), [torch.tensor([4.0])], [[torch.tensor([2.0])]])
    assert p.item() == 3
    assert state.arrays[0]["before"].item() == 4


def test_sign_of_nan_is_nan():
    rule = isostep.rule("addsign", beta=0.0)
    (p,), _ = run(rule, [torch.zeros(3)], [[torch.tensor([torch.nan, 0.0, -0.0])]])
    assert p.isnan().tolist() == [True, False, False]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_arrays_are_copied_in_and_out(dtype):
    (a,) = tensors([(2, 3)], dtype)
    outside = BACKEND.to_numpy(a)
    inside = BACKEND.asarray(outside)
    assert inside.dtype is dtype
    assert torch.equal(inside, a)
    outside[...] = 0
    assert torch.equal(inside, a)
    assert BACKEND.to_numpy(BACKEND.asarray(np.array(2.5))).shape == ()
    leaf = torch.ones(2, requires_grad=True)
    assert BACKEND.to_numpy(leaf).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("params", "grads", "text"),
    [
        (
            [torch.arange(3)],
            [torch.ones(3)],
            "params[0] must be one of float64, float32, bfloat16, float16, got int64; cast it first",
        ),
        (
            [torch.ones(3)],
            [torch.ones(3, dtype=torch.float64)],
            "gradient of params[0] must have dtype float32, got float64; cast it first",
        ),
        (
            [torch.ones(3)],
            [torch.ones(3, 1)],
            "gradient of params[0] must have shape (3,), got (3, 1)",
        ),
        ([torch.ones(3)], [], "grads must have one entry per parameter (1), got 0"),
    ],
)
def test_errors_change_nothing(params, grads, text):
    state = BACKEND.init(ADAMW, [torch.ones(3)])
    before = copy.deepcopy((params, state.arrays))
    with pytest.raises(StepError) as caught:
        BACKEND.step(ADAMW, params, grads, state)
    assert str(caught.value) == f"adamw: {text}"
    assert torch.equal(params[0], before[0][0])
    assert state.t == [0]
    assert all(torch.equal(a, before[1][0][n]) for n, a in state.arrays[0].items())


def test_a_bfloat16_numpy_array_without_ml_dtypes_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    text = r"a bfloat16 NumPy array needs the package 'ml_dtypes'; pip install 'isostep\[halves\]'"
    with pytest.raises(isostep.MissingExtra, match=text):
        isostep.backend("torch:loop").to_numpy(torch.ones(2, dtype=torch.bfloat16))


def test_group_state_is_a_tensor_of_the_compute_dtype():
    rule = isostep.rule("sgd_hd", lr=0.5, hypergrad_lr=0.25)
    params, grads = [torch.zeros(2, dtype=torch.bfloat16)], [torch.ones(2, dtype=torch.bfloat16)]
    state = BACKEND.init(rule, params)
    assert state.group["lr"].dtype is torch.float32
    assert state.group["lr"].shape == ()
    for _ in range(2):
        BACKEND.step(rule, params, grads, state)
    assert state.group["lr"].item() == 0.5 + 0.25 * 2
    assert params[0].tolist() == [-1.5, -1.5]


def test_schedules_take_tensors():
    for schedule in (
        schedules.LinearInternalDecay(10),
        schedules.RestartCosineInternalDecay(10, 3, 2),
    ):
        for t in (0, 4, 25):
            found = schedule(torch.tensor(t))
            assert isinstance(found, torch.Tensor)
            assert found.item() == pytest.approx(schedule(t), abs=1e-6)


@pytest.mark.gpu
def test_the_device_is_kept():
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    for rule in (ADAMW, isostep.rule("sgd_hd", hypergrad_lr=0.25), isostep.rule("adafactor")):
        params = [p.cuda() for p in tensors()]
        grads = [g.cuda() for g in tensors(seed=1)]
        _, state = run(rule, params, [grads, grads])
        wanted, _ = run(rule, tensors(), [tensors(seed=1)] * 2)
        arrays = [a for own in state.arrays for a in own.values()]
        assert {a.device for a in (*params, *arrays, *state.group.values())} == {params[0].device}
        for a, b in zip(params, wanted, strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-5, atol=1e-6)
