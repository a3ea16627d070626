"""State in blocks of eight bits in the Triton kernels: the reference's bits in the interpreter, and what compiles."""

import re
from collections import Counter

import numpy as np
import pytest
import torch

import isostep
from isostep import blocks, nm, pieces
from isostep.domains import Real
from isostep.lower.device import CHUNK, DTYPES, kernels
from isostep.program import trace
from isostep.rule import Rule, compose
from isostep.state import State

triton = pytest.importorskip("triton", reason="needs triton, which runs and compiles the kernels")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from isostep_torch import triton_modules  # noqa: E402
from isostep_torch.fused_cuda import OPTIONS  # noqa: E402
from isostep_torch.fused_traced import TracedInterpreter  # noqa: E402
from isostep_torch.triton_source import THREADS, arguments, block, source  # noqa: E402

ml_dtypes = pytest.importorskip("ml_dtypes")
pytestmark = pytest.mark.whole  # triton comes with every package together

BACKEND = isostep.backend("torch:triton(interpreter)")
REFERENCE = isostep.backend("numpy:reference")
NUMPY = {"float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": ml_dtypes.bfloat16}
#: Nothing, less than a block, blocks, a row in the form with masks and one in that without, more than one row.
SHAPES = [(0,), (), (31,), (4, 8), (33,), (2048,), (4097,)]


def peaked(p, g, m, t, /, *, lr):
    """What is beyond an array's end, computed from zeros, is larger than all that is in the array."""
    m = 0.5 * m + 0.25 * g + nm.where(g == 0.0, 1e6, 0.0)
    return -lr * m, m


RULES = {
    "lion": isostep.rule("lion", lr=0.1, weight_decay=0.1),
    "amsgrad": isostep.rule("adamw", lr=0.1, betas=(0.8, 0.7), amsgrad=True),
    "peaked": Rule(name="peaked", update=peaked, state=("m",), hyper={"lr": Real(0.1)}).bind(),
}


def arrays(dtype, seed, shapes=SHAPES):
    """Numbers of every size, some of them zero."""
    rng = np.random.default_rng(seed)
    found = [
        rng.normal(size=s) * 10.0 ** rng.integers(-9, 3, s) * (rng.random(s) < 0.9) for s in shapes
    ]
    return [np.asarray(a).astype(NUMPY[dtype]) for a in found]


