"""Layering: isostep_torch imports its own framework and no other, and isostep finds it by name."""

import importlib.metadata
import subprocess
import sys

OTHERS = {"jax", "jaxlib", "cupy", "tensorflow", "isostep_jax", "isostep_cupy"}


def test_importing_imports_no_other_framework():
    code = "import sys, isostep_torch; print(*{m.partition('.')[0] for m in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not OTHERS & set(run.stdout.split())


def test_registered_as_a_backend():
    (entry,) = importlib.metadata.entry_points(group="isostep.backends", name="torch")
    assert entry.value == "isostep_torch.backend:family"
    assert entry.dist.name == "isostep-torch"
