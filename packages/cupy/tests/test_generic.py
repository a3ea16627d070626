"""``cupy:raw`` and ``cupy:generic``: why they cannot run, where they cannot; the step on the device, where they can."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import isostep
from isostep import BackendError
from isostep_cupy import CupyGeneric


class CUDARuntimeError(Exception):
    """As CuPy's."""


def fake_cupy(count):
    def getDeviceCount():
        if isinstance(count, str):
            raise CUDARuntimeError(count)
        return count

    runtime = SimpleNamespace(getDeviceCount=getDeviceCount, CUDARuntimeError=CUDARuntimeError)
    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))


@pytest.fixture
def machine(monkeypatch):
    """``machine(None)``: no CuPy here; ``machine(n)``: CuPy that counts n devices, or fails with a text."""

    def pretend(count):
        real = importlib.util.find_spec
        spec = None if count is None else object()
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest: spec if name == "cupy" else real(name, *rest),
        )
        if count is not None:
            monkeypatch.setitem(sys.modules, "cupy", fake_cupy(count))

    return pretend


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (
            None,
            "cupy:generic needs the package 'cupy', which is not installed; "
            "pip install 'isostep-cupy[cuda13]' (or [cuda12])",
        ),
        (0, "cupy:generic needs a CUDA device, and there is none"),
        (
            "no CUDA-capable device is detected",
            "cupy:generic needs a CUDA device: no CUDA-capable device is detected",
        ),
    ],
)
def test_where_it_cannot_run_it_says_why(machine, count, text):
    machine(count)
    with pytest.raises(BackendError) as caught:
        isostep.backend("cupy:generic")
    assert str(caught.value) == text
    with pytest.raises(BackendError) as caught:
        isostep.backend("cupy")
    raw = text.replace("cupy:generic", "cupy:raw")
    assert str(caught.value) == f"no path of 'cupy' runs here: {raw}; {text}"


def test_with_a_device_it_is_a_path_of_the_family(machine):
    machine(1)
    backend = isostep.backend("cupy:generic")
    assert isinstance(backend, CupyGeneric)
    assert backend.name == "cupy:generic"
    assert "bfloat16" not in backend.dtypes


def test_an_unknown_path_lists_the_paths():
    with pytest.raises(
        BackendError, match=r"^cupy has no path 'fast'; it has raw, generic, raw\(host\)$"
    ):
        isostep.backend("cupy:fast")


@pytest.fixture(params=["cupy:raw", "cupy:generic"])
def device(request):
    """A path on a real device."""
    try:
        return isostep.backend(request.param)
    except BackendError as error:
        pytest.skip(str(error))


def arrays(dtype, seed):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=s)).astype(dtype) for s in ((5, 3), (7,), ())]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("name", ["adamw", "addsign", "sgd_hd", "lamb", "adafactor"])
def test_the_step_of_the_reference_on_the_device(device, name, dtype):
    rule, reference = isostep.rule(name, lr=0.1), isostep.backend("numpy:reference")
    runs = []
    for backend in (device, reference):
        params = [backend.asarray(p) for p in arrays(dtype, 0)]
        state = backend.init(rule, params)
        for k in (1, 2, 3):
            grads = [backend.asarray(g) for g in arrays(dtype, k)]
            found, after = backend.step(rule, params, grads, state)
            assert found is params
            assert after is state
        runs.append([backend.to_numpy(p) for p in params])
    tolerance = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3}[dtype]
    for a, b in zip(*runs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
def test_arrays_stay_on_the_device_and_the_gradient_as_it_is(device):
    import cupy

    rule = isostep.rule("sgd_hd", lr=0.5, hypergrad_lr=0.25)
    params, grads = [cupy.zeros(2)], [cupy.ones(2)]
    pointer = params[0].data.ptr
    state = device.init(rule, params)
    for _ in range(2):
        device.step(rule, params, grads, state)
    assert params[0].data.ptr == pointer
    assert grads[0].get().tolist() == [1, 1]
    assert float(state.group["lr"]) == 1.0
    assert params[0].get().tolist() == [-1.5, -1.5]
    owned = (*params, *state.arrays[0].values(), *state.group.values())
    assert all(isinstance(a, cupy.ndarray) for a in owned)


@pytest.mark.whole  # the cases are those of the conformance suite
def test_the_rules_whose_denormals_are_flushed_are_those_without_kernels():
    from isostep.lower.layout import obstacle
    from isostep_conformance import gaps, select
    from isostep_conformance.cases import Case, of_rule
    from isostep_conformance.paths import Path
    from isostep_cupy.raw import CupyRaw
    from isostep_cupy.support import gaps as own

    path = Path("cupy:raw", CupyRaw.__new__(CupyRaw), gaps=gaps.read(own()))
    for name in ("soap", "adamw", "adashift"):  # never, always, in some settings
        for subject in of_rule(name):
            found = select.gap_of(path, Case(subject, "bfloat16"), "denormals")
            assert (found is not None) == (obstacle(subject.rule) is not None)
    raw = path.gaps[1]
    assert raw.way == ("passes*", "stacked*")
    assert not raw.matches("cupy:raw(host)", "soap.3", "float32", "denormals", "passes: it sums")
