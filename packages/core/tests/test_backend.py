"""Backends by name: found through entry points, best path first, and errors that say what there is."""

import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import numpy as np
import pytest

import isostep
from isostep import Backend, BackendError, Family, Unavailable
from isostep.backends.numpy import NumpyReference

discovery = sys.modules[
    "isostep.backend"
]  # the module; isostep.backend is the function of its name


class Path:
    """Enough of a backend to be told apart."""

    def __init__(self, name):
        self.name = name


def absent():
    message = "sample:fast needs a flux capacitor"
    raise Unavailable(message)


SAMPLE = Family("sample", {"fast": absent, "plain": lambda: Path("sample:plain")})
NEVER = Family("never", {"fast": absent, "other": absent})
NEEDY = Family("needy", {"path": lambda: Path("needy:path")}, needs={"path": "no_such_module"})


def no_licence():
    message = "no licence"
    raise ValueError(message)


COSTLY = Family("costly", {"path": no_licence})


def bare():
    return Path("bare")


@pytest.fixture
def installed(monkeypatch):
    """Only the families of this file are installed."""
    here = {"sample": SAMPLE, "never": NEVER, "needy": NEEDY, "bare": bare}
    monkeypatch.setitem(sys.modules, "sample_backends", SimpleNamespace(**here))
    points = [EntryPoint(name, f"sample_backends:{name}", "isostep.backends") for name in here]
    points.append(EntryPoint("broken", "no_such_package:family", "isostep.backends"))
    asked = []
    monkeypatch.setattr(discovery, "entry_points", lambda group: asked.append(group) or points)
    yield
    assert set(asked) <= {"isostep.backends"}


def error(name):
    with pytest.raises(BackendError) as caught:
        isostep.backend(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_backend_lists_the_installed_ones(installed):
    assert error("sampel") == (
        "unknown backend 'sampel'; installed: bare, broken, needy, never, sample"
    )
    assert error("").startswith("unknown backend ''; installed: ")
    assert error("sampel:fast").startswith("unknown backend 'sampel'; installed: ")


def test_nothing_installed_is_said(monkeypatch):
    monkeypatch.setattr(discovery, "entry_points", lambda group: [])
    assert error("numpy") == "unknown backend 'numpy'; installed: none"


def test_an_unknown_path_lists_the_paths(installed):
    assert error("sample:slow") == "sample has no path 'slow'; it has fast, plain"
    assert error("bare:slow") == "bare has no path 'slow'; it has default"


def test_a_name_is_the_best_path_that_runs(installed):
    assert isostep.backend("sample").name == "sample:plain"
    assert isostep.backend("sample:plain").name == "sample:plain"


def test_what_cannot_run_says_why(installed):
    assert error("sample:fast") == "sample:fast needs a flux capacitor"
    assert error("never") == (
        "no path of 'never' runs here: sample:fast needs a flux capacitor; sample:fast needs a flux capacitor"
    )
    missing = "needy:path needs the package 'no_such_module', which is not installed"
    assert error("needy:path") == missing
    assert error("needy") == f"no path of 'needy' runs here: {missing}"


def test_what_cannot_be_loaded_says_why(installed):
    assert error("broken") == (
        "backend 'broken' is installed but cannot be loaded: "
        "ModuleNotFoundError: No module named 'no_such_package'"
    )


def test_what_fails_in_a_package_of_others_says_how(monkeypatch):
    monkeypatch.setattr(discovery, "families", lambda: {"costly": lambda: COSTLY})
    text = "costly:path cannot be made: ValueError: no licence; mend that package"
    assert error("costly") == error("costly:path") == text
    for fault in (RuntimeError("my plug-in is broken"), AttributeError("no B")):
        monkeypatch.setattr(discovery, "families", lambda fault=fault: {"bad": failing(fault)})
        assert error("bad") == (
            f"backend 'bad' is installed but cannot be loaded: {type(fault).__name__}: {fault}"
        )


def failing(fault):
    def load():
        raise fault

    return load


def test_a_bare_factory_is_a_family_of_one_path(installed):
    assert isostep.backend("bare").name == "bare"
    assert isostep.backend("bare:default").name == "bare"


def test_all_paths_are_named_as_backend_takes_them(installed, monkeypatch):
    families = {n: load for n, load in discovery.families().items() if n != "broken"}
    monkeypatch.setattr(discovery, "families", lambda: families)
    paths = discovery.all_paths()
    assert sorted(paths) == [
        "bare",
        "needy:path",
        "never:fast",
        "never:other",
        "sample:fast",
        "sample:plain",
    ]
    assert paths["bare"]().name == "bare"
    assert paths["sample:plain"]().name == "sample:plain"
    with pytest.raises(Unavailable):
        paths["sample:fast"]()
    with pytest.raises(Unavailable):
        paths["needy:path"]()


def test_numpy_is_there_and_best_path_first():
    family = discovery.family("numpy")
    assert list(family.paths) == ["fused", "reference"]
    assert family.needs == {"fused": "numba"}
    assert family.gaps() == []
    assert error("numpy:gpu") == "numpy has no path 'gpu'; it has fused, reference"
    reference = isostep.backend("numpy:reference")
    assert isinstance(reference, NumpyReference)
    assert isinstance(reference, Backend)


@pytest.mark.whole
def test_plain_numpy_is_fused():
    assert isostep.backend("numpy").name == "numpy:fused"


def test_without_numba_numpy_is_the_reference(monkeypatch):
    real = discovery.importlib.util.find_spec
    absent = lambda name, *rest: None if name == "numba" else real(name, *rest)  # noqa: E731
    monkeypatch.setattr(discovery.importlib.util, "find_spec", absent)
    assert isostep.backend("numpy").name == "numpy:reference"
    missing = "numpy:fused needs the package 'numba', which is not installed; pip install 'isostep[fused]'"
    assert error("numpy:fused") == missing


@pytest.mark.parametrize(
    "path", ["numpy:reference", pytest.param("numpy:fused", marks=pytest.mark.whole)]
)
def test_arrays_are_copied_in_and_out(path):
    backend = isostep.backend(path)
    array = np.arange(3.0)
    inside = backend.asarray(array)
    outside = backend.to_numpy(inside)
    inside[0], outside[1] = 5, 7
    assert array.tolist() == [0, 1, 2]
    assert inside.tolist() == [5, 1, 2]
    assert outside.tolist() == [0, 7, 2]


@pytest.mark.parametrize(
    "path", ["numpy:reference", pytest.param("numpy:fused", marks=pytest.mark.whole)]
)
def test_a_step_is_in_place_and_returns_what_it_was_given(path):
    backend = isostep.backend(path)
    rule = isostep.rule("addsign", lr=0.5)
    array, g = np.zeros(2), np.array([1.0, -1.0])
    for params in ([array], (array,), {"w": array}):
        array[:] = 0
        grads = {"w": g} if isinstance(params, dict) else [g]
        state = backend.init(rule, params)
        found, after = backend.step(rule, params, grads, state)
        assert found is params
        assert after is state
        assert array.tolist() == [-1, 1]
        assert g.tolist() == [1, -1]
        assert state.arrays[0]["m"].tolist() == [1 - 0.9, -(1 - 0.9)]
        assert (state.t, state.group_t, state.rule) == ([1], 1, "addsign")
