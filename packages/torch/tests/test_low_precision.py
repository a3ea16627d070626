"""Half-precision parameters that keep learning: stochastic rounding, Kahan's pair, master weights, state_dtype."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch

import isostep
from isostep_torch import load_optimizer
from isostep_torch.rounding import key_of, stochastic_

pytestmark = pytest.mark.whole  # not for want of a package: minutes of work, and once is enough

PATHS = [
    {"fused": True},
    {"foreach": True},
    {"fused": False, "foreach": False},
    {"capturable": True},
]
IDS = ["fused", "foreach", "loop", "capturable"]
WAYS = [
    {"stochastic_rounding": True},
    {"kahan": True},
    {"master_weights": True},
    {"master_weights": True, "state_dtype": torch.float32},
]
HALVES = [torch.bfloat16, torch.float16]


# A derivation of the rounding in NumPy, from the text of isostep.rounding.


def mix(x):
    x = np.asarray(x, np.uint32)
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def noise_of(count, seed, step, parameter, array):
    with np.errstate(over="ignore"):
        key = mix(np.uint32(seed % 2**32))
        for word in (step, parameter):
            key = mix(key + np.uint32(word))
        hashed = mix(
            mix(np.arange(count, dtype=np.uint32) + key) + mix(key + np.uint32(array // 2))
        )
        return hashed >> np.uint32(16) if array % 2 else hashed


def rounded(values, dtype, noise):
    """The neighbour below |x|, or the one above where the noise passes what is missing to it; exact arithmetic."""
    bits, digits, smallest = (16, 8, -126) if dtype is torch.bfloat16 else (13, 11, -14)
    out = []
    for x, r in zip(values.astype(np.float64), noise, strict=True):
        if not abs(x) <= torch.finfo(dtype).max:
            out.append(float(torch.tensor(x, dtype=torch.float32).to(dtype)))
            continue
        exponent = max(int(np.frexp(x)[1]) - 1, smallest)
        unit = 2.0 ** (exponent - digits + 1)
        whole, part = divmod(abs(x) / unit, 1.0)
        up = int(part * 2**bits) > 2**bits - 1 - int(r) % 2**bits
        out.append(np.copysign((whole + up) * unit, x))
    return np.array(out)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_stochastic_rounding_is_its_derivation(dtype):
    torch.manual_seed(0)
    x = torch.cat([torch.randn(3000) * 10.0 ** torch.linspace(-7, 4, 3000), torch.zeros(2)])
    x = torch.cat([x, torch.tensor([torch.inf, -torch.inf, 65504.0, 65520.0, -0.0, 1.0])])
    found = torch.empty_like(x, dtype=dtype)
    stochastic_(found, x, key_of(7, 3, 5, x.device), 2)
    wanted = rounded(x.numpy(), dtype, noise_of(len(x), 7, 3, 5, 2))
    np.testing.assert_array_equal(found.double().numpy(), wanted)
    nothing = torch.empty(1, dtype=dtype)
    stochastic_(nothing, torch.tensor([torch.nan]), key_of(7, 3, 5, x.device), 2)
    assert nothing.isnan().all()


def test_the_noise_of_blocks_and_its_mean():
    from isostep_torch import rounding

    x = torch.full((rounding.BLOCK + 5,), 1.0 + 2.0**-9)  # a quarter of bfloat16's spacing
    out = torch.empty_like(x, dtype=torch.bfloat16)
    stochastic_(out, x, key_of(0, 1, 0, x.device), 0)
    share = (out > 1).double().mean().item()
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / len(x)) ** 0.5)
    noise = noise_of(len(x), 0, 1, 0, 0)
    np.testing.assert_array_equal((out > 1).numpy(), (noise & 0xFFFF) >= 0xC000)
    again = torch.empty_like(out)
    stochastic_(again, x, key_of(0, torch.tensor(1.0), 0, x.device), 0)
    assert torch.equal(out, again)


# Steps.


def problem(dtype):
    """Weights of one, from which bfloat16 cannot take steps of 1e-3 down."""
    return torch.nn.Parameter(torch.full((257,), 1.0, dtype=dtype))


def run(options, dtype, steps, name="sgd", **hyper):
    p = problem(dtype)
    optimizer = load_optimizer(name)([p], **{"lr": 1e-3, **hyper}, **options)
    for _ in range(steps):
        p.grad = torch.ones_like(p)
        optimizer.step()
    return p, optimizer


def test_plain_bfloat16_stalls():
    p, _ = run({}, torch.bfloat16, 150)
    assert (p == 1).all()


@pytest.mark.parametrize("options", PATHS, ids=IDS)
@pytest.mark.parametrize("way", WAYS, ids=["stochastic", "kahan", "master", "master-float32"])
@pytest.mark.parametrize("name", ["sgd", "addsign", "adamw"])
def test_bfloat16_keeps_learning(name, way, options):
    hyper = {
        "sgd": {},
        "addsign": {"alpha": 0.0},
        "adamw": {"betas": (0.9, 0.9), "weight_decay": 0.0},  # what bfloat16 state can follow
    }
    p, _ = run({**way, **options}, torch.bfloat16, 150, name, **hyper[name])
    assert p.float().mean().item() == pytest.approx(0.85, abs=0.01)


@pytest.mark.parametrize("options", PATHS, ids=IDS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("way", ["stochastic_rounding", "kahan", "master_weights"])
def test_each_way_is_its_derivation(way, dtype, options):
    """SGD with momentum on every path, against NumPy float32 and torch's conversions."""
    torch.manual_seed(1)
    p = torch.nn.Parameter(torch.randn(300).to(dtype))
    hyper = {"lr": 0.01, "momentum": 0.75}
    optimizer = load_optimizer("sgd")([p], **hyper, **{way: True, "rounding_seed": 11}, **options)

    def store(x, step, array):
        if way == "stochastic_rounding":
            return rounded(x, dtype, noise_of(len(x), 11, step, 0, array)).astype(np.float32)
        return nearest(x)

    def nearest(x):
        return torch.from_numpy(np.asarray(x, np.float32)).to(dtype).float().numpy()

    w, b = p.detach().float().numpy(), np.zeros(300, np.float32)
    whole, lost = w.copy(), np.zeros(300, np.float32)
    for k in range(8):
        p.grad = torch.randn(300).to(dtype)
        g = p.grad.float().numpy()
        optimizer.step()
        start = {"stochastic_rounding": w, "kahan": w + lost, "master_weights": whole}[way]
        m = np.float32(0.75) * b + g
        whole = start + np.float32(-0.01) * m
        w, b = store(whole, k + 1, 0), store(m, k + 1, 1)
        lost = nearest(whole - w)
        # kernels may contract a * b + c: at most an ulp of float32 away, which rarely rounds elsewhere
        same = p.detach().float().numpy() == w
        assert same.mean() > 0.99
        w = p.detach().float().numpy()
        own = {n: v.float().numpy().copy() for n, v in optimizer.state[p].items()}
        assert (own["momentum_buffer"] == b).mean() > 0.99
        b = own["momentum_buffer"]
        if way == "kahan":
            np.testing.assert_allclose(own["kahan_compensation"][same], lost[same], atol=1e-6)
            assert optimizer.state[p]["kahan_compensation"].dtype is dtype
            lost = own["kahan_compensation"]
        if way == "master_weights":
            np.testing.assert_allclose(own["master_weight"], whole, rtol=3e-7)
            assert optimizer.state[p]["master_weight"].dtype is torch.float32
            whole = own["master_weight"]


