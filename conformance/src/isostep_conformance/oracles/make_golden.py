"""Write ``golden/tf_sign.npz`` from TensorFlow's own kernels.

    python -m isostep_conformance.oracles.make_golden

Needs tensorflow-cpu and ml_dtypes. The same TensorFlow on the same inputs gives the same bytes.
"""

from __future__ import annotations

import json

import numpy as np

from isostep.backends.numpy import numpy_dtype

from . import tf_kernels
from .golden import FILE, case_as_dict
from .outcome import Array
from .sign_cases import CASES, HALF_CASES, SignCase, inputs, rounded_to_float32


def record(mode: str, dtype: np.dtype[np.generic], cases: list[SignCase]) -> dict[str, Array]:
    """All arrays of one mode."""
    given = inputs(dtype)
    stored = np.dtype(np.uint16) if dtype.itemsize == 2 else dtype
    decays = [tf_kernels.decays(case, mode) for case in cases]
    runs = [tf_kernels.run(case, values, given) for case, values in zip(cases, decays, strict=True)]
    momenta: dict[float, Array] = {}
    for case, run in zip(cases, runs, strict=True):
        m = np.stack(run.m).view(stored)
        if not np.array_equal(momenta.setdefault(case.beta, m), m):
            message = f"{mode} {case.rule} {case}: the momentum depends on more than beta"
            raise AssertionError(message)
    return {
        "start": given.start.view(stored),
        "gradients": given.gradients.view(stored),
        "patterns": given.patterns.astype(np.uint8),
        "decays": np.array(decays, np.float64 if mode == "float64" else np.float32),
        "p": np.stack([np.stack(run.p).view(stored) for run in runs]),
        "m": np.stack(list(momenta.values())),
    }


def main() -> None:
    """Run every mode and write the file."""
    plans = {
        "float32": ("float32", list(CASES)),
        "float64": ("float64", list(CASES)),
        "float64-tf1": ("float64", [rounded_to_float32(case) for case in CASES[3::6]]),
        "bfloat16": ("bfloat16", list(HALF_CASES)),
        "float16": ("float16", list(HALF_CASES)),
    }
    arrays: dict[str, Array] = {}
    about = {}
    for mode, (name, cases) in plans.items():
        dtype = numpy_dtype(name)
        for key, value in record(mode, dtype, cases).items():
            arrays[f"{mode}/{key}"] = value
        about[mode] = {
            "dtype": name,
            "betas": list(dict.fromkeys(case.beta for case in cases)),
            "cases": [case_as_dict(case) for case in cases],
        }
    arrays["modes"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez_compressed(FILE, **arrays)  # type: ignore[arg-type]
    print(f"{FILE.name}: {FILE.stat().st_size / 1000:.0f} kB, {len(arrays)} arrays")


if __name__ == "__main__":
    main()
