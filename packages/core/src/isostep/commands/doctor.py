"""``isostep doctor``: what is installed, which paths run here, and why the others do not."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from contextlib import suppress
from typing import Any

import numpy as np

import isostep
from isostep.backend import families, family
from isostep.commands.common import command, print_json, print_table

#: Distribution -> what it is for.
PACKAGES = {
    "isostep": "this package",
    "isostep-torch": "PyTorch: pip install isostep-torch",
    "isostep-jax": "JAX: pip install isostep-jax",
    "isostep-cupy": "CuPy: pip install isostep-cupy",
    "isostep-conformance": "proofs: pip install isostep-conformance",
    "numpy": "always needed",
    "array-api-compat": "always needed",
    "numba": "fused steps on the CPU: pip install 'isostep[fused]'",
    "ml_dtypes": "bfloat16 NumPy arrays: pip install 'isostep[halves]'",
    "safetensors": "isostep.save and load: pip install 'isostep[files]'",
    "matplotlib": "isostep plot: pip install 'isostep[plot]'",
    "scikit-learn": "isostep train's embedded data: pip install 'isostep[train]'",
    "rich": "tables and progress on a terminal: pip install 'isostep[cli]'",
    "torch": "comes with isostep-torch",
    "triton": "torch:fused(cuda): comes with torch's CUDA builds, else pip install triton",
    "jax": "comes with isostep-jax",
    "cupy": "comes with isostep-cupy's extras: pip install 'isostep-cupy[cuda13]' (or [cuda12])",
}
#: What is distributed under several names, one for each version of CUDA.
NAMES = {"cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy")}


def add(commands: Any) -> None:
    """Add the command."""
    command(
        commands,
        "doctor",
        run,
        "what is installed, and which paths run here",
        "isostep doctor --json",
        "Every path that runs takes one step to prove it.",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print the report; nothing that is missing is an error."""
    found = report()
    if arguments.json:
        print_json(found)
        return
    rows = [[n, p["version"] or "not installed", p["about"]] for n, p in found["packages"].items()]
    print_table(["package", "version", "what it is for"], rows)
    print()
    rows = [[n, "yes" if p["runs"] else "no", p["why"]] for n, p in found["paths"].items()]
    print_table(["path", "runs", "note"], rows)
    print()
    for name in ("python", "machine", "threads", "gpu", "kernels"):
        print(f"{name:8} {found[name]}")


def report() -> dict[str, Any]:
    """Everything that ``doctor`` knows, as JSON can hold it."""
    return {
        "packages": {n: {"version": version(n), "about": a} for n, a in PACKAGES.items()},
        "paths": paths(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "gpu": gpu(),
        **kernels(),
    }


def kernels() -> dict[str, str]:
    """How many threads fused steps take on the CPU, and where compiled kernels are kept."""
    if importlib.util.find_spec("numba") is None:
        return dict.fromkeys(("threads", "kernels"), "no fused steps on the CPU without numba")
    from isostep.lower.cache import cache_folder
    from isostep.lower.threads import threads

    return {
        "threads": f"{threads()} for fused steps, torch's own for torch's (ISOSTEP_NUM_THREADS changes it)",
        "kernels": f"kept in {cache_folder()} (ISOSTEP_CACHE_DIR changes it)",
    }


def version(name: str) -> str | None:
    """The version of an installed distribution."""
    for one in NAMES.get(name, (name,)):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(one)
    return None


def paths() -> dict[str, dict[str, Any]]:
    """Every path of every installed family: whether it runs, and why not."""
    found: dict[str, dict[str, Any]] = {}
    for name in families():
        try:
            each = family(name)
        except isostep.BackendError as error:
            found[name] = {"runs": False, "why": str(error)}
            continue
        for path in each.paths:
            label = name if path == "default" else f"{name}:{path}"
            fault = trial(lambda e=each, p=path: e.make(p))
            found[label] = {"runs": fault is None, "why": fault or "took a step"}
    return found


def trial(make: Any) -> str | None:
    """Take one step of SGD and look at it; what went wrong, in one line, or None."""
    try:
        backend = make()
        rule = isostep.rule("sgd", lr=0.5)
        params = [backend.asarray(np.array([1.0, 2.0], np.float32))]
        grads = [backend.asarray(np.array([2.0, -2.0], np.float32))]
        params, _ = backend.step(rule, params, grads, backend.init(rule, params))
        result = backend.to_numpy(params[0])
    except isostep.Unavailable as error:
        return str(error)
    except Exception as error:  # a broken installation may raise anything; the report goes on
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return None if result.tolist() == [0.0, 3.0] else f"took a wrong step: {result.tolist()}"


def gpu() -> str:
    """The NVIDIA GPUs that the driver names, in one line."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none: no NVIDIA driver here (nvidia-smi is not found)"
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"none that answers: {type(error).__name__} from nvidia-smi"
    return "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip()) or "none"
