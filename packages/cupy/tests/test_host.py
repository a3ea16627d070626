"""``cupy:raw(host)``: the CUDA text itself, its threads and barriers, and all that drives it."""

import copy
import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import isostep
from isostep import BackendError, pieces
from isostep.lower import device, executor
from isostep.rule import compose
from isostep_cupy import cuda_source, cuda_text, host

ml_dtypes = pytest.importorskip("ml_dtypes")
pytestmark = pytest.mark.whole  # needs ml_dtypes

REFERENCE = isostep.backend("numpy:reference")
DTYPES = {
    "float64": np.dtype("float64"),
    "float32": np.dtype("float32"),
    "float16": np.dtype("float16"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
#: Rules without sums, exp and cbrt: nothing in them may round differently.
EXACT = [
    isostep.rule("addsign", lr=0.3, alpha=0.7),
    isostep.rule("sgd", lr=0.3, momentum=0.9, nesterov=True),
    isostep.rule("adamw", lr=0.1, betas=(0.8, 0.7), amsgrad=True),
    compose(isostep.rule("addsign"), pieces.lookahead(2), pieces.weight_decay(0.1)),
]
#: Each with a reason to sum: over an array, the group, units that lie together and units that do not.
REDUCING = [
    isostep.rule("lamb", lr=0.1, weight_decay=0.1),
    isostep.rule("sgd_hd", hypergrad_lr=1e-3, momentum=0.5),
    compose(pieces.centralize(0), isostep.rule("sgd", lr=0.1)),
    compose(pieces.centralize(-1), isostep.rule("sgd", lr=0.1)),
    compose(pieces.adaptive_clip(0.1, unit_axis=1), isostep.rule("sgd", lr=0.1)),
    compose(pieces.clip_by_global_norm(1.0), isostep.rule("adam", lr=0.1)),
    compose(pieces.clip_by_global_norm(1.0), pieces.centralize(0), isostep.rule("lamb", lr=0.1)),
]
CHUNK = device.CHUNK
SHAPES = [
    (1009,),
    (),
    (0,),
    (1,),
    (7, 5),
    (3, 0),
    (0, 3),
    (2, 3, 5, 2),
    (65, 130),
    (CHUNK + 3,),
    (3, 2 * CHUNK),
]


def arrays(dtype, shapes=SHAPES, seed=0):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=s)).astype(DTYPES[dtype]) for s in shapes]


def run(backend, rule, params, steps=3, grads=None):
    params = [np.copy(p, order="K") for p in params]
    state = backend.init(rule, params)
    for k in range(steps):
        given = [np.copy(p) if grads is None else grads[k][i] for i, p in enumerate(params)]
        backend.step(rule, params, given, state)
    return params, state


def assert_near(found, wanted, tolerance):
    assert found[1].t == wanted[1].t
    pairs = list(zip(found[0], wanted[0], strict=True))
    for own, others in zip(found[1].arrays, wanted[1].arrays, strict=True):
        pairs += [(own[n], others[n]) for n in others]
    pairs += [(found[1].group[n], wanted[1].group[n]) for n in wanted[1].group]
    for a, b in pairs:
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        wide = [np.asarray(x).astype(np.float64) for x in (a, b)]
        np.testing.assert_allclose(*wide, rtol=tolerance, atol=tolerance)


# The step


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", EXACT, ids=repr)
def test_bits_of_the_reference(raw, rule, dtype):
    assert raw.path(rule) == "fused"
    params = arrays(dtype)
    params[3:3] = [params[0][::3], params[0][1:200]]  # strided; not at a multiple of 16 bytes
    grads = [[g * 3 for g in arrays(dtype, [p.shape for p in params], k)] for k in range(3)]
    assert_near(run(raw, rule, params, 3, grads), run(REFERENCE, rule, params, 3, grads), 0)


@pytest.mark.parametrize("rule", REDUCING, ids=repr)
def test_sums_over_arrays_units_and_the_group(raw, rule):
    for dtype, tolerance in (("float64", 1e-11), ("float32", 1e-4)):
        grads = [arrays(dtype, seed=k) for k in (1, 2, 3)]
        params = arrays(dtype)
        assert_near(
            run(raw, rule, params, 3, grads), run(REFERENCE, rule, params, 3, grads), tolerance
        )


