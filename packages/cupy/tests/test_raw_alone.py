"""``cupy:raw`` without CuPy: its own few lines, over a stand-in whose device is the host path's compiler.

This shows that they hang together, not that CuPy does what the stand-in does: for that see ``test_raw.py``.
"""

import ctypes
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import isostep
from isostep.lower.axes import axes
from isostep.lower.axes_device import run
from isostep.program import shaped
from isostep_cupy import host
from isostep_cupy.cuda_text import header

REFERENCE = isostep.backend("numpy:reference")


STREAM = SimpleNamespace(is_capturing=lambda: False)
PLACE = SimpleNamespace(id=0, compute_capability="90")


class Array(np.ndarray):
    """A NumPy array with what raw.py asks of CuPy's."""

    device = SimpleNamespace(id=0)

    @property
    def data(self):
        return SimpleNamespace(ptr=host.address(self), copy_from_host_async=self._copy)

    def _copy(self, source, size, stream):
        assert stream is STREAM
        assert size == self.nbytes
        ctypes.memmove(host.address(self), source, size)


class Event:
    """Not done when it is first asked, so that there is a second buffer; done from then on."""

    def __init__(self, disable_timing):
        self.asked, self.place = False, PLACE.id

    @property
    def done(self):
        before, self.asked = self.asked, True
        return before

    def record(self, stream):
        assert stream is STREAM
        assert self.place == PLACE.id  # CUDA refuses an event of another device


class Module:
    """Text in the place of machine code."""

    def __init__(self, path):
        self.text, end, more = Path(path).read_text().partition("\0")
        assert end  # the whole of the machine code is in the file
        assert not more
        found = re.findall(r"__global__ void (\w+)\(([^)]*)\)", self.text)
        self.arguments = {n: re.findall(r"(\w+)(?:,|\s*$)", a.strip()) for n, a in found}
        entries = "\n".join(host._entry(n, a) for n, a in self.arguments.items())
        whole = f"{header('host.h')}{self.text}\n{entries}"
        self.library = ctypes.CDLL(str(host.built(host.compiler(), "alone", whole)))

    def get_function(self, name):
        function = getattr(self.library, f"run_{name}")
        function.argtypes = (ctypes.c_int64, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p)
        expected = self.arguments[name]

        def kernel(grid, block, arguments):
            assert len(arguments) == len(expected)
            assert all(isinstance(a, Array | np.int64) for a in arguments)
            values = [a.data.ptr if isinstance(a, Array) else a for a in arguments]
            function(grid[0], block[0], True, host.address(np.array(values, np.int64)))

        return kernel


class Compiler:
    """NVRTC's calls as CuPy has them; the code is the text, ended by a 0, which CuPy drops."""

    NVRTCError = RuntimeError

    @staticmethod
    def getVersion():
        return 13, 0

    @staticmethod
    def createProgram(text, name, headers, names):
        return text

    @staticmethod
    def compileProgram(program, options):
        assert options == ("-std=c++17", "--gpu-architecture=sm_90")

    @staticmethod
    def getCUBIN(program):
        return program.encode()

    @staticmethod
    def destroyProgram(program):
        pass


@pytest.fixture
def raw(monkeypatch, tmp_path):
    try:
        host.compiler()
    except isostep.Unavailable as error:
        pytest.skip(str(error))
    as_array = lambda x, dtype=None: np.array(x, dtype).view(Array)  # noqa: E731
    cuda = SimpleNamespace(
        runtime=SimpleNamespace(
            getDeviceCount=lambda: 1,
            CUDARuntimeError=RuntimeError,
            getDeviceProperties=lambda k: {"name": b"none"},
        ),
        Device=lambda: PLACE,
        Event=Event,
        nvrtc=Compiler,
        get_current_stream=lambda: STREAM,
        alloc_pinned_memory=bytearray,
    )
    fake = SimpleNamespace(
        cuda=cuda,
        ndarray=Array,
        RawModule=lambda path: Module(path),
        empty=lambda shape, dtype: np.empty(shape, dtype).view(Array),
        ones=lambda shape, dtype: np.ones(shape, dtype).view(Array),
        zeros_like=lambda a, dtype=None: np.zeros(a.shape, dtype or a.dtype).view(Array),
        array=as_array,
        asarray=as_array,
        asnumpy=lambda a: np.array(a),
        may_share_memory=np.may_share_memory,
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: object())
    monkeypatch.setenv("ISOSTEP_CACHE_DIR", str(tmp_path))
    from isostep_cupy.raw import CupyRaw

    return CupyRaw()


@pytest.mark.parametrize("name", ["addsign", "lamb", "sgd_hd"])
def test_steps_are_the_reference_s(raw, name):
    rule = isostep.rule(name, lr=0.1)
    assert raw.path(rule) == "fused"
    assert str(raw.device) == "none"
    results = []
    for backend in (raw, REFERENCE):
        rng = np.random.default_rng(0)
        params = [backend.asarray(rng.normal(size=s)) for s in ((5, 3), (300_000,), ())]
        state = backend.init(rule, params)
        for _ in range(3):
            grads = [backend.asarray(rng.normal(size=p.shape)) for p in params]
            backend.step(rule, params, grads, state)
        results.append((params, state))
    (found, state), (wanted, other) = results
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=1e-12, atol=1e-12)
    for n, v in other.group.items():
        assert float(state.group[n]) == pytest.approx(float(v), rel=1e-12)
    staged = [len(waiting) for waiting in raw.device._staging.values()]
    assert 1 < max(staged) <= 3  # page-locked buffers are used again


