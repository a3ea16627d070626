"""array_api_strict as a backend: a rule that leaves the array API standard fails here and nowhere else."""

from __future__ import annotations

from typing import Any

import array_api_strict
import numpy as np

from isostep import ArrayBackend


class Strict(ArrayBackend):
    """The generic path on the strictest namespace there is. It has no half precision."""

    name = "array_api_strict"
    twin = "numpy:reference"
    dtypes = ("float64", "float32")

    def asarray(self, array: np.ndarray) -> Any:
        return array_api_strict.asarray(np.array(array))

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.array(array)

    def quiet(self) -> Any:
        return np.errstate(all="ignore")