def test_a_group_of_several_dtypes_step_counts_and_phases(raw):
    rule = compose(
        pieces.clip_by_global_norm(1.0),
        isostep.rule("sgd_hd", hypergrad_lr=1e-3),
        pieces.lookahead(2),
    )
    shapes = [(5, 3), (600,)]
    results = []
    for backend in (raw, REFERENCE):
        params = [
            *arrays("float32", shapes),
            *arrays("float64", shapes),
            *arrays("bfloat16", shapes),
        ]
        state = backend.init(rule, params)
        for k in range(6):
            grads = [np.sin(p.astype(np.float64) + k).astype(p.dtype) for p in params]
            grads[k % 5] = None  # so that the others are ahead of it
            backend.step(rule, params, grads, state)
        results.append((params, state))
    assert results[0][1].group["lr"].dtype == np.float64
    assert_near(*results, 2e-2)  # bfloat16 rounds; the others would show a wrong group
    exact = [(r[0][2:4], copy.copy(r[1])) for r in results]
    for _, state in exact:
        state.arrays = state.arrays[2:4]
    assert_near(*exact, 1e-4)


def test_the_same_bits_whatever_else_is_in_the_list(raw):
    rule = compose(pieces.adaptive_clip(0.1), isostep.rule("lamb", lr=0.1))
    grads = [arrays("float32", seed=k) for k in (1, 2)]
    together, _ = run(raw, rule, arrays("float32"), 2, grads)
    for i, p in enumerate(arrays("float32")):
        alone, _ = run(raw, rule, [p], 2, [[g[i]] for g in grads])
        np.testing.assert_array_equal(alone[0], together[i])


def test_group_state_of_another_backend_is_taken_over(raw):
    rule = isostep.rule("sgd_hd", hypergrad_lr=1e-3)
    params = arrays("float32", [(5,)])
    state = REFERENCE.init(rule, params)
    REFERENCE.step(
        rule, params, [np.ones(5, np.float32)], state
    )  # leaves a NumPy scalar, which has no address
    before = float(state.group["lr"])
    raw.step(rule, params, [np.ones(5, np.float32)], state)
    place = raw.addresses([state.group["lr"]])
    raw.step(rule, params, [np.ones(5, np.float32)], state)
    assert raw.addresses([state.group["lr"]]) == place
    assert float(state.group["lr"]) == pytest.approx(before + 2 * 5e-3)


# Plans


def test_a_second_step_allocates_nothing_and_uploads_only_what_changed(raw, monkeypatch):
    made, uploads = [], []
    monkeypatch.setattr(host.HostDevice, "buffer", lambda *a: made.append(a) or np.empty(*a[1:]))

    def upload(self, buffer, values):
        uploads.append(values.size)
        buffer[...] = values

    monkeypatch.setattr(host.HostDevice, "upload", upload)
    rule = isostep.rule("lamb", lr=0.1)
    params, grads = arrays("float32", [(5,), (3, 4)]), arrays("float32", [(5,), (3, 4)], 1)
    state = raw.init(rule, params)
    raw.step(rule, params, grads, state)
    assert made
    made.clear(), uploads.clear()
    raw.step(rule, params, grads, state)
    (scalars,) = uploads  # the powers of beta
    assert scalars == len(device.kernels(isostep.program(rule), "float32").scalars)
    uploads.clear()
    raw.step(rule, params, [g.copy() for g in grads], state)
    assert len(uploads) == 2  # and where the gradients are
    assert not made
    uploads.clear()
    sgd = isostep.rule("sgd", lr=0.1)
    state = raw.init(sgd, params)
    for _ in range(3):
        raw.step(sgd, params, grads, state)
        made.clear()
    assert uploads[-1] != uploads[0] or len(uploads) <= 4  # nothing changes from step to step
    count = len(uploads)
    raw.step(sgd, params, grads, state)
    assert len(uploads) == count


def test_phases_that_alternate_keep_their_plans(raw, monkeypatch):
    runners = []
    real = executor.Runner.__init__
    monkeypatch.setattr(
        executor.Runner, "__init__", lambda self, *a: runners.append(self) or real(self, *a)
    )
    rule = compose(isostep.rule("sgd", lr=0.1), pieces.lookahead(2))
    params = arrays("float32", [(5,)])
    state = raw.init(rule, params)
    for _ in range(8):
        raw.step(rule, params, [np.ones(5, np.float32)], state)
    assert len(runners) == 2