def test_loop_foreach_and_fused_draw_the_same_noise():
    found = [run({"stochastic_rounding": True, **o}, torch.bfloat16, 20)[0] for o in PATHS]
    assert all(torch.equal(found[0], p) for p in found)
    other = run({"stochastic_rounding": True, "rounding_seed": 1}, torch.bfloat16, 20)[0]
    assert not torch.equal(found[0], other)


@pytest.mark.parametrize("options", PATHS, ids=IDS)
@pytest.mark.parametrize(
    ("dtype", "state"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
    ],
    ids=str,
)
def test_state_dtype(dtype, state, options):
    torch.manual_seed(0)
    p, q = (torch.nn.Parameter(torch.linspace(-1, 1, 50).to(dtype)) for _ in range(2))
    optimizer = load_optimizer("adamw")([p, q], lr=0.1, state_dtype=state, **options)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    m, v, w = (np.zeros(50, str(wide)[6:]) for _ in range(3))
    w = p.detach().to(wide).numpy().copy()
    for k in range(5):
        p.grad = torch.randn(50).to(dtype)
        q.grad = None if k == 1 else torch.ones_like(q)
        g = p.grad.to(wide).numpy()
        optimizer.step()
        m = m + 0.1 * (g - m)
        v = 0.999 * v + 0.001 * g * g
        t = k + 1
        w = w * (1 - 0.1 * 0.01) - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        m, v = (torch.from_numpy(x.astype(w.dtype)).to(state).to(wide).numpy() for x in (m, v))
        w = torch.from_numpy(w).to(dtype).to(wide).numpy()
        own = optimizer.state[p]
        assert {a.dtype for n, a in own.items() if n != "step"} == {state}
        half = torch.bfloat16 in (dtype, state)
        bound = 1e-2 if half else 1e-5
        np.testing.assert_allclose(own["exp_avg"].to(wide).numpy(), m, rtol=bound, atol=bound / 10)
        np.testing.assert_allclose(p.detach().to(wide).numpy(), w, rtol=bound, atol=bound)
        w = p.detach().to(wide).numpy().copy()
        m, v = (own[n].to(wide).numpy().copy() for n in ("exp_avg", "exp_avg_sq"))


