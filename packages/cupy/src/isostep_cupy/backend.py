"""CuPy as a backend: the rule's own functions on device arrays."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from isostep import ArrayBackend, Family, Unavailable
from isostep.strides import folded
from isostep_cupy.support import gaps


class CupyGeneric(ArrayBackend):
    """The generic path on the current device and stream; parameters and state change in place."""

    name = "cupy:generic"
    dtypes: tuple[str, ...] = (
        "float64",
        "float32",
        "float16",
    )  # CuPy has no arithmetic on bfloat16 arrays

    def __init__(self) -> None:
        if importlib.util.find_spec("cupy") is None:
            how = "pip install 'isostep-cupy[cuda13]' (or [cuda12])"
            message = f"{self.name} needs the package 'cupy', which is not installed; {how}"
            raise Unavailable(message)
        import cupy

        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            message = f"{self.name} needs a CUDA device: {error}"
            raise Unavailable(message) from None
        if count == 0:
            message = f"{self.name} needs a CUDA device, and there is none"
            raise Unavailable(message)
        self._cupy = cupy

    def asarray(self, array: np.ndarray) -> Any:
        return self._cupy.array(array)

    def take(self, array: Any) -> Any:
        """A CuPy array over the memory of any array that speaks DLPack; CuPy's own are returned as they are."""
        return array if isinstance(array, self._cupy.ndarray) else self._cupy.from_dlpack(array)

    def to_numpy(self, array: Any) -> np.ndarray:
        return self._cupy.asnumpy(array)

    def cast(self, array: Any, dtype: str) -> Any:
        return self._cupy.asarray(array).astype(dtype, copy=False)

    def zeros_like(self, array: Any, dtype: str | None = None) -> Any:
        return self._cupy.zeros_like(array, dtype=dtype)

    def scalar(self, number: float, dtype: str, like: Any) -> Any:
        return self._cupy.array(number, dtype=dtype)

    def views(self, value: Any, array: Any) -> bool:
        known = isinstance(value, self._cupy.ndarray)
        return known and bool(self._cupy.may_share_memory(value, array))

    def folded(self, array: Any) -> bool:
        return folded(array.shape, array.strides, array.itemsize)


def _raw() -> Any:
    from isostep_cupy.raw import CupyRaw

    return CupyRaw()


def _host() -> Any:
    from isostep_cupy.host import CupyRawHost

    return CupyRawHost()


family = Family(
    "cupy",
    {"raw": _raw, "generic": CupyGeneric, "raw(host)": _host},
    gaps=gaps,
    by_name=("raw(host)",),
)