def test_a_prepared_step_is_done_when_it_is_called(raw):
    rule = compose(pieces.clip_by_global_norm(1.0), isostep.rule("adam", lr=0.1))
    wanted, grads = arrays("float32"), arrays("float32", seed=1)
    found = [p.copy() for p in wanted]
    states = [raw.init(rule, wanted), raw.init(rule, found)]
    before = None
    for _ in range(3):
        raw.step(rule, wanted, grads, states[0])
        launch = raw.prepared(rule, found, grads, states[1])
        assert before in (None, launch)
        before = launch
        launch()
    assert_near((found, states[1]), (wanted, states[0]), 0)


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("muon", (4, 3), "it works on axes or matrices (matmul, transpose)"),
        ("sgd", (4, 3), "an array is not contiguous"),
    ],
)
def test_what_has_no_launches_cannot_be_prepared(raw, name, shape, text):
    rule, params = isostep.rule(name, lr=0.1), [np.asfortranarray(np.ones(shape))]
    state = raw.init(rule, params)
    with pytest.raises(isostep.StepError) as caught:
        raw.prepared(rule, params, [np.ones(shape)], state)
    assert (
        str(caught.value)
        == f"{name}: a step can only be prepared where kernels take all of it; {text}"
    )
    assert state.t == [0]
    assert (params[0] == 1).all()


# The text and what runs it


def library(text, name, header=None):
    """A compiled text behind host.h, as a library."""
    whole = cuda_text.header("host.h") + (header or cuda_text.header()) + text
    return ctypes.CDLL(str(host.built(host.compiler(), name, whole)))


CONVERT = """
extern "C" void widen_all(const stored *from, float *to, long n) {
    for (long i = 0; i < n; ++i) to[i] = widen(from[i]);
}
extern "C" void narrow_all(const float *from, stored *to, long n) {
    for (long i = 0; i < n; ++i) narrow(from[i], to[i]);
}
"""


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_halves_are_converted_to_the_bit(raw, name):
    types = f"#define STORED {name}\n#define REAL float\n#define GROUP_REAL float\n"
    functions = library(CONVERT, f"convert_{name}", types + cuda_text.header())
    every = np.arange(2**16, dtype=np.uint16)
    found = np.empty(2**16, np.float32)
    functions.widen_all(*(ctypes.c_void_p(host.address(a)) for a in (every, found)), 2**16)
    wanted = every.view(DTYPES[name]).astype(np.float32)
    nan = np.isnan(wanted)
    np.testing.assert_array_equal(found[~nan].view(np.uint32), wanted[~nan].view(np.uint32))
    assert np.isnan(found[nan]).all()
    # Every half, what lies between it and the next one, and the floats on both sides of that; then any floats.
    finite = np.sort(wanted[np.isfinite(wanted)])
    middle = (finite[1:].astype(np.float64) + finite[:-1]) / 2
    wide = np.concatenate([finite, middle.astype(np.float32), wanted[~np.isfinite(wanted)]])
    with np.errstate(all="ignore"):
        sides = [np.nextafter(wide, np.float32(s)) for s in (-np.inf, np.inf)]
    bits = np.random.default_rng(0).integers(0, 2**32, 10**5, dtype=np.uint32)
    wide = np.ascontiguousarray(np.concatenate([wide, *sides, bits.view(np.float32)]))
    halves = np.empty(len(wide), np.uint16)
    functions.narrow_all(*(ctypes.c_void_p(host.address(a)) for a in (wide, halves)), len(wide))
    with np.errstate(all="ignore"):
        wanted = wide.astype(DTYPES[name])
    nan = np.isnan(wide)
    np.testing.assert_array_equal(halves[~nan], wanted[~nan].view(np.uint16))
    assert np.isnan(halves[nan].view(DTYPES[name]).astype(np.float32)).all()


def test_what_the_compiler_gets_is_the_text_that_nvrtc_gets(raw, monkeypatch):
    seen = []
    monkeypatch.setattr(host, "built", lambda compiler, name, text: seen.append(text) or 1 / 0)
    k = device.kernels(isostep.program(isostep.rule("lamb")), "float16")
    with pytest.raises(ZeroDivisionError):
        host.HostDevice().compile(k)
    assert cuda_text.unit(cuda_source.source(k)) in seen[0]


