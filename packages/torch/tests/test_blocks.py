"""State in blocks of eight bits: the bits of ``isostep.blocks``, on every path, whatever happens to an optimizer."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch

import isostep
import isostep_torch
from isostep import blocks as core
from isostep import rounding as noises
from isostep.state import StepError
from isostep_torch import blocks, load_optimizer, rounding, storage

PATHS = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"fused": False, "foreach": False},
    "capturable": {"capturable": True},
}
FORMS = tuple(core.FORMATS)
E4M3, E5M2 = FORMS
SHAPES = ((33, 3), (70,), (), (0,))
REFERENCE = isostep.backend("numpy:reference")

on_every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
in_every_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(autouse=True)
def _without_numba(request):
    if "path" in request.fixturenames and request.getfixturevalue("path").get("fused"):
        pytest.importorskip("numba", reason="of the extra `fused`")


# The bits.


def packed(x, form, noise, place):
    """NumPy's, by core."""
    with np.errstate(all="ignore"):
        low, high = noises.numbered(x.shape)
        drawn = noises.noise_of(np, noises.key_of(np, *noise), place, low, high)
        return core.packed(np, x, form, drawn)


def unpacked(codes, scales, form):
    with np.errstate(all="ignore"):
        return core.unpacked(np, np.asarray(codes), np.asarray(scales), form)


def numbers(shape):
    """Of all sizes, with those that are none."""
    rng = np.random.default_rng(0)
    x = np.asarray(rng.standard_normal(shape) * 10.0 ** rng.uniform(-44, 37, shape), np.float32)
    if x.size > 200:
        x.flat[:32] = 0.0
        x.flat[5:20:2] = [np.nan, np.inf, -np.inf, -0.0, 1e-45, -1e-40, -np.nan, 3e38]
        x.flat[32:96] = rng.standard_normal(64)
        x.flat[96:128] = 1e-41 * rng.standard_normal(32)
        x.flat[128:130] = [np.nan, -np.inf]
    return x


@in_every_form
@pytest.mark.parametrize("place", [0, 1024, 1025])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (31,), (32,), (33,), (5, 7, 9), (0, 4), (1000,)])
def test_bits_are_cores(shape, place, form, monkeypatch):
    monkeypatch.setattr(rounding, "BLOCK", 256)  # in pieces
    x = numbers(shape)
    given = torch.from_numpy(x.copy()).reshape(shape)
    codes, scales = packed(x, form, (-7, 3, 5), place)
    for step in (3, torch.tensor(3.0)):
        found = blocks.packed(given, form, rounding.key_of(-7, step, 5, given.device), place)
        np.testing.assert_array_equal(found[0].numpy(), codes, strict=True)
        np.testing.assert_array_equal(found[1].numpy(), scales, strict=True)
    back = blocks.unpacked(*found, form).numpy()
    wanted = unpacked(codes, scales, form)
    np.testing.assert_array_equal(back, wanted, strict=True)
    np.testing.assert_array_equal(np.signbit(back), np.signbit(wanted))


@in_every_form
def test_bits_of_what_lies_otherwise_in_memory(form):
    x = torch.from_numpy(numbers((33, 12)))
    key = rounding.key_of(1, 2, 3, x.device)
    wanted = blocks.packed(x, form, key, 1024)
    for other in (x.T.contiguous().T, torch.stack([x, x], -1)[..., 0]):
        assert not other.is_contiguous()
        found = blocks.packed(other, form, key, 1024)
        assert all(map(torch.equal, found, wanted))
        codes = found[0].T.contiguous().T
        again = blocks.unpacked(codes, torch.stack([found[1]] * 2, -1)[:, 0], form)
        torch.testing.assert_close(again, blocks.unpacked(*wanted, form), equal_nan=True)


@in_every_form
def test_every_byte_with_every_scale(form):
    codes = np.tile(np.arange(256, dtype=np.uint8), 256)
    scales = np.repeat(np.arange(256, dtype=np.uint8), 8)
    found = blocks.unpacked(torch.from_numpy(codes), torch.from_numpy(scales), form)
    np.testing.assert_array_equal(found.numpy(), unpacked(codes, scales, form))


# Steps.


def tensors(shapes=SHAPES, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator).to(dtype) for s in shapes]


def parameters(**how):
    return [torch.nn.Parameter(x) for x in tensors(**how)]


def fill(params, k, skip=()):
    for i, (p, g) in enumerate(
        zip(params, tensors([p.shape for p in params], seed=k + 1), strict=True)
    ):
        p.grad = None if i in skip else g.to(p.dtype)


