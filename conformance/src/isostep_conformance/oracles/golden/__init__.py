"""TensorFlow's AddSign and PowerSign trajectories on file, for machines without TensorFlow.

``tf_sign.npz`` was written by ``make_golden.py`` from TensorFlow's own kernels. It has one group of
arrays per *mode*:

=============== ==============================================================================
``float32``     float32 variables; decays by TensorFlow's float32 operations
``float64``     float64 variables, hyperparameters and decays
``float64-tf1`` float64 variables with hyperparameters and decays rounded to float32, which is
                what TensorFlow 1.x's Python classes handed to the kernel
``bfloat16``    every operation rounded to bfloat16; hyperparameters exact in it
``float16``     every operation rounded to float16; hyperparameters exact in it
=============== ==============================================================================

The arrays of a mode are ``start`` (n), ``gradients`` (steps, n), ``patterns`` (n), ``decays``
(cases, steps), ``p`` (cases, steps, n) and ``m`` (betas, steps, n): the momentum depends on nothing
but beta and the gradients. Sixteen-bit values are stored as uint16 bits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from isostep.backends.numpy import numpy_dtype

from ..outcome import Array
from ..sign_cases import Decay, Inputs, SignCase
from ..sign_formulas import Trajectory

FILE = Path(__file__).with_name("tf_sign.npz")


@dataclass(frozen=True)
class Golden:
    """One case on file: its setting, the decay of each step, the inputs, TensorFlow's trajectory."""

    mode: str
    case: SignCase
    decays: tuple[float, ...]
    inputs: Inputs
    trajectory: Trajectory

    def __str__(self) -> str:
        return f"{self.mode} {self.case.rule} {self.case}"


def case_as_dict(case: SignCase) -> dict[str, object]:
    """The case as plain data; ``case_from_dict`` turns it back."""
    return {**vars(case), "decay": None if case.decay is None else vars(case.decay)}


def case_from_dict(data: dict[str, object]) -> SignCase:
    """The inverse of ``case_as_dict``."""
    fields = dict(data)
    decay = fields.pop("decay")
    return SignCase(**fields, decay=None if decay is None else Decay(**decay))  # type: ignore[arg-type]


@cache
def modes() -> tuple[str, ...]:
    """The modes on file."""
    with np.load(FILE) as file:
        return tuple(json.loads(bytes(file["modes"]).decode()))


def load(mode: str) -> list[Golden]:
    """All cases of one mode. The sixteen-bit modes need NumPy's float16 or ml_dtypes."""
    with np.load(FILE) as file:
        about = json.loads(bytes(file["modes"]).decode())[mode]
        of_mode = {
            n.removeprefix(f"{mode}/"): file[n] for n in file.files if n.startswith(f"{mode}/")
        }
    dtype = numpy_dtype(about["dtype"])
    start, gradients = of_mode["start"].view(dtype), of_mode["gradients"].view(dtype)
    inputs = Inputs(start, gradients, of_mode["patterns"])
    every_p, every_m = of_mode["p"].view(dtype), of_mode["m"].view(dtype)
    found = []
    for index, data in enumerate(about["cases"]):
        case = case_from_dict(data)
        m: Array = every_m[about["betas"].index(case.beta)]
        decays = tuple(float(value) for value in of_mode["decays"][index])
        trajectory = Trajectory(tuple(every_p[index]), tuple(m))
        found.append(Golden(mode, case, decays, inputs, trajectory))
    return found
