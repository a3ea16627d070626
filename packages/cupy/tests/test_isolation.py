"""Layering: isostep_cupy imports its own framework and no other, and isostep finds it by name."""

import importlib.metadata
import subprocess
import sys

OTHERS = {"torch", "jax", "jaxlib", "tensorflow", "isostep_torch", "isostep_jax"}


def test_importing_imports_no_other_framework():
    code = "import sys, isostep_cupy; print(*{m.partition('.')[0] for m in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not OTHERS & set(run.stdout.split())


def test_registered_as_a_backend():
    (entry,) = importlib.metadata.entry_points(group="isostep.backends", name="cupy")
    assert entry.value == "isostep_cupy.backend:family"
    assert entry.dist.name == "isostep-cupy"