def step(optimizer, params, k, skip=()):
    fill(params, k, skip)
    own = isostep.definition(optimizer.param_groups[0]["rule"])
    given = {n: {p: p.grad.abs() + 0.1 for p in params if p.grad is not None} for n in own.inputs}
    optimizer.step(**given, **dict.fromkeys(own.group_inputs, torch.tensor(0.7)))


def as_numpy(x):
    return x.detach().numpy().copy()


def same(optimizer, params, other, twins):
    """The bits of two optimizers' parameters and state."""
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)
        own, its = optimizer.state[p], other.state[q]
        assert own.keys() == its.keys()
        for n, a in own.items():
            assert a.dtype is its[n].dtype
            assert torch.equal(a, its[n]), n


@in_every_form
@on_every_path
def test_exact_steps_are_the_references(path, form):
    """The bits, of several steps, where arithmetic rounds the same everywhere; some have no gradient now and then."""
    rule = isostep.rule("sgd", lr=0.25, momentum=0.5)
    params = parameters()
    optimizer = load_optimizer("sgd")(
        params, lr=0.25, momentum=0.5, state_dtype=form, rounding_seed=-3, **path
    )
    arrays = [as_numpy(p) for p in params]
    state = REFERENCE.init(rule, arrays, storage=isostep.low_precision(state_dtype=form), seed=-3)
    for k in range(5):
        step(optimizer, params, k, skip=(1,) if k == 2 else ())
        grads = [None if p.grad is None else as_numpy(p.grad) for p in params]
        arrays, state = REFERENCE.step(rule, arrays, grads, state)
        for p, x, own in zip(params, arrays, state.arrays, strict=True):
            np.testing.assert_array_equal(as_numpy(p), x)
            assert optimizer.state[p].keys() == own.keys() | {"step"}
            for n, a in own.items():
                np.testing.assert_array_equal(optimizer.state[p][n].numpy(), a, strict=True)


@on_every_path
def test_noise_goes_by_places_among_all_groups(path):
    """Those of one list of all parameters."""
    made = []
    for cut in (4, 2):
        params = parameters(shapes=((33, 3), (), (70,), (40,)))
        groups = [{"params": some} for some in (params[:cut], params[cut:]) if some]
        optimizer = load_optimizer("sgd")(groups, lr=0.25, momentum=0.5, state_dtype=E4M3, **path)
        run(optimizer, params, 0, 3)
        made.append((optimizer, params))
    same(*made[0], *made[1])


@in_every_form
@pytest.mark.parametrize("name", ["torch:loop", "torch:foreach"])
def test_functional_steps_are_the_references(name, form):
    rule, backend = isostep.rule("sgd", lr=0.25, momentum=0.5), isostep.backend(name)
    found = []
    for own in (REFERENCE, backend):
        params = [own.asarray(as_numpy(x)) for x in tensors()]
        state = own.init(rule, params, storage=isostep.low_precision(state_dtype=form), seed=9)
        for k in range(4):
            grads = [own.asarray(as_numpy(x)) for x in tensors(seed=k + 1)]
            params, state = own.step(rule, params, grads, state)
        kept = [{"p": p} | arrays for p, arrays in zip(params, state.arrays, strict=True)]
        found.append([{n: own.to_numpy(a) for n, a in each.items()} for each in kept])
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys()
        for n, a in one.items():
            np.testing.assert_array_equal(a, other[n], strict=True)


def alike(ours, theirs, form):
    """The same numbers but for one in fifty, which is rounded to the other neighbour."""
    x, y = (torch.from_numpy(unpacked(*both, form)).double() for both in (ours, theirs))
    assert (x != y).sum() <= 1 + x.numel() / 50
    small = 2.0**-9 * float(y.abs().max()) if y.numel() else 0.0
    torch.testing.assert_close(x, y, rtol=2.0 ** -core.FORMATS[form].mantissa, atol=small)


NAMES = ["adamw", "lion", "addsign", "adan", "adadelta", "sophia", "adamp", "lamb"]