def tensor(a):
    if a.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(a.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(a.copy())


def off(t):
    """The same values at an address that is no multiple of 16."""
    room = torch.empty(t.numel() + 1, dtype=t.dtype)
    place = room[1:].view(t.shape)
    return place.copy_(t)


def run(
    backend, rule, form, dtype, *, put=None, change=lambda k, grads: grads, shapes=SHAPES, **options
):
    """Two steps; everything that they leave, as NumPy arrays."""
    put = put or (tensor if backend is BACKEND else np.copy)
    params = [put(a) for a in arrays(dtype, 0, shapes)]
    storage = isostep.low_precision(state_dtype=form, **options)
    state = backend.init(rule, params, storage=storage, seed=5)
    for k in range(2):
        grads = [put(g) for g in change(k, arrays(dtype, 1 + k, shapes))]
        with np.errstate(all="ignore"):
            backend.step(rule, params, grads, state)
    if backend is BACKEND:
        assert state.plan  # kernels took it
    found = {f"params.{i}": p for i, p in enumerate(params)}
    found |= {f"{n}.{i}": a for i, own in enumerate(state.arrays) for n, a in own.items()}
    return {n: wide(a) for n, a in found.items()}, state


def wide(a):
    return np.asarray(a.double() if isinstance(a, torch.Tensor) else a.astype(np.float64))


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for n, a in wanted.items():
        np.testing.assert_array_equal(found[n], a, err_msg=n)


@pytest.mark.parametrize("form", blocks.FORMATS)
@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_bits_of_the_reference(rule, dtype, form):
    assert BACKEND.takes_blocks(rule)
    same(run(BACKEND, rule, form, dtype)[0], run(REFERENCE, rule, form, dtype)[0])


def test_where_an_array_begins_does_not_change_a_bit():
    rule, shapes = RULES["amsgrad"], [(2048,), (40,)]
    moved, _ = run(
        BACKEND, rule, "mxfp8_e4m3", "float32", put=lambda a: off(tensor(a)), shapes=shapes
    )
    same(moved, run(REFERENCE, rule, "mxfp8_e4m3", "float32", shapes=shapes)[0])


@pytest.mark.parametrize(
    "options", [{"stochastic_rounding": True}, {"kahan": True}, {"master_weights": True}], ids=str
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_beside_what_else_halves_are_kept_with(dtype, options):
    rule, shapes = RULES["amsgrad"], [(1100,)]
    found, wanted = (
        run(b, rule, "mxfp8_e5m2", dtype, shapes=shapes, **options)[0] for b in (BACKEND, REFERENCE)
    )
    same(found, wanted)


@pytest.mark.parametrize("form", blocks.FORMATS)
def test_what_is_not_finite_and_what_is_nothing(form):
    def change(k, grads):
        grads[1][:32] = 0
        if k == 0:  # from then on it is the state that is not finite
            grads[0][[3, 40, 99]] = [np.nan, np.inf, -np.inf]
            grads[2][:] = np.inf
        return grads

    rule, shapes = RULES["amsgrad"], [(100,), (64,), (32,)]
    results = [
        run(b, rule, form, "float32", change=change, shapes=shapes)[0] for b in (BACKEND, REFERENCE)
    ]
    for one in results:
        for n, codes in one.items():  # a NaN has either sign
            if not n.startswith("params") and blocks.SCALE not in n:
                one[n] = np.where(codes % 128 == 127, 127, codes)
    same(*results)
    codes = results[0]["exp_avg_sq.0"]
    assert (codes[3], codes[40]) == (blocks.NAN, blocks.FORMATS[form].infinity)


@pytest.mark.parametrize(
    "rule",
    [
        isostep.rule("lamb", lr=0.1, weight_decay=0.1),
        isostep.rule("sgd_hd", hypergrad_lr=1e-3),
        compose(pieces.clip_by_global_norm(1.0), isostep.rule("adam", lr=0.1), pieces.lookahead(2)),
    ],
    ids=lambda r: r.name,
)
def test_rules_that_sum_take_the_reference_s_step(rule):
    shapes = [(4, 8), (700,), (0,)]
    (found, state), (wanted, other) = (
        run(b, rule, "mxfp8_e4m3", "float64", shapes=shapes) for b in (BACKEND, REFERENCE)
    )
    assert state.storage.packed
    for own, others in zip(opened(state), opened(other), strict=True):
        for n, b in others.items():
            # A number that a sum has moved by its last bit may be rounded to the next one.
            assert (np.abs(own[n] - b) > 1e-9 * (1 + np.abs(b))).sum() <= 2
    for n, b in wanted.items():
        if n.startswith("params"):
            np.testing.assert_allclose(found[n], b, rtol=1e-6, atol=1e-6)


def opened(state):
    """Its arrays as numbers."""
    own = [{n: np.asarray(a) for n, a in arrays.items()} for arrays in state.arrays]
    return [REFERENCE.opened(arrays, state.storage, "float64") for arrays in own]


def test_nothing_is_written_beside_an_array():
    rule, rooms = RULES["amsgrad"], []
    params, grads = ([torch.ones(n) for n in (1, 40, 513, 1024)] for _ in range(2))
    state = BACKEND.init(rule, params, storage=isostep.low_precision(state_dtype="mxfp8_e4m3"))
    for own in state.arrays:
        for n, a in own.items():
            rooms.append(torch.full((a.numel() + 4096,), 0xAB, dtype=torch.uint8))
            own[n] = rooms[-1][2048 : 2048 + a.numel()]
            own[n].zero_()
    BACKEND.step(rule, params, grads, state)
    for room in rooms:
        assert (room[:2048] == 0xAB).all()
        assert (room[-2048:] == 0xAB).all()
        assert (room[2048:-2048] != 0).all()


def test_an_observed_step_is_the_plain_one():
    rule, shapes = RULES["amsgrad"], [(40,), (600,)]
    found, state = run(BACKEND, isostep.observe(rule), "mxfp8_e4m3", "float32", shapes=shapes)
    same(found, run(REFERENCE, rule, "mxfp8_e4m3", "float32", shapes=shapes)[0])
    assert state.figures is not None


# Counts on the device


@pytest.mark.parametrize("observed", [False, True])
def test_counts_on_the_device_and_a_step_that_changes_nothing(observed):
    rule, shapes = RULES["lion"], [(40,), (4, 8), (512,)]
    own = isostep.observe(rule) if observed else rule
    storage = isostep.low_precision(state_dtype="mxfp8_e4m3")
    backend = TracedInterpreter()
    params, others = ([p.copy() for p in arrays("float32", 0, shapes)] for _ in range(2))
    tensors = [torch.from_numpy(p) for p in params]
    made, other = (
        backend.init(own, tensors, storage=storage, seed=9),
        REFERENCE.init(rule, others, storage=storage, seed=9),
    )
    counts = [torch.tensor(0.0) for _ in params]
    state = State(
        made.rule,
        counts,
        made.arrays,
        {},
        torch.tensor(0.0),
        storage=made.storage,
        handling=made.handling,
    )
    for k in range(2):
        grads = arrays("float32", 1 + k, shapes)
        backend.step(own, tensors, list(map(torch.from_numpy, grads)), state)
        REFERENCE.step(rule, others, grads, other)
    assert state.plan  # kernels took it
    backend.found_inf = torch.tensor(1.0)
    backend.step(own, tensors, [torch.full_like(p, torch.inf) for p in tensors], state)
    assert [float(t) for t in state.t] == [2.0] * 3
    for p, q in zip(params, others, strict=True):
        np.testing.assert_array_equal(p, q)
    for a, b in zip(state.arrays, other.arrays, strict=True):
        for n in b:
            np.testing.assert_array_equal(np.asarray(a[n]), b[n], err_msg=n)


# Compiled for devices


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # so that everything is compiled


TYPES = {"int64": "*i64", "float64": "*fp64", None: "i32"}


def ptx(rule, arch, dtype, form, *, traced=False, **options):
    """The PTX of a rule's last stage, which is compiled all the way."""
    storage = isostep.low_precision(state_dtype=form, **options).of_rule(rule)
    k = kernels(trace(rule, kept=storage.of(dtype)), dtype, None, storage)
    stage, known = k.stages[-1], {**DTYPES, "amp": "float64"}
    names = arguments(stage, traced=traced)
    signature = {n: TYPES[known.get(n)] for n in names} | {"BLOCK": "constexpr"}
    function = getattr(triton_modules.module(k, traced=traced), stage.name)
    made = triton.compile(
        ASTSource(function, signature, {(len(names),): block(dtype)}),
        target=GPUTarget("cuda", arch, 32),
        options=OPTIONS,
    )
    assert len(made.asm["cubin"])
    return made.asm["ptx"]


def widths(text):
    """How often so many bytes are loaded and stored at once, in the form for aligned arrays: it has no masks."""
    found = Counter()
    for verb, _, times, bits in re.findall(
        r"^\s+(ld|st)\.global(\.\w+)*?(?:\.v(\d))?\.b(\d+)\s+[\[{]", text, re.M
    ):
        found[verb, int(times or 1) * int(bits) // 8] += 1
    return found


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("form", blocks.FORMATS)
def test_parameters_stay_wide_and_codes_go_together(form, dtype, traced):
    """AdamW: p and g in 16 bytes, codes in as many as go with them, a byte of scale for each thread and array."""
    text, lanes = (
        ptx(isostep.rule("adamw", lr=0.1), 90, dtype, form, traced=traced),
        block(dtype) // THREADS,
    )
    found = widths(text)
    scalars = {8}  # the tables' numbers
    wanted = {("ld", 16): 2, ("st", 16): 1, ("ld", lanes): 2, ("st", lanes): 2, ("ld", 1): 2}
    if lanes in scalars:  # eight codes are as long as a table's number
        assert found.pop(("ld", 8)) > 2
        wanted.pop(("ld", 8))
    assert {n: c for n, c in found.items() if n[1] not in scalars or n[0] == "st"} == wanted


def test_scales_are_not_said_to_be_aligned():
    """Nobody looks at their addresses, see ``Kernels``; and rows begin with a block."""
    rule = isostep.rule("adamw", lr=0.1)
    storage = isostep.low_precision(state_dtype="mxfp8_e4m3").of_rule(rule)
    text = source(kernels(trace(rule, kept=storage), "float32", None, storage))
    assert "exp_avg_scale_at = pointer(table, 8 * array + 4, tl.uint8, False)" in text
    assert "exp_avg_at = pointer(table, 8 * array + 2, tl.uint8, WHOLE)" in text
    assert CHUNK % block("bfloat16") == block("float64") % blocks.BLOCK == 0


@pytest.mark.parametrize("arch", [80, 100])
@pytest.mark.parametrize("name", ["lamb", "sgd_hd"])
def test_kernels_compile_for_older_and_newer_devices(name, arch):
    rule = isostep.rule(name, **{"hypergrad_lr": 1e-3} if name == "sgd_hd" else {"lr": 0.1})
    for dtype, form in zip(NUMPY, [*blocks.FORMATS] * 2, strict=True):
        assert "shfl.sync.bfly" in ptx(rule, arch, dtype, form)


def test_observed_kernels_of_halves_with_noise_compile():
    rule = isostep.observe(isostep.rule("adamw", lr=0.1))
    assert ptx(rule, 90, "bfloat16", "mxfp8_e4m3", traced=True, stochastic_rounding=True)