def test_kernels_are_compiled_once_and_kept(raw, tmp_path, monkeypatch):
    rule, params = isostep.rule("sgd", lr=0.5), [raw.asarray(np.ones(3))]
    raw.step(rule, params, [raw.asarray(np.ones(3))], raw.init(rule, params))
    (file,) = tmp_path.rglob("*.cubin")
    assert file.name.startswith("sgd_")
    monkeypatch.setattr(Compiler, "getCUBIN", None)
    again = type(raw)()
    again.step(rule, params, [raw.asarray(np.ones(3))], again.init(rule, params))
    assert params[0].tolist() == [0, 0, 0]


def test_passes_over_axes_are_those_of_the_host(raw, tmp_path):
    rule = isostep.rule("sm3")
    found, other = (axes(shaped(rule, rule.phase(2), s)) for s in ((40, 70), (5, 3)))
    assert raw.device.passes(found, "float64") is raw.device.passes(other, "float64")
    (one,) = found.passes
    results = []
    for device in (raw.device, host.HostDevice()):
        rng = np.random.default_rng(0)
        arrays = [rng.uniform(0.1, 1, (2, 40, 70)) for _ in one.slots]
        stacks = [rng.uniform(0.1, 1, (2, 70)) for _ in one.stacks]
        table = np.array([[host.address(a[k]) for a in arrays] for k in range(2)])
        reduced = run(
            device,
            found,
            one,
            "float64",
            2,
            table=table,
            scalars=[0.5] * len(one.scalars),
            columns=0,
            at={n: host.address(b) for n, b in zip(one.stacks, stacks, strict=True)},
        )
        results.append([*arrays, *map(np.asarray, reduced.values())])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(
            a, b
        )  # a tile's order does not depend on how many threads do it
    (file,) = tmp_path.rglob("*.cubin")
    assert file.name.startswith("sm3_")


def test_what_nvrtc_refuses_is_shown(raw, monkeypatch):
    def refuse(program, options):
        raise RuntimeError

    monkeypatch.setattr(Compiler, "compileProgram", refuse)
    monkeypatch.setattr(Compiler, "getProgramLog", lambda program: "line 3: no", raising=False)
    rule, params = isostep.rule("sgd", lr=0.5), [raw.asarray(np.ones(3))]
    state = raw.init(rule, params)
    with pytest.raises(RuntimeError, match="NVRTC cannot compile these kernels:\nline 3: no"):
        raw.step(rule, params, [raw.asarray(np.ones(3))], state)
    assert state.t == [0]
    assert params[0].tolist() == [1, 1, 1]


def begun(raw):
    """Rule, parameters, gradients and state after one step, from 1 to 0.5."""
    rule, params = isostep.rule("sgd", lr=0.5, momentum=0.5), [raw.asarray(np.ones(3))]
    state, grads = raw.init(rule, params), [raw.asarray(np.ones(3))]
    raw.step(rule, params, grads, state)
    return rule, params, grads, state


def test_a_step_in_a_capture_is_refused(raw, monkeypatch):
    """Its counts would be repeated, and its page-locked memory never be free again."""
    rule, params, grads, state = begun(raw)
    monkeypatch.setattr(STREAM, "is_capturing", lambda: True)
    for step in (raw.step, raw.prepared):
        with pytest.raises(isostep.StepError, match="prepare it before, and capture"):
            step(rule, params, grads, state)
    assert state.t == [1]
    assert params[0].tolist() == [0.5, 0.5, 0.5]


def test_kernels_see_arrays_of_the_current_device_alone(raw, monkeypatch):
    rule, params, grads, state = begun(raw)
    monkeypatch.setattr(PLACE, "id", 1)
    with pytest.raises(isostep.StepError, match="on device 0, the current one is 1"):
        raw.step(rule, params, grads, state)
    monkeypatch.setattr(PLACE, "id", 0)
    elsewhere = raw.asarray(np.ones(3))
    elsewhere.device = SimpleNamespace(id=1)
    launched = []
    monkeypatch.setattr(raw, "launch", lambda *a: launched.append(a) or {})
    for known in (state, raw.init(rule, params)):
        raw.step(
            rule, params, [elsewhere], known
        )  # CuPy's own arithmetic says what it thinks of it
    assert not launched


def test_each_device_has_page_locked_memory_and_events_of_its_own(raw, monkeypatch):
    values = np.arange(3.0)
    for place in (0, 0, 0, 1, 1, 1, 0):
        monkeypatch.setattr(PLACE, "id", place)
        buffer = raw.device.buffer(3, "float64")
        raw.device.upload(buffer, values)
        assert buffer.tolist() == values.tolist()


def test_what_keeps_bfloat16_from_compiling_leaves_the_other_dtypes(raw, monkeypatch):
    pytest.importorskip(
        "ml_dtypes", reason="needs ml_dtypes, which has bfloat16 for NumPy and CuPy"
    )
    assert "bfloat16" in raw.dtypes
    monkeypatch.setattr(Array, "astype", lambda *a: 1 / 0)
    assert type(raw)().dtypes == ("float64", "float32", "float16")