@in_every_form
@on_every_path
@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_the_references(name, path, form):
    """From the same state each time."""
    definition = isostep.definition(name)
    shapes = ((33, 3), (8, 16)) if definition.ndim else SHAPES
    rule, params = isostep.rule(name, lr=0.1), parameters(shapes=shapes)
    optimizer = load_optimizer(name)(params, lr=0.1, state_dtype=form, rounding_seed=4, **path)
    arrays = [as_numpy(p) for p in params]
    state = REFERENCE.init(rule, arrays, storage=isostep.low_precision(state_dtype=form), seed=4)
    assert state.storage.packed
    for k in range(3):
        step(optimizer, params, k)
        grads = [as_numpy(p.grad) for p in params]
        given = {n: [abs(g) + np.float32(0.1) for g in grads] for n in definition.inputs}
        with np.errstate(all="ignore"):
            arrays, state = REFERENCE.step(rule, arrays, grads, state, **given)
        for p, x, own in zip(params, arrays, state.arrays, strict=True):
            found = optimizer.state[p]
            torch.testing.assert_close(p.detach(), torch.from_numpy(x), rtol=2e-5, atol=2e-6)
            for n, a in own.items():
                if n in state.storage.packed:
                    scale = n + core.SCALE
                    alike((found[n], found[scale]), (a, own[scale]), form)
                elif n not in state.storage.scales:
                    torch.testing.assert_close(found[n], torch.from_numpy(a), rtol=2e-5, atol=2e-6)
                found[n].copy_(torch.from_numpy(np.asarray(a)))
            p.detach().copy_(torch.from_numpy(x))


