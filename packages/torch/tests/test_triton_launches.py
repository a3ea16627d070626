"""What Triton does to launch our kernels, on a driver that launches nothing: its own checks, and no compiling anew."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

import isostep

pytest.importorskip("triton", reason="needs triton, which compiles the kernels")

from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.driver import make_launcher
from triton.runtime import driver

from isostep_torch.fused_cuda import TorchInterpreter, TritonDevice
from isostep_torch.fused_traced import TracedInterpreter

pytestmark = [
    pytest.mark.whole,  # triton comes with every package together
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here"),
]


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """How often each kernel has been compiled; tensors of the CPU are in the place of a device's."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("ISOSTEP_CACHE_DIR", str(tmp_path))
    counts = Counter()

    class Launcher:
        def __init__(self, src, metadata):
            make_launcher(src.constants, src.signature, None)
            counts[src.fn.__module__, metadata.name] += 1

        def __call__(self, blocks, y, z, *rest):
            assert 0 < blocks < 2**31
            assert y == z == 1

    def loaded(name, code, shared, device):
        assert code.startswith(b"\x7fELF")
        return 1, 1, 32, 0, 1024  # module, function, registers, spills, most threads

    limits = {"max_shared_mem": 48 << 10, "multiprocessor_count": 132}
    stand_in = SimpleNamespace(
        launcher_cls=Launcher,
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        utils=SimpleNamespace(load_binary=loaded, get_device_properties=lambda device: limits),
    )

    def made(self, place):
        self.place, self.interpreted = place, False

    monkeypatch.setattr(TritonDevice, "__init__", made)
    monkeypatch.setattr(TritonDevice, "pinned", lambda self, values: torch.tensor(values))
    monkeypatch.setattr(driver, "_active", stand_in)
    return counts


def steps(backend, rule, shapes, count):
    """Steps that differ in their numbers and in where gradients lie."""
    params = [torch.randn(s) for s in shapes]
    state = backend.init(rule, params)
    if isinstance(backend, TracedInterpreter):  # counts are tensors
        state.t, state.group_t = [torch.zeros(()) for _ in params], torch.zeros(())
    for k in range(count):
        now = rule.replace(lr=0.1 / (k + 1))
        backend.step(now, params, [torch.randn(s) for s in shapes], state)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((TorchInterpreter, n) for n in ("adamw", "lamb", "sgd_hd", "adafactor")),
        (TracedInterpreter, "sgd_hd"),
    ],
)
def test_a_kernel_is_compiled_once_whatever_numbers_and_counts_are(compiled, kind, name):
    backend, rule = kind(), isostep.rule(name, lr=0.1)
    steps(backend, rule, [(64, 48)], 18)  # counts of steps and rows pass 1 and 16
    assert compiled
    before = dict(compiled)
    steps(backend, rule, [(64, 48)] * 17 + [(62, 45)] * 2, 3)
    assert compiled == before
    assert set(compiled.values()) == {1}
