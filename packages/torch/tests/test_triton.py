"""The Triton kernels of ``torch:fused(cuda)``: in Triton's interpreter, and compiled for devices that are not here."""

import re
from collections import Counter

import numpy as np
import pytest
import torch

import isostep
from isostep import pieces
from isostep.domains import REQUIRED, Real
from isostep.lower.device import COMMIT, DTYPES, REDUCE, kernels
from isostep.lower.layout import layout
from isostep.program import trace
from isostep.rule import Rule, compose
from isostep.storage import LOST, MASTER, PLAIN, Storage

triton = pytest.importorskip("triton", reason="needs triton, which runs and compiles the kernels")

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from isostep_torch import triton_interpreted, triton_modules  # noqa: E402
from isostep_torch.fused_cuda import OPTIONS  # noqa: E402
from isostep_torch.triton_source import THREADS, arguments, block, show  # noqa: E402
from isostep_torch.triton_words import CALLS, HELPERS  # noqa: E402

pytestmark = pytest.mark.whole  # triton comes with every package together
BACKEND = isostep.backend("torch:triton(interpreter)")
REFERENCE = isostep.backend("numpy:reference")
#: Less than a block, whole blocks, more than one row of chunks, units of every layout, nothing.
SHAPES = [(), (5,), (4096,), (3, 5), (8, 128), (2, 3, 2, 2), (0,), (4, 1100)]
DEEP = (
    pieces.centralize(),
    pieces.adaptive_clip(clipping=0.1, eps=1e-2),
    pieces.clip_by_global_norm(max_norm=2.0),
    isostep.rule("adamw", lr=0.1, betas=(0.8, 0.7), eps=1e-3, weight_decay=0.1),
    pieces.weight_decay(weight_decay=0.01),
    pieces.lookahead(k=2, alpha=0.5),
)


def bound(name):
    """A rule with numbers for the hyperparameters that it requires."""
    hyper = isostep.definition(name).hyper
    return isostep.rule(name, **{n: 0.1 for n, d in hyper.items() if d.default is REQUIRED})


def fused_rules():
    every = {n: bound(n) for n in isostep.rules()}
    return [n for n, r in every.items() if not layout(trace(r), "float32").obstacle]


def arrays(shapes, dtype, seed):
    random = np.random.default_rng(seed)
    found = [random.standard_normal(s) * 10.0 ** random.integers(-3, 3, s) for s in shapes]
    return [np.asarray(a, dtype) for a in found]


def run(backend, rule, dtype="float32", shapes=SHAPES, steps=3, place=lambda a: a):
    ranks = rule.rule.ndim
    shapes = [s for s in shapes if ranks is None or len(s) in ranks]
    put = lambda seed: [place(backend.asarray(a)) for a in arrays(shapes, dtype, seed)]  # noqa: E731
    params = put(0)
    state = backend.init(rule, params)
    for k in range(steps):
        given = {n: put(100 + k) for n in rule.input_names}
        given |= dict.fromkeys(rule.group_input_names, 0.5 + k)
        params, state = backend.step(rule, params, put(1 + k), state, **given)
    every = [params, *([own[n] for own in state.arrays] for n in rule.state_names)]
    return [[backend.to_numpy(a) for a in one] for one in every]