#: A parameter's dtype, and another that its ``grad_dtype`` allows its gradient.
MIXED = [
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.float64, torch.float32),
    (torch.float32, torch.float64),
]


@pytest.mark.parametrize("options", PATHS, ids=IDS)
@pytest.mark.parametrize("name", ["sgd", "adamw", "nadam", "adafactor"])
@pytest.mark.parametrize(("dtype", "other"), MIXED, ids=str)
def test_a_gradient_of_a_dtype_of_its_own_is_taken_as_it_is(dtype, other, name, options):
    """Its step is that of the same numbers in the compute dtype, rounded once."""
    torch.manual_seed(0)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    hyper = {"momentum": 0.9} if name == "sgd" else {}
    p, idle = (torch.nn.Parameter(torch.randn(4, 3).to(dtype)) for _ in range(2))
    q = torch.nn.Parameter(p.detach().to(wide))
    if not hasattr(p, "grad_dtype"):
        pytest.skip("this torch has no gradients of another dtype")
    p.grad_dtype = None
    optimizer, twin = (load_optimizer(name)([x], lr=0.1, **hyper, **options) for x in (p, q))
    optimizer.add_param_group({"params": [idle]})
    for k in range(4):
        g = torch.randn(4, 3).to(dtype if k == 2 else other)
        p.grad, q.grad = g, g.to(wide)
        optimizer.step()
        twin.step()
        mine, theirs = ({"p": x.detach(), **o.state[x]} for x, o in ((p, optimizer), (q, twin)))
        for n in mine.keys() - {"step"}:
            assert mine[n].dtype is (torch.float32 if n == "mu_product" else dtype)
            assert torch.equal(mine[n], theirs[n].to(mine[n].dtype)), n
            theirs[n].copy_(mine[n])
    # One that nobody has allowed is still an error: of a model that was moved, it was left behind.
    p.grad_dtype, p.grad = other, torch.ones(4, 3, dtype=other)
    p.grad.data = torch.ones(4, 3, dtype=torch.complex64)
    before = p.detach().clone()
    with pytest.raises(
        ValueError, match=r"gradient of params\[0\] must have dtype \w+, got complex"
    ):
        optimizer.step()
    assert torch.equal(p, before)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("way", WAYS, ids=["stochastic", "kahan", "master", "master-float32"])
@pytest.mark.parametrize("name", isostep.rules())
def test_state_dicts_keep_what_the_options_keep(name, way):
    """Saved and loaded in mid-run, the run goes on with the same bits; no array changes its dtype."""
    definition = isostep.definition(name)
    shape = (4, 3) if definition.ndim else (7,)

    def start():
        torch.manual_seed(0)
        return [torch.nn.Parameter(torch.randn(shape).bfloat16())]

    def step(opt, ps, k):
        torch.manual_seed(k)
        for p in ps:
            p.grad = torch.randn_like(p)
        given = {n: {p: p.grad.abs() + 0.1 for p in ps} for n in definition.inputs}
        opt.step(**given, **dict.fromkeys(definition.group_inputs, 0.7))

    params = start()
    optimizer = load_optimizer(name)(params, lr=0.01, **way)
    for k in range(3):
        step(optimizer, params, k)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    twins = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = load_optimizer(name)(twins, lr=0.5)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for k in range(3, 6):
        step(optimizer, params, k)
        step(other, twins, k)
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)
        for n, value in optimizer.state[p].items():
            assert torch.equal(value, other.state[q][n])
            assert value.dtype is other.state[q][n].dtype


def test_other_dtypes_in_the_same_group_are_not_touched():
    params = [
        torch.nn.Parameter(torch.linspace(-1, 1, 9).to(d))
        for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    ]
    twins = copy.deepcopy(params)
    a = load_optimizer("adam")(params, lr=0.1, master_weights=True)
    b = load_optimizer("adam")(twins, lr=0.1)
    for k in range(3):
        for each, opt in ((params, a), (twins, b)):
            for p in each:
                p.grad = torch.full_like(p, k - 0.5)
            opt.step()
    assert ["master_weight" in a.state[p] for p in params] == [False, False, True, True]
    for p, q in zip(params[:2], twins[:2], strict=True):
        assert torch.equal(p, q)
    for p in params[2:]:
        assert torch.equal(p, a.state[p]["master_weight"].to(p.dtype))


def test_options_that_make_no_sense():
    p = torch.nn.Parameter(torch.ones(2))
    adam = load_optimizer("adam")
    with pytest.raises(ValueError, match="kahan and master_weights do the same"):
        adam([p], kahan=True, master_weights=True)
    with pytest.raises(
        ValueError, match=r"state_dtype must be None or one of torch.float64.*got 'f"
    ):
        adam([p], state_dtype="float32")
    with pytest.raises(ValueError, match="rounding_seed must be an integer, got 0"):
        adam([p], rounding_seed=0.25)