@pytest.mark.parametrize("way", ["master_weights", "kahan", "stochastic_rounding"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@on_every_path
def test_halves_have_their_ways_beside(path, dtype, way):
    """The bits of ``torch:loop``'s generic steps."""
    rule, backend = isostep.rule("sgd", lr=0.25, momentum=0.5), isostep.backend("torch:loop")
    params, others = parameters(dtype=dtype), tensors(dtype=dtype)
    options = {way: True, "state_dtype": E4M3}
    optimizer = load_optimizer("sgd")(params, lr=0.25, momentum=0.5, **options, **path)
    state = backend.init(rule, others, storage=isostep.low_precision(**options))
    for k in range(3):
        step(optimizer, params, k)
        backend.step(rule, others, [p.grad for p in params], state)
    for p, q, own in zip(params, others, state.arrays, strict=True):
        assert torch.equal(p, q)
        assert optimizer.state[p].keys() == own.keys() | {"step"}
        assert all(torch.equal(optimizer.state[p][n], a) for n, a in own.items())


def test_a_byte_and_a_quarter_of_one_an_element():
    p = torch.nn.Parameter(torch.ones(64, 50))
    optimizer = isostep_torch.AdamW([p], state_dtype=E4M3)
    step(optimizer, [p], 0)
    arrays = [a for n, a in optimizer.state[p].items() if n != "step"]
    assert {a.dtype for a in arrays} == {torch.uint8}
    assert sum(a.nbytes for a in arrays) == 2 * p.numel() * 33 / 32


def test_small_moves_of_an_average_are_not_lost():
    """An average of ones that moves by a thousandth at a step; to nearest, it would stop at once."""
    p = torch.nn.Parameter(torch.zeros(4096))
    optimizer = isostep_torch.AdamW([p], lr=0.0, state_dtype=E4M3)
    for _ in range(300):
        p.grad = torch.ones_like(p)
        optimizer.step()
    own = optimizer.state[p]
    found = blocks.unpacked(own["exp_avg_sq"], own["exp_avg_sq_scale"], E4M3)
    assert found.mean().item() == pytest.approx(1 - 0.999**300, rel=0.01)


# What is open at a time.


def test_no_more_is_open_than_fits(monkeypatch):
    rule = isostep.rule("adamw", lr=0.1)
    how = isostep.low_precision(state_dtype=E4M3).of_rule(rule)
    params = tensors(((10, 10), (50,), (50,), (1000,), (2,)))
    monkeypatch.setattr(storage, "OPEN", 100 * 4 * 3)
    assert storage.runs(rule, how, params, [0, 1, 2, 3, 4]) == [[0], [1, 2], [3], [4]]
    assert storage.runs(rule, how, params, [1, 4]) == [[1, 4]]
    whole = isostep.low_precision(state_dtype="float64")
    assert storage.runs(rule, whole, params, [0, 3]) == [[0, 3]]
    clipped = isostep.compose(isostep.pieces.clip_by_global_norm(max_norm=1.0), rule)
    for tied in (clipped, isostep.rule("prodigy"), isostep.observe(rule)):
        assert storage.runs(tied, how, params, [0, 3]) == [[0, 3]]


@on_every_path
@pytest.mark.parametrize("name", ["adamw", "nadam"])
def test_steps_in_runs_are_those_of_all_at_once(name, path, monkeypatch):
    path = {"foreach": True} if path.get("fused") else path  # its kernels open nothing
    made = []
    for size in (1 << 26, 1):
        monkeypatch.setattr(storage, "OPEN", size)
        params = parameters()
        optimizer = load_optimizer(name)(params, lr=0.1, state_dtype=E5M2, **path)
        for k in range(3):
            step(optimizer, params, k)
        made.append((optimizer, params))
    same(*made[0], *made[1])
    assert {float(own["step"]) for own in optimizer.state.values()} == {3.0}
    assert {float(kept.state.group_t) for kept in optimizer._kept.values()} == {3.0}


def test_nothing_is_written_before_all_runs_are_checked(monkeypatch):
    monkeypatch.setattr(storage, "OPEN", 1)
    params = parameters()
    optimizer = load_optimizer("sophia")(params, state_dtype=E4M3, foreach=True)
    step(optimizer, params, 0)
    before = copy.deepcopy([params, optimizer.state_dict()["state"]])
    given = {p: torch.ones_like(p) for p in params}
    for wrong, message in (
        (torch.ones(3), r"params\[2\] must have shape"),
        (None, "must be an array"),
    ):
        with pytest.raises(StepError, match=message):
            optimizer.step(hessian_diag={**given, params[2]: wrong})
    optimizer.state[params[1]]["exp_avg_scale"] = torch.zeros(9, dtype=torch.uint8)
    with pytest.raises(
        StepError, match=r"exp_avg_scale must be of shape \(3,\)|exp_avg_scale of params\[1\]"
    ):
        optimizer.step(hessian_diag=given)
    assert all(map(torch.equal, params, before[0]))
    for own, other in zip(
        optimizer.state_dict()["state"].values(), before[1].values(), strict=True
    ):
        assert torch.equal(own["exp_avg"][E4M3], other["exp_avg"][E4M3])


# What happens to an optimizer.


def run(optimizer, params, start, stop):
    for k in range(start, stop):
        step(optimizer, params, k)


@in_every_form
@on_every_path
def test_a_state_dict_goes_on_with_the_same_bits(path, form):
    params = parameters()
    optimizer = isostep_torch.AdamW(params, lr=0.1, state_dtype=form, **path)
    run(optimizer, params, 0, 3)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    twins = copy.deepcopy(params)
    other = isostep_torch.AdamW(twins, state_dtype=form, **path)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    same(optimizer, params, other, twins)
    run(optimizer, params, 3, 5)
    run(other, twins, 3, 5)
    same(optimizer, params, other, twins)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_and_pickles_know_their_form(copied):
    """Also where the option changes before their first step."""
    params = parameters()
    optimizer = isostep_torch.AdamW(params, lr=0.1, state_dtype=E4M3)
    run(optimizer, params, 0, 2)
    for now in (E4M3, E5M2, torch.bfloat16, None):
        twins, other = copied((params, optimizer))
        thirds, again = copied((params, optimizer))
        for each in (other, again):
            each.param_groups[0]["state_dtype"] = now
        run(other, twins, 2, 3)
        again.load_state_dict(again.state_dict())  # and where it is saved and loaded before that
        run(again, thirds, 2, 3)
        same(other, twins, again, thirds)
    run(optimizer, params, 2, 3)
    assert optimizer.state[params[0]]["exp_avg"].dtype is torch.uint8


def test_torchs_state_dict_is_loaded_into_blocks():
    params = parameters()
    theirs = torch.optim.AdamW(params, lr=0.1)
    for k in range(3):
        fill(params, k)
        theirs.step()
    ours = isostep_torch.AdamW(params, lr=0.1)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for saved in (theirs.state_dict(), ours.state_dict()):
        optimizer = isostep_torch.AdamW(params, state_dtype=E4M3, rounding_seed=6)
        optimizer.load_state_dict(copy.deepcopy(saved))
        seed = saved["param_groups"][0].get("rounding_seed", 6)
        for i, p in enumerate(params):
            own = optimizer.state[p]
            assert own["step"] == 3
            for place, n in enumerate(("exp_avg", "exp_avg_sq")):
                x = theirs.state[p][n].numpy()
                codes, scales = packed(x, E4M3, (seed, 3, i), core.FIRST + place)
                np.testing.assert_array_equal(own[n].numpy(), codes)
                np.testing.assert_array_equal(own[n + core.SCALE].numpy(), scales)
        assert optimizer.param_groups[0]["state_dtype"] == E4M3
        step(optimizer, copy.deepcopy(params), 3)


def values(optimizer, p, form):
    own = optimizer.state[p]
    return {
        n: blocks.unpacked(own[n], own[n + core.SCALE], form) for n in ("exp_avg", "exp_avg_sq")
    }


@pytest.mark.parametrize("now", [None, torch.float64, torch.bfloat16, E5M2], ids=str)
@pytest.mark.parametrize("loaded", ["", "into it", "before it"])
def test_blocks_are_opened_where_the_option_is_another(now, loaded):
    """By a state dict, or in mid-run; what float32 or bfloat16 hold of it is all of it."""
    params = parameters()
    optimizer = isostep_torch.AdamW(params, lr=0.0, betas=(0.5, 0.5), state_dtype=E4M3)
    run(optimizer, params, 0, 2)
    wanted = [values(optimizer, p, E4M3) for p in params]
    if loaded:
        saved = optimizer.state_dict()
        optimizer = isostep_torch.AdamW(params, state_dtype=now if loaded == "into it" else E4M3)
        optimizer.load_state_dict(saved)
    if loaded == "into it":
        assert optimizer.param_groups[0]["state_dtype"] is now
    else:
        optimizer.param_groups[0]["state_dtype"] = now
        optimizer.init_state()
    for p, numbers_of in zip(params, wanted, strict=True):
        own = optimizer.state[p]
        if now == E5M2:  # a bit less of mantissa
            for n, a in values(optimizer, p, E5M2).items():
                small = 2.0**-16 * float(a.abs().max() if a.numel() else 0)
                torch.testing.assert_close(a, numbers_of[n], rtol=0.25, atol=small)
            continue
        assert {*own} == {"step", "exp_avg", "exp_avg_sq"}
        for n, a in numbers_of.items():
            assert own[n].dtype is (now or torch.float32)
            assert torch.equal(own[n].float(), a)
    run(optimizer, params, 2, 3)


def test_the_option_may_be_set_in_mid_run_and_again():
    params = parameters()
    optimizer = isostep_torch.AdamW(params, lr=0.1, rounding_seed=9)
    run(optimizer, params, 0, 2)
    before = copy.deepcopy(optimizer.state[params[0]])
    optimizer.param_groups[0]["state_dtype"] = E4M3
    optimizer.init_state()
    own = optimizer.state[params[0]]
    codes, scales = packed(before["exp_avg"].numpy(), E4M3, (9, 2, 0), core.FIRST)
    np.testing.assert_array_equal(own["exp_avg"].numpy(), codes)
    np.testing.assert_array_equal(own["exp_avg_scale"].numpy(), scales)
    run(optimizer, params, 2, 4)
    kept = values(optimizer, params[0], E4M3)
    optimizer.param_groups[0]["state_dtype"] = None
    optimizer.init_state()
    assert torch.equal(optimizer.state[params[0]]["exp_avg"], kept["exp_avg"])


def test_torchs_classes_take_no_bytes_for_numbers():
    """They refuse them; once the option is off, they go on with the numbers."""
    for name, hyper in (("AdamW", {}), ("SGD", {"momentum": 0.9}), ("Adadelta", {})):
        params = parameters()
        optimizer = getattr(isostep_torch, name)(params, lr=0.1, state_dtype=E4M3, **hyper)
        run(optimizer, params, 0, 2)
        theirs = getattr(torch.optim, name)(params, lr=0.1, **hyper)
        theirs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        fill(params, 2)
        with pytest.raises((TypeError, AttributeError)):
            theirs.step()
        optimizer.param_groups[0]["state_dtype"] = None
        saved = copy.deepcopy(optimizer.state_dict())
        twins = copy.deepcopy(params)
        theirs = getattr(torch.optim, name)(twins, lr=0.1, **hyper)
        theirs.load_state_dict(saved)
        for own, these in ((optimizer, params), (theirs, twins)):
            fill(these, 2)
            own.step()
        for p, q in zip(params, twins, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_bytes_that_do_not_say_their_form_are_refused():
    params = parameters()
    optimizer = isostep_torch.AdamW(params, state_dtype=E4M3)
    run(optimizer, params, 0, 1)
    saved = copy.deepcopy(optimizer.state_dict())
    before = copy.deepcopy(optimizer.state_dict()["state"])
    few, many = (torch.zeros(n, dtype=torch.uint8) for n in (4, 5))
    codes, flat = torch.zeros(33, 3, dtype=torch.uint8), torch.zeros(99, dtype=torch.uint8)
    dicts = r"must be a dict of uint8 tensors 'mxfp8_e4m3' and 'scales'"
    wrong = [
        ({"exp_avg": codes, "exp_avg_scale": few}, "mean nothing without their form"),
        ({"exp_avg": {E4M3: torch.zeros(33, 3)}}, dicts),
        ({"exp_avg": {E4M3: codes}}, dicts),
        ({"exp_avg": {E5M2: codes, "scales": many}}, "another model"),
        ({"exp_avg": {E4M3: codes, "scales": many}}, "another model"),
        ({"exp_avg": {E4M3: flat, "scales": few}}, "another model"),
    ]
    for own, message in wrong:
        broken = copy.deepcopy(saved)
        broken["state"][0] |= own
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(broken)
    for own, other in zip(optimizer.state_dict()["state"].values(), before.values(), strict=True):
        assert torch.equal(own["exp_avg"][E4M3], other["exp_avg"][E4M3])
    loose = isostep_torch.AdamW(params)
    loose.state.update({p: dict(own) for p, own in optimizer.state.items()})
    with pytest.raises(StepError, match="form is not known; set state_dtype"):
        step(loose, params, 1)


def broken(own, n, value):
    if value is None:
        del own[n]
    else:
        own[n] = value


WRONG = {
    "no scales": ("exp_avg_scale", None, "state exp_avg is of bytes, which mean nothing without"),
    "a number": ("exp_avg_scale", 3, "state exp_avg_scale must be a tensor, got 3"),
    "one for all": (
        "exp_avg_scale",
        torch.zeros(1, dtype=torch.uint8).expand(4),
        r"exp_avg_scale of params\[0\] must be a writable uint8 array of shape \(4,\)",
    ),
    "a byte for all": (
        "exp_avg",
        torch.zeros(1, dtype=torch.uint8).expand(33, 3),
        r"exp_avg of params\[0\] must be a writable uint8 array of shape \(33, 3\)",
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@on_every_path
def test_entries_that_do_not_fit_are_refused_and_nothing_is_written(path, wrong):
    n, value, message = wrong
    params = parameters()
    optimizer = isostep_torch.AdamW(params, lr=0.1, state_dtype=E4M3, **path)
    run(optimizer, params, 0, 1)
    broken(optimizer.state[params[0]], n, value)
    before = copy.deepcopy(params)
    with pytest.raises(StepError, match=message):
        step(optimizer, params, 1)
    assert all(map(torch.equal, params, before))


@pytest.mark.parametrize("now", [E4M3, None])
def test_bytes_without_scales_are_never_numbers(now):
    """In a state dict of somebody else's, whatever the option."""
    params = parameters()
    optimizer = isostep_torch.AdamW(params, state_dtype=now)
    run(optimizer, params, 0, 1)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["exp_avg"] = torch.ones(33, 3, dtype=torch.uint8)
    with pytest.raises(
        ValueError, match="exp_avg is of bytes, which mean nothing without exp_avg_scale"
    ):
        optimizer.load_state_dict(saved)


@on_every_path
def test_groups_have_options_of_their_own(path):
    """The second group's as if it were alone, but for its places; a third joins in mid-run."""
    params = parameters()
    groups = [{"params": params[:1]}, {"params": params[1:3], "state_dtype": E5M2}]
    optimizer = isostep_torch.AdamW(groups, lr=0.1, **path)
    run(optimizer, params[:3], 0, 2)
    optimizer.add_param_group({"params": params[3:], "state_dtype": E4M3, "maximize": True})
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    step(optimizer, params, 2)
    scheduler.step()
    step(optimizer, params, 3)
    kinds = [optimizer.state[p]["exp_avg"].dtype for p in params]
    assert kinds == [torch.float32, torch.uint8, torch.uint8, torch.uint8]
    assert optimizer._forms == {params[1]: E5M2, params[2]: E5M2, params[3]: E4M3}
    # a parameter that changes groups takes its numbers along
    kept = values(optimizer, params[1], E5M2)
    optimizer.param_groups[1]["params"].remove(params[1])
    optimizer.param_groups[2]["params"].append(params[1])
    optimizer.init_state()
    assert optimizer._forms[params[1]] == E4M3
    found = values(optimizer, params[1], E4M3)["exp_avg"]
    torch.testing.assert_close(found, kept["exp_avg"], rtol=0.13, atol=1e-3)


@on_every_path
def test_a_model_that_is_moved_to_another_dtype(path):
    params = parameters()
    optimizer = isostep_torch.AdamW(params, lr=0.1, state_dtype=E4M3, master_weights=True, **path)
    run(optimizer, params, 0, 2)
    for k, dtype in enumerate((torch.bfloat16, torch.float64, torch.float32)):
        kept = values(optimizer, params[0], E4M3)
        for p in params:
            p.data, p.grad = p.data.to(dtype), None
        optimizer.init_state()
        assert all(torch.equal(a, kept[n]) for n, a in values(optimizer, params[0], E4M3).items())
        step(optimizer, params, 2 + k)
        assert ("master_weight" in optimizer.state[params[0]]) is (dtype is torch.bfloat16)
        assert optimizer.state[params[0]]["exp_avg"].dtype is torch.uint8


def test_a_scaler_unscales_and_skips():
    params, twins = parameters(), parameters()
    scaled, plain = (isostep_torch.AdamW(ps, lr=0.1, state_dtype=E4M3) for ps in (params, twins))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for k in range(4):
        fill(params, k)
        fill(twins, k)
        scaler.scale(torch.ones(()))
        for p in params:
            p.grad *= scaler.get_scale()
        if k == 1:
            params[0].grad[0] = torch.inf
        scaler.step(scaled)
        scaler.update()
        if k != 1:
            plain.step()
    same(scaled, params, plain, twins)


def test_a_step_that_is_not_taken_leaves_every_byte():
    """Numbers that stay could be kept with a smaller scale: bytes of ones with the scale of ones."""
    p = torch.nn.Parameter(torch.ones(64))
    optimizer = isostep_torch.AdamW([p], state_dtype=E4M3, capturable=True)
    step(optimizer, [p], 0)
    own = optimizer.state[p]
    for n in ("exp_avg", "exp_avg_sq"):
        own[n].fill_(0x38)
        own[n + core.SCALE].fill_(127)
    before = copy.deepcopy(own)
    optimizer.found_inf = torch.ones(())
    step(optimizer, [p], 1)
    assert all(torch.equal(a, before[n]) for n, a in own.items())
    optimizer.found_inf = torch.zeros(())
    step(optimizer, [p], 1)
    assert not torch.equal(own["exp_avg_scale"], before["exp_avg_scale"])


@on_every_path
@in_every_form
def test_an_average_that_rests_keeps_its_bytes(path, form):
    """Of two that take turns: numbers that stay could be kept with a smaller scale, and no backend does so."""
    rng = np.random.default_rng(0)
    rule = isostep.rule("pnm", lr=0.1)
    p = torch.nn.Parameter(torch.zeros(4000))
    optimizer = isostep_torch.PNM([p], lr=0.1, state_dtype=form, **path)
    params = [np.zeros(4000, np.float32)]
    state = REFERENCE.init(rule, params, storage=isostep.low_precision(state_dtype=form))
    for k in range(4):
        g = (rng.standard_normal(4000) * 2.0 ** rng.integers(-9, 9, 4000)).astype(np.float32)
        optimizer.init_state()
        before = {n: a.clone() for n, a in optimizer.state[p].items()}
        p.grad = torch.from_numpy(g)
        optimizer.step()
        own = optimizer.state[p]
        resting = ("neg_momentum", "pos_momentum")[k % 2]
        for n in (resting, resting + core.SCALE):
            assert torch.equal(own[n], before[n])
        REFERENCE.step(rule, params, [g], state)
        far = [(a != own[n].numpy()).mean() for n, a in state.arrays[0].items()]
        assert max(far) <= 1 / 50


@on_every_path
def test_who_observes_and_evaluates_sees_numbers(path):
    params, twins = parameters(), parameters()
    optimizer = isostep_torch.AdamW(params, lr=0.1, state_dtype=E4M3, **path)
    plain = isostep_torch.AdamW(twins, lr=0.1, **path)
    watching = [o.observe() for o in (optimizer, plain)]
    step(optimizer, params, 0)
    step(plain, twins, 0)
    rows = [w.rows()["group0"] for w in watching]
    assert rows[0] == pytest.approx(rows[1], rel=1e-5, nan_ok=True)
    before = copy.deepcopy((params, optimizer.state_dict()["state"][0]["exp_avg"]))
    with optimizer.evaluating():
        assert all(map(torch.equal, params, before[0]))
    assert all(map(torch.equal, params, before[0]))
    assert torch.equal(optimizer.state[params[0]]["exp_avg"], before[1][E4M3])


@on_every_path
def test_points_of_evaluation_are_those_of_numbers(path):
    """Of a rule that is evaluated at another point, which is in no blocks; a piece's average is."""
    rule = isostep.compose(
        isostep.pieces.ema_update(decay=0.5), isostep.rule("schedule_free_sgd", lr=0.1)
    )
    points = []
    for form in (E4M3, None):
        params = parameters()
        optimizer = isostep_torch.from_rule(rule, params, state_dtype=form, **path)
        for k in range(3):
            fill(params, k)
            optimizer.step()
        kinds = {a.dtype for a in optimizer.state[params[0]].values()}
        assert (torch.uint8 in kinds) is (form is not None)
        trained = copy.deepcopy(params)
        with optimizer.evaluating():
            points.append(copy.deepcopy(params))
        assert all(map(torch.equal, params, trained))
    assert not torch.equal(points[0][0], trained[0])
    for p, q in zip(*points, strict=True):
        torch.testing.assert_close(p, q, rtol=0.1, atol=0.1)


def test_momentum_that_goes_to_zero_in_mid_run():
    """SGD has nothing to keep then, and begins anew after."""
    params, twins = parameters(), parameters()
    optimizer = isostep_torch.SGD(params, lr=0.1, momentum=0.9, state_dtype=E4M3)
    plain = isostep_torch.SGD(twins, lr=0.1)
    run(optimizer, params, 0, 2)
    optimizer.param_groups[0]["momentum"] = 0.0
    with torch.no_grad():
        for p, q in zip(params, twins, strict=True):
            q.copy_(p)
    run(optimizer, params, 2, 4)
    run(plain, twins, 2, 4)
    assert all(map(torch.equal, params, twins))
    optimizer.param_groups[0]["momentum"] = 0.9
    run(optimizer, params, 4, 6)
    assert optimizer.state[params[0]]["momentum_buffer"].dtype is torch.uint8


def test_memory_that_is_shared_stays_so():
    params = parameters()
    optimizer = isostep_torch.AdamW(params, state_dtype=E4M3)
    optimizer.share_memory()
    run(optimizer, params, 0, 2)
    own = optimizer.state[params[0]]
    assert all(a.is_shared() for a in own.values())
    assert own["exp_avg"].any()


# What is refused.


class Spread(torch.Tensor):
    """What looks like a distributed tensor."""

    to_local = torch.Tensor.clone


def test_what_blocks_are_not_for():
    p = torch.nn.Parameter(torch.ones(40))
    z = torch.nn.Parameter(torch.ones(4, dtype=torch.complex64))
    spread = torch.ones(40).as_subclass(Spread).requires_grad_()
    adamw = isostep_torch.AdamW
    with pytest.raises(
        ValueError, match="'mxfp8_e4m3' is not for complex parameters; use a torch dtype"
    ):
        adamw([p, z], state_dtype=E4M3)
    with pytest.raises(ValueError, match=r"not for distributed parameters \(DTensor\)"):
        adamw([spread], state_dtype=E4M3)
    with pytest.raises(ValueError, match=r"differentiable takes the loop path.*state_dtype"):
        adamw([p], state_dtype=E4M3, differentiable=True)
    with pytest.raises(
        ValueError, match=r"one of torch.float64.*'mxfp8_e4m3', 'mxfp8_e5m2', got 'fp8'"
    ):
        adamw([p], state_dtype="fp8")
    for name, hyper in (("sgd", {}), ("schedulefree_sgd", {})):
        if name in isostep.rules():
            with pytest.raises(ValueError, match="for state that starts as zeros"):
                load_optimizer(name)([p], lr=0.1, state_dtype=E4M3, **hyper)
    optimizer = adamw([{"params": [p]}, {"params": [z]}], lr=0.1)
    for each in (p, z):
        each.grad = torch.ones_like(each)
    optimizer.step()
    before = copy.deepcopy((p, optimizer.state_dict()["state"][0]["exp_avg"]))
    optimizer.param_groups[1]["state_dtype"] = E4M3
    with pytest.raises(StepError, match="not for complex parameters"):
        optimizer.step()
    optimizer.param_groups[1]["state_dtype"] = None
    optimizer.param_groups[0]["state_dtype"] = E4M3
    optimizer.step()
    table = torch.nn.Parameter(torch.ones(40, 2))
    optimizer.add_param_group({"params": [table], "state_dtype": E5M2})
    table.grad = torch.sparse_coo_tensor([[3]], torch.ones(1, 2), (40, 2))
    before = p.detach().clone()
    with pytest.raises(StepError, match="'mxfp8_e5m2' is not for sparse gradients"):
        optimizer.step()
    assert torch.equal(p, before)
    assert (table == 1).all()