def close(found, wanted, tolerance):
    for one, other in zip(found, wanted, strict=True):
        for a, b in zip(one, other, strict=True):
            a, b = a.astype(np.float64), b.astype(np.float64)
            assert np.abs(a - b).max(initial=0) <= tolerance * np.abs(b).max(initial=1e-30)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_sums_and_elementary_functions_the_bits_are_numpys(dtype):
    rule = isostep.rule("adamw", lr=0.1, betas=(0.8, 0.7), eps=1e-3, weight_decay=0.1, amsgrad=True)
    for found, wanted in zip(run(BACKEND, rule, dtype), run(REFERENCE, rule, dtype), strict=True):
        for a, b in zip(found, wanted, strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", fused_rules())
def test_every_rule_takes_numpys_step(name):
    """A quick look on every form of row; the conformance suite is the proof."""
    close(run(BACKEND, bound(name)), run(REFERENCE, bound(name)), 2e-5)


def test_a_composition_takes_numpys_step():
    rule = compose(*DEEP)
    close(run(BACKEND, rule, "float64"), run(REFERENCE, rule, "float64"), 1e-11)


def test_where_an_array_begins_does_not_change_a_bit():
    """Rows of aligned arrays take the form without masks, others the other one."""

    def one_off(a):
        room = torch.empty(a.numel() + 1, dtype=a.dtype)
        place = room[1:].view(a.shape)
        place.copy_(a)
        return place

    rule = compose(*DEEP)
    aligned = run(BACKEND, rule, shapes=[(4, 1024), (4096,)])
    moved = run(BACKEND, rule, shapes=[(4, 1024), (4096,)], place=one_off)
    for found, wanted in zip(moved, aligned, strict=True):
        assert [a.tobytes() for a in found] == [b.tobytes() for b in wanted]


def test_a_path_says_what_it_runs_on():
    """Conformance's report does, before a step and after some."""
    fresh = isostep.backend("torch:triton(interpreter)")
    assert str(fresh.device) == "cpu"
    run(fresh, isostep.rule("sgd", lr=0.1), steps=1)
    assert str(fresh.device) == "cpu"


def test_strided_arrays_are_stepped_where_they_lie():
    rule = isostep.rule("adamw", lr=0.1)
    found = run(BACKEND, rule, shapes=[(3, 5)], place=lambda a: a.mT)
    wanted = run(REFERENCE, rule, shapes=[(3, 5)])
    close(found, [[a.T for a in one] for one in wanted], 1e-6)


def launches(rule, dtypes=("float32",)):
    """The kernels that one step launches, by name, and how many stages it has."""
    params = [BACKEND.asarray(np.ones(s, d)) for d in dtypes for s in ((3, 4), (5,), (2, 3))]
    state = BACKEND.init(rule, params)
    BACKEND.step(rule, params, [p.clone() for p in params], state)
    (plan,) = state.plan.values()
    stages = max(len(k.stages) for k in plan.runner.kernels)
    return len(plan.runner.launches), stages


def test_a_composition_of_six_takes_two_launches_a_stage_at_most():
    count, stages = launches(compose(*DEEP))
    assert stages >= 3
    assert count <= 2 * stages


def test_an_elementwise_rule_is_one_launch_for_the_whole_list():
    assert launches(isostep.rule("adamw", lr=0.1)) == (1, 1)


def test_each_dtype_is_one_launch_more():
    assert launches(isostep.rule("adamw", lr=0.1), ("float32", "float64")) == (2, 1)


# The functions that kernels call.


def interpret(text, *given, dtype=None):
    """One block of a kernel of one line, ``out = text`` of x, y, ..., interpreted."""
    names = ["x", "y", "z"][: len(given)]
    given = [np.ascontiguousarray(a) for a in given]
    lines = [
        "import triton.language as tl",
        "from isostep_torch.triton_support import " + ", ".join(CALLED),
        "@kernel",
        f"def one({', '.join(names)}, out, n, BLOCK: tl.constexpr):",
        "    lane = tl.arange(0, BLOCK)",
        *(f"    {n} = tl.load({n} + lane, mask=lane < n, other=0)" for n in names),
        f"    tl.store(out + lane, {text}, mask=lane < n)",
    ]
    found = triton_modules._load("test", "\n".join(lines) + "\n", True).one
    tensors = [torch.from_numpy(a.copy()) for a in given]
    out = torch.zeros(len(given[0]), dtype=dtype or tensors[0].dtype)
    with np.errstate(all="ignore"):
        found[(1,)](*tensors, out, len(given[0]), BLOCK=64)
    return out


CALLED = ("kernel", *HELPERS, *CALLS)
INF, NAN = float("inf"), float("nan")
ODD = [0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 3.0, -3.0, 1e-40, -1e-40, 1e30, INF, -INF, NAN]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_powers_have_cs_special_cases(dtype):
    bases = np.array([b for b in ODD for _ in ODD], dtype)[:196]
    powers = np.array([p for _ in ODD for p in ODD], dtype)
    for k in range(0, len(bases), 49):
        x, y = bases[k : k + 49], powers[k : k + 49]
        with np.errstate(all="ignore"):
            wanted = np.power(x.astype(np.float64), y).astype(dtype)
        np.testing.assert_array_equal(interpret("pow(x, y)", x, y).numpy(), wanted)


@pytest.mark.parametrize("exponent", [1.0, 0.5, 2.5, -0.5, 0.0])
def test_powers_of_one_exponent_for_all_have_them_too(exponent):
    x = np.array([*ODD, 3e38, 1.7, 1e-45], np.float32)
    with np.errstate(all="ignore"):
        wanted = np.power(x.astype(np.float64), np.full(len(x), exponent)).astype(np.float32)
    found = interpret(f"pow(x, tl.full((), {exponent}, tl.float32))", x).numpy()
    np.testing.assert_array_equal(found, wanted)
    number = ~np.isnan(wanted)  # a NaN's sign says nothing
    np.testing.assert_array_equal(np.signbit(found[number]), np.signbit(wanted[number]))


@pytest.mark.parametrize(
    "name", ["cbrt", "cos", "exp", "expm1", "floor", "log", "log1p", "sign", "sin", "sqrt", "tanh"]
)
def test_functions_of_one_number(name):
    x = np.array(ODD, np.float32)
    with np.errstate(all="ignore"):
        wanted = getattr(np, name)(x.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(interpret(f"{name}(x)", x).numpy(), wanted)


def rounded_arctan2(x, y):
    """NumPy's own of float32 is an ulp off on processors for which it has vectors."""
    return np.arctan2(x.astype(np.float64), y.astype(np.float64)).astype(np.float32)


def test_functions_of_two_numbers_propagate_nan():
    x, y = (a.ravel().astype(np.float32) for a in np.meshgrid(ODD[:7], [*ODD[:4], NAN]))
    with np.errstate(all="ignore"):
        for name, wanted in {
            "maximum": np.maximum, "minimum": np.minimum, "atan2": rounded_arctan2, "div": np.divide, "mod": np.mod,
        }.items():  # fmt: skip
            np.testing.assert_array_equal(interpret(f"{name}(x, y)", x, y).numpy(), wanted(x, y))


def test_bfloat16_is_rounded_to_nearest_ties_to_even():
    x = np.array(
        [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3.4e38, 1e-40, -INF, NAN], np.float32
    )
    found = interpret("narrow(x, tl.bfloat16)", x, dtype=torch.bfloat16)
    assert torch.equal(found.nan_to_num(7.0), torch.from_numpy(x).bfloat16().nan_to_num(7.0))


@pytest.mark.parametrize("inner", [1, 3, 64, 128, 1000, 2**33 + 7])
@pytest.mark.parametrize("units", [1, 5, 127, 129, 2**32 + 1])
def test_units_of_elements_pass_two_to_the_31(inner, units):
    for at in (0, 64 * 5, 2**31 - 64, inner * units - 64 * 2, inner * units * 3 + inner // 2):
        if not 0 <= at < 2**62:
            continue
        given = [np.full(64, v, np.int64) for v in (at, inner, units)]
        found = interpret("unit_of(x, lane, y, z, BLOCK)", *given).numpy()
        assert found.tolist() == [(at + lane) // inner % units for lane in range(64)]


# Compiled for devices.


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # so that everything is compiled


TYPES = {"int64": "*i64", "float64": "*fp64", None: "i32"}
KNOWN = {**DTYPES, "amp": "float64", "times": "int64", "hypers": "float64"}


def machine_code(function, names, arch, **given):
    """The PTX of a kernel that is compiled all the way, for CUDA devices of one architecture."""
    signature = {n: TYPES[KNOWN.get(n)] for n in names} | dict.fromkeys(given, "constexpr")
    made = triton.compile(
        ASTSource(
            function, signature, {(len(names) + k,): v for k, v in enumerate(given.values())}
        ),
        target=GPUTarget("cuda", arch, 32),
        options=OPTIONS,
    )
    assert len(made.asm["cubin"])
    return made.asm["ptx"]


def compiled(rule, arch, dtype="float32", traced=False, storage=PLAIN):
    """Each stage of a rule, with its PTX."""
    k = kernels(trace(rule, kept=storage.of(dtype)), dtype, None, storage)
    module = triton_modules.module(k, traced=traced)
    for stage in k.stages:
        names = arguments(stage, traced=traced)
        yield stage, machine_code(getattr(module, stage.name), names, arch, BLOCK=block(dtype))


def check_width(stage, text, dtype):
    """In the form for aligned arrays every load and store of an array is 16 bytes wide, all its bytes that way."""
    bits = {"float64": 64, "float32": 32}.get(dtype, 16)
    wide = max(bits, 32)  # halves travel in pairs
    found = Counter(re.findall(rf"(ld|st)\.global(?:\.\w+)*\.v{128 // wide}\.b{wide}\b", text))
    lanes = block(dtype) // THREADS
    # The other form has masks. What it loads is what is needed: g ** 0 needs no g.
    masked = re.findall(rf"@%p\d+ ld\.global(?:\.\w+)*\.b{bits}\b", text)
    loaded = len(masked) // lanes
    if dtype == "float64":  # an element's unit's sums look the same
        loaded -= sum(g.table == "unit_sums" for g in stage.given.values())
    assert 0 < loaded <= len(stage.inputs)
    stored = {*stage.stores, *(["p"] if stage.update is not None else [])}
    each = lanes * bits // 128
    assert found == +Counter(ld=each * loaded, st=each * len(stored)), stage.name


#: libdevice's float64 cube root starts Newton's iteration at a float32 guess, of a number that it has scaled to near 1.
GUESS = ("cvt.rni.ftz.s32.f32", "lg2.approx.ftz.f32", "ex2.approx.ftz.f32")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", fused_rules())
def test_every_rule_compiles_with_wide_loads_and_exact_arithmetic(name):
    for stage, text in compiled(bound(name), 90):
        if stage.grid == "chunks":
            check_width(stage, text, "float32")
        instructions = re.findall(r"^\s+(?:@\S+\s+)?([a-z][\w.]*\.f32)\b", text, re.M)
        harmless = GUESS if any(n.op == "cbrt" for n in stage.element) else ()
        flushing = [i for i in instructions if "ftz" in i and not i.startswith(("abs", *harmless))]
        assert not flushing, stage.name
        assert not [i for i in instructions if i.startswith(("div.full", "sqrt.approx", "fma"))]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@pytest.mark.parametrize("name", fused_rules())
def test_other_dtypes_compile_with_wide_loads(name, dtype):
    for stage, text in compiled(bound(name), 90, dtype):
        if stage.grid == "chunks":
            check_width(stage, text, dtype)


@pytest.mark.parametrize("arch", [80, 100])
@pytest.mark.parametrize("name", ["adamw", "lamb", "powersign", "sgd_hd"])
def test_rules_of_every_kind_compile_for_older_and_newer_devices(name, arch):
    assert len(list(compiled(bound(name), arch)))


def test_kernels_over_units_compile():
    grids = [stage.grid for stage, _ in compiled(compose(*DEEP), 90, "bfloat16")]
    assert grids.count("units") >= 1


def test_kernels_that_guard_and_unscale_compile_and_stay_wide():
    for stage, text in compiled(isostep.rule("adamw", lr=0.1), 90, traced=True):
        check_width(stage, text, "float32")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("storage", "loads", "stores"),
    [  # AdamW: p, g, m, v; bytes an element beside what the plain step moves
        (Storage(stochastic=True), 0, 0),
        (Storage(stochastic=True, state="float32", scaled=True), 4, 4),
        (Storage(beside=LOST), 2, 2),
        (Storage(beside=MASTER), 4, 4),  # p itself is loaded too: it may have been written to
    ],
    ids=["stochastic", "stochastic-float32", "kahan", "master"],
)
def test_kernels_of_other_storage_compile_and_stay_wide(
    storage, loads, stores, dtype, traced, arch
):
    rule = isostep.rule("adamw", lr=0.1)
    ((_, text),) = compiled(rule, arch, dtype, traced, storage)
    lanes, found = block(dtype) // THREADS, {}
    for verb in ("ld", "st"):
        found[verb] = len(re.findall(rf"\b{verb}\.global(?:\.\w+)*\.v4\.b32\b", text)) * 16 / lanes
    assert found == {"ld": 8 + loads, "st": 6 + stores}


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_halves_beside_float64_parameters(half, stochastic):
    """What is loaded is computed with in float64; the noise is that of float32."""

    def update(p, g, m, t, /, *, lr):
        m = 0.9 * m + 0.3 * g
        return -lr * m, m

    rule = Rule(name="mine", update=update, state=("m",), hyper={"lr": Real(0.1)}).bind()
    storage = isostep.low_precision(state_dtype=half, stochastic_rounding=stochastic)

    def steps(backend):
        params = [backend.asarray(a) for a in arrays(SHAPES, "float64", 0)]
        state = backend.init(rule, params, storage=storage, seed=3)
        for k in range(3):
            grads = [backend.asarray(a) for a in arrays(SHAPES, "float64", 1 + k)]
            params, state = backend.step(rule, params, grads, state)
        return [backend.to_numpy(a) for a in (*params, *(own["m"] for own in state.arrays))]

    for found, wanted in zip(steps(BACKEND), steps(REFERENCE), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    for _, text in compiled(rule, 90, "float64", storage=storage.of("float64")):
        assert "cvt.rn.f32.f64" in text or not stochastic


@pytest.mark.parametrize("traced", [False, True])
def test_observed_kernels_compile_and_stay_wide(traced):
    rule = isostep.observe(isostep.rule("adamw", lr=0.1))
    (found,) = compiled(rule, 90, traced=traced)
    check_width(*found, "float32")


def sawtooth(p, g, t, /):
    return -g * (t % 4)


SAWTOOTH = Rule(name="sawtooth", update=sawtooth).bind()


@pytest.mark.parametrize("rule", [*map(bound, fused_rules()), SAWTOOTH], ids=lambda r: r.name)
def test_kernels_of_scalars_compile(rule):
    found = kernels(trace(rule), "float32")
    module = triton_modules.module(found, traced=True)
    if found.scalars:
        machine_code(module.numbers, ("times", "hypers", "scalars", "kinds"), 90, LANES=128)
    if found.shared:
        machine_code(module.shared_numbers, ("times", "hypers", "shared"), 90)


def test_kernels_that_know_no_rule_compile():
    common = triton_modules.common()
    machine_code(common.reduce, REDUCE, 90, BLOCK=256)
    machine_code(common.commit, COMMIT, 90, DTYPE=tl.float32)
    machine_code(common.commit_if_taken, (*COMMIT, "amp"), 90, DTYPE=tl.float64)
    machine_code(common.advance, ("times", "count", "amp"), 90, LANES=128)


def test_the_text_is_shown():
    text = show(trace(isostep.rule("powersign", lr=0.1)), "bfloat16")
    assert text.startswith('"""powersign, bfloat16: 1 pass(es).')
    compile(text, "shown", "exec")
    assert "narrow(" in text


def test_the_interpreter_has_every_function_that_kernels_call():
    for name in CALLED:
        assert callable(getattr(triton_interpreted, name)), name
    assert triton_interpreted.tl is tl
