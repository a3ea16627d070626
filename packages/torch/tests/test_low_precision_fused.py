"""Low precision as kernels load and store it, against ``torch:loop``, which opens and closes arrays around a step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import isostep
from isostep.domains import REQUIRED
from isostep.lower.layout import layout
from isostep.program import trace
from isostep.storage import LOST, MASTER, Storage
from isostep_torch import load_optimizer, paths, rounding

pytest.importorskip("numba", reason="of the extra `fused`")

WAYS = {
    "stochastic": {"stochastic_rounding": True, "rounding_seed": -7},
    "stochastic-float32": {
        "stochastic_rounding": True, "state_dtype": torch.float32, "maximize": True
    },
    "kahan": {"kahan": True},
    "master": {"master_weights": True, "maximize": True},
    "master-float32": {"master_weights": True, "state_dtype": torch.float32},
    "float32": {"state_dtype": torch.float32},
    "float64": {"state_dtype": torch.float64},
    "maximize": {"maximize": True},
}  # fmt: skip
HALVES = [torch.bfloat16, torch.float16]
LOOP = {"fused": False, "foreach": False}


def bound(name):
    hyper = isostep.definition(name).hyper
    return isostep.rule(name, **{n: 0.1 for n, d in hyper.items() if d.default is REQUIRED})


RULES = [n for n in isostep.rules() if layout(trace(bound(n)), "float32").obstacle is None]


@pytest.fixture
def interpreted(monkeypatch):
    """CPU tensors in place of CUDA's: Triton's interpreter."""
    pytest.importorskip("triton", reason="needs triton, which runs the kernels")
    from isostep_torch.fused_cuda import TorchInterpreter
    from isostep_torch.fused_traced import TracedInterpreter

    on_cpu, make = paths._on_cpu, paths.make
    there = {"on": False}
    monkeypatch.setattr(paths, "_on_cuda", lambda params: there["on"])
    monkeypatch.setattr(paths, "_on_cpu", lambda params: not there["on"] and on_cpu(params))
    kinds = {True: TracedInterpreter, False: TorchInterpreter}
    device = "torch:fused(cuda)"
    monkeypatch.setattr(
        paths, "make", lambda n, g: kinds[paths.traced(g)]() if n == device else make(n, g)
    )
    return there


def tensors(definition, dtype):
    """Half and float32 parameters, one of them strided, all in one group."""
    torch.manual_seed(0)
    shapes = [(4, 3), (8, 16)] if definition.ndim else [(4, 3), (70,), ()]
    found = [torch.randn(s).to(d) for s in shapes for d in (dtype, torch.float32)]
    found[0] = found[0].T.contiguous().T
    return [torch.nn.Parameter(x) for x in found]


def arrays(optimizer, params):
    return [
        {"p": p.detach()} | {n: a for n, a in optimizer.state[p].items() if n != "step"}
        for p in params
    ]


def agree(ours, theirs, exact):
    """Equal, but where the last bit of the arithmetic makes one in fifty halves round the other way."""
    for own, other in zip(ours, theirs, strict=True):
        assert list(own) == list(other)
        pairs = [(own[n], a) for n, a in other.items()]
        if (
            LOST in own
        ):  # the sum is what counts: where p rounds the other way, so does what it lost
            whole = [x["p"].double() + x[LOST].double() for x in (own, other)]
            torch.testing.assert_close(*whole, rtol=2e-5, atol=1e-6)
            pairs = [(own[n], a) for n, a in other.items() if n not in ("p", LOST)]
        for x, y in pairs:
            assert x.dtype is y.dtype
            assert x.shape == y.shape
            if x.dtype not in HALVES:
                torch.testing.assert_close(x, y, rtol=3e-6, atol=3e-7)  # of numbers near 1
                continue
            off = (x != y) & ~(x.isnan() & y.isnan())
            assert off.sum() <= (0 if exact else 1 + x.numel() / 50)
            spacing = 2.0 ** (-7 if x.dtype is torch.bfloat16 else -10)
            torch.testing.assert_close(x.double(), y.double(), rtol=spacing, atol=1e-4)


def steps(name, way, dtype, options, there=None, exact=False, here=True):
    """Three steps from the same state on both paths; the fused optimizer."""
    definition = isostep.definition(name)
    params, twins = tensors(definition, dtype), tensors(definition, dtype)
    make = load_optimizer(name)
    hyper = {n: 0.1 for n, d in definition.hyper.items() if d.default is REQUIRED}
    ours, loop = make(params, **hyper, **way, **options), make(twins, **hyper, **way, **LOOP)
    for k in range(3):
        for optimizer, own in ((ours, params), (loop, twins)):
            torch.manual_seed(k)
            for i, p in enumerate(own):
                g = torch.randn_like(p)
                p.grad = None if k == 1 and i == 0 else g
            given = {
                n: {p: p.grad.abs() + 0.1 for p in own if p.grad is not None}
                for n in definition.inputs
            }
            if there is not None:
                there["on"] = optimizer is ours
            optimizer.step(**given, **dict.fromkeys(definition.group_inputs, torch.tensor(0.7)))
        agree(arrays(ours, params), arrays(loop, twins), exact)
        with torch.no_grad():
            for own, other in zip(arrays(ours, params), arrays(loop, twins), strict=True):
                for n, a in own.items():
                    a.copy_(other[n])
    (kept,) = ours._kept.values()
    assert kept.state.storage != Storage()
    assert bool(kept.state.plan) == here  # it was the kernels that loaded and stored
    return ours


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    ("name", "way", "dtype"), list(itertools.product(RULES, WAYS, HALVES)), ids=str
)
def test_fused_steps_on_the_cpu(name, way, dtype):
    steps(name, WAYS[way], dtype, {"fused": True})


@pytest.mark.whole  # for triton
@pytest.mark.sampled(16)
@pytest.mark.parametrize("capturable", [False, True], ids=["host", "capturable"])
@pytest.mark.parametrize(
    ("name", "way", "dtype"), list(itertools.product(RULES, WAYS, HALVES)), ids=str
)
def test_the_kernels_of_cuda_in_the_interpreter(interpreted, name, way, dtype, capturable):
    """Where counts are on the device, rules with several kinds of step take foreach."""
    here = not (capturable and len(bound(name).kinds()) > 1)
    steps(name, WAYS[way], dtype, {"capturable": capturable}, interpreted, here=here)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_rule_without_sums_takes_the_same_bits(way, dtype):
    """SGD with momentum is products and sums of two: nothing that a kernel may round otherwise."""
    way = {**WAYS[way], "momentum": 0.9}
    steps("sgd", way, dtype, {"fused": True}, exact=True)


@pytest.mark.parametrize("way", WAYS)
def test_figures_are_those_of_what_the_rule_stepped(way):
    found = []
    for options in ({"fused": True}, LOOP):
        params = tensors(isostep.definition("adamw"), torch.bfloat16)
        optimizer = load_optimizer("adamw")(params, lr=0.1, **WAYS[way], **options)
        observer = optimizer.observe()
        for p in params:
            p.grad = torch.full_like(p, 0.3)
        optimizer.step()
        found.append(observer.rows())
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    for n, row in theirs.items():
        assert ours[n] == pytest.approx(row, rel=1e-4, abs=1e-6, nan_ok=True)


# The rounding itself.


def as_tensor(bits, dtype):
    return torch.from_numpy(np.asarray(bits, np.uint16).view(np.int16)).view(dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("seed", "step"), [(0, 1), (-1, 3), (2**40 + 5, 2**25 + 1)])
@pytest.mark.parametrize("array", [0, 1, 4, 5])
def test_the_kernel_s_rounding_is_that_of_tensors(dtype, seed, step, array):
    from numba import njit

    from isostep.lower import numba_support

    narrow = getattr(numba_support, f"round_{str(dtype)[6:]}")
    key_of, hash_of, noise_of = (
        getattr(numba_support, n) for n in ("key_of", "hash_of", "noise_of")
    )

    @njit
    def all_of(x, start):
        key = key_of(float(seed), float(step), 5)
        out = np.empty(len(x), np.uint16)
        for k in range(len(x)):
            noise = noise_of(hash_of(key, start + k), key, array // 2, start + k)
            out[k] = narrow(x[k], noise >> (16 * (array % 2)))
        return out

    torch.manual_seed(0)
    x = torch.randn(4000) * 10.0 ** torch.linspace(-9, 5, 4000)
    odd = [
        0.0,
        -0.0,
        1.0,
        torch.inf,
        -torch.inf,
        torch.nan,
        65504.0,
        65505.0,
        65520.0,
        3.4e38,
        -3.4e38,
    ]
    x = torch.cat([x, torch.tensor([*odd, 2.0**-14, -(2.0**-24), 2.0**-25, 1e-42])])
    wanted = torch.empty_like(x, dtype=dtype)
    key = rounding.key_of(seed, step, 5, x.device)
    rounding.stochastic_(wanted, x, key, array)
    found = as_tensor(all_of(x.numpy(), 0), dtype)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
    assert (torch.signbit(found) == torch.signbit(wanted))[~x.isnan()].all()
    far = (1 << 33) + rounding.BLOCK  # beyond what 32 bits count
    rounding._block(wanted, x, key, array, far)
    found = as_tensor(all_of(x.numpy(), far), dtype)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


# What else may come.


def test_inputs_of_another_dtype_are_converted():
    """A Hessian in float32 beside bfloat16 weights is not rounded to theirs."""
    found = []
    for options in ({"fused": True}, LOOP):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 9).bfloat16())
        optimizer = load_optimizer("sophia")([p], lr=0.1, master_weights=True, **options)
        p.grad = torch.full_like(p, 0.3)
        optimizer.step(hessian_diag={p: torch.linspace(0.001, 0.3, 9)})
        found.append(optimizer.state[p][MASTER])
    torch.testing.assert_close(*found, rtol=1e-6, atol=0)


def test_options_may_change_between_steps():
    p = torch.nn.Parameter(torch.ones(5, dtype=torch.bfloat16))
    optimizer = load_optimizer("sgd")([p], lr=0.1, momentum=0.5)
    (group,) = optimizer.param_groups
    for way in (
        {},
        {"kahan": True},
        {"kahan": False},
        {"maximize": True},
        {"stochastic_rounding": True},
    ):
        group.update(way)
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert set(optimizer.state[p]) == {"step", "momentum_buffer"}  # what kahan kept went with it
    optimizer.state[p]["momentum_buffer"] = optimizer.state[p]["momentum_buffer"].float()
    before = p.detach().clone()
    optimizer.step()  # state of another dtype than the options say is opened
    assert not torch.equal(before, p)
    assert optimizer.state[p]["momentum_buffer"].dtype is torch.float32


def test_the_noise_does_not_depend_on_the_layout_in_memory():
    found = []
    for options, layout_of in itertools.product(
        ({"fused": True}, LOOP), (torch.contiguous_format, torch.channels_last)
    ):
        torch.manual_seed(0)
        p = torch.randn(2, 3, 4, 5).bfloat16().to(memory_format=layout_of)
        p = torch.nn.Parameter(p)
        optimizer = load_optimizer("sgd")([p], lr=1e-3, stochastic_rounding=True, **options)
        p.grad = torch.ones_like(p)
        optimizer.step()
        found.append(p.detach().contiguous())
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("maximize", [False, True])
def test_gradients_are_unscaled_as_they_are_loaded(dtype, maximize):
    found = []
    for options in ({"fused": True}, LOOP):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 9).to(dtype))
        optimizer = load_optimizer("sgd")([p], lr=0.125, maximize=maximize, **options)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
        p.grad = torch.linspace(-64, 640, 9).to(dtype)
        kept = p.grad.clone()
        optimizer.step()
        assert torch.equal(p.grad, kept)
        del optimizer.grad_scale, optimizer.found_inf
        p.grad = torch.ones_like(p)  # the next step is not scaled
        optimizer.step()
        found.append(p.detach())
    assert torch.equal(*found)
