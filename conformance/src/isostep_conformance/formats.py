"""Number formats: what one ulp is, where they overflow, and in what wider format the truth is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isostep.backends.numpy import numpy_dtype
from isostep.state import COMPUTE_DTYPE


@dataclass(frozen=True)
class Format:
    """One floating format; ``digits`` counts the bits of the significand, the hidden one included."""

    name: str
    digits: int
    min_exponent: int
    largest: float

    @property
    def eps(self) -> float:
        """The spacing of numbers at 1."""
        return 2.0 ** (1 - self.digits)

    @property
    def tiny(self) -> float:
        """The smallest denormal number."""
        return 2.0 ** (self.min_exponent + 1 - self.digits)

    @property
    def smallest_normal(self) -> float:
        """The smallest number with a full significand."""
        return 2.0**self.min_exponent

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype."""
        return numpy_dtype(self.name)

    @property
    def compute(self) -> Format:
        """The format that a step of such arrays is computed in."""
        return FORMATS[COMPUTE_DTYPE[self.name]]

    @property
    def wide(self) -> np.dtype[Any]:
        """The format of the truth: at least 11 bits more than the compute format."""
        enough = self.compute.digits + 11 <= FORMATS["float64"].digits
        return np.dtype(np.float64 if enough else np.longdouble)


FORMATS = {
    f.name: f
    for f in (
        Format("float64", 53, -1022, float(np.finfo(np.float64).max)),
        Format("float32", 24, -126, float(np.finfo(np.float32).max)),
        Format("bfloat16", 8, -126, (2 - 2.0**-7) * 2.0**127),
        Format("float16", 11, -14, 65504.0),
    )
}


def ulp(magnitude: np.ndarray, form: Format) -> np.ndarray:
    """The spacing of ``form`` at each magnitude (of the wide dtype); its smallest one below the normal range."""
    finite = np.where(np.isfinite(magnitude), np.abs(magnitude), 0)
    _, exponent = np.frexp(np.minimum(finite, magnitude.dtype.type(form.largest)))
    # frexp(0) is (0, 0): zero would get the spacing at 1/2.
    exponent = np.where(
        finite == 0, form.min_exponent + 1, np.maximum(exponent, form.min_exponent + 1)
    )
    return np.ldexp(magnitude.dtype.type(1), exponent - form.digits)


def rounded(values: np.ndarray, form: Format) -> np.ndarray:
    """Wide values rounded to ``form`` and widened again."""
    with np.errstate(all="ignore"):
        return values.astype(form.numpy).astype(values.dtype)


def widen(array: Any, wide: np.dtype[Any]) -> np.ndarray:
    """An array of any floating dtype in the wide one, exactly."""
    array = np.asarray(array)
    if array.dtype.itemsize < 4:  # ml_dtypes casts to float32 and float64 only
        array = array.astype(np.float32)
    return array.astype(wide)