SUMS = """
extern "C" __global__ void sums(const double *x, double *to) {{
    double sum = {0};
    sum += sum_of_block(-sum);  // at once again, in the same memory
    if (threadIdx.x == 0) to[blockIdx.x] = sum;
}}
extern "C" void run_sums(int64 blocks, int64 threads, const double *x, double *to) {{
    host::run(blocks, threads, true, [=] {{ sums(x, to); }});
}}
"""
PLAIN = "sum_of_block(x[blockIdx.x * blockDim.x + threadIdx.x])"
TYPES = "#define STORED float\n#define REAL float\n#define GROUP_REAL float\n"


def block_sums(name, header, blocks=3, threads=32):
    x, to = np.random.default_rng(0).normal(size=(blocks, threads)), np.empty(blocks)
    function = library(SUMS.format(PLAIN), name, TYPES + header).run_sums
    given = (ctypes.c_void_p(host.address(a)) for a in (x, to))
    function(ctypes.c_int64(blocks), ctypes.c_int64(threads), *given)
    return to, x.sum(axis=1) * (1 - threads)


@pytest.mark.parametrize("threads", [1, 2, 32, 256])
def test_a_block_sums_over_its_threads(raw, threads):
    np.testing.assert_allclose(*block_sums("sums", cuda_text.header(), threads=threads), rtol=1e-12)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_barrier_that_is_missing_shows(raw, which):
    before, *parts = cuda_text.header().split("__syncthreads();")
    barriers = ["__syncthreads();"] * len(parts)
    barriers[which] = ""
    text = before + "".join(b + p for b, p in zip(barriers, parts, strict=True))
    found, wanted = block_sums(f"missing_{which}", text)
    assert not np.allclose(found, wanted, rtol=1e-6)


DIVERGED = """
import sys; sys.path.insert(0, {folder!r})
from test_host import *
text = SUMS.format("threadIdx.x < 5 ? sum_of_block(x[threadIdx.x]) : 0")
x = np.ones(64)
given = [ctypes.c_void_p(host.address(x))] * 2
library(text, "diverged", TYPES + cuda_text.header()).run_sums(ctypes.c_int64(1), ctypes.c_int64(32), *given)
"""


def test_a_barrier_that_some_threads_miss_ends_the_process(raw):
    code = DIVERGED.format(folder=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode < 0
    assert "a barrier that not all threads of a block reach" in done.stderr


MISALIGNED = """
import numpy as np, isostep
from isostep.lower import executor
backend, rule = isostep.backend("cupy:raw(host)"), isostep.rule("sgd", lr=0.1)
values = np.zeros(64, np.uint8)
first = -values.__array_interface__["data"][0] % 16 + {offset}
params = [values[first : first + 32].view(np.float32)]
executor._with_alignment = lambda table, slots: np.concatenate([table, table[:, :1] * 0 + 1], axis=1)  # so it is said
backend.step(rule, params, [np.zeros(8, np.float32)], backend.init(rule, params))
"""


@pytest.mark.parametrize("offset", [0, 4])
def test_a_wide_load_from_an_odd_address_ends_the_process(raw, offset):
    code = MISALIGNED.format(offset=offset)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode < 0) == bool(offset)
    assert ("at an address that is no multiple of its size" in done.stderr) == bool(offset)


def test_compiled_kernels_are_kept(raw, tmp_path, monkeypatch):
    monkeypatch.setenv("ISOSTEP_CACHE_DIR", str(tmp_path))
    k = device.kernels(isostep.program(isostep.rule("sgd")), "float32")
    host.HostDevice().compile(k)
    (file,) = (f for f in tmp_path.rglob("*") if f.is_file())
    before = file.stat().st_mtime_ns
    monkeypatch.setattr(subprocess, "run", None)
    host.HostDevice().compile(k)
    assert file.suffix == ".so"
    assert file.stat().st_mtime_ns == before


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendError) as caught:
        isostep.backend("cupy:raw(host)")
    assert (
        str(caught.value) == "cupy:raw(host) needs a C++ compiler for Unix; tried no-such-compiler"
    )


def test_it_is_nobody_s_best_path():
    from isostep_cupy.backend import family

    assert "raw(host)" in family.by_name
