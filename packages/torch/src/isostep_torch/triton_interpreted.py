"""``triton_support`` for Triton's interpreter: the same names, so that the same kernels run on the CPU.

What Triton's language can say is the very same function. What the interpreter has not, or has wrong, is NumPy's or
torch's here: the elementary functions of libdevice, sums and maxima along an axis (its own loop is slow), the
logic of comparisons of scalars, and bfloat16, which it truncates where a device rounds. Its scalars are arrays of
one element, which NumPy does not take for integers, so ``range`` is one that does.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction, TensorHandle

from isostep_torch import triton_support as on_device


def kernel(function: Callable[..., Any]) -> Any:
    """A function that the host launches."""
    return InterpretedFunction(function)


def device(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that kernels call: an ordinary one."""
    return function


for _name, _function in vars(on_device).items():
    if isinstance(_function, triton.JITFunction) and _name not in globals():
        # The same code, whose calls find this module's functions.
        globals()[_name] = FunctionType(
            _function.fn.__code__, globals(), _name, _function.fn.__defaults__
        )
_pow_of_float32 = globals()["pow_of_float32"]


def _like(data: np.ndarray, dtype: Any, *, scalar: bool = False) -> Any:
    kind = dtype if scalar else tl.block_type(dtype, list(data.shape))
    return tl.tensor(TensorHandle(data, dtype), kind)


def _in_float64(name: str) -> Callable[..., Any]:
    function = getattr(np, name)

    def call(*operands: Any) -> Any:
        dtype = operands[0].dtype
        wide = [x.to(tl.float64).handle.data for x in operands]
        scalar = not any(isinstance(x.type, tl.block_type) for x in operands)
        return _like(function(*wide), tl.float64, scalar=scalar).to(dtype)

    return call


expm1, log1p, tanh, cbrt, atan2 = map(_in_float64, ("expm1", "log1p", "tanh", "cbrt", "arctan2"))
_pow_of_float64 = _in_float64("power")


def pow(x: Any, y: Any) -> Any:
    """x**y with C's special cases."""
    return _pow_of_float64(x, y) if x.dtype == tl.float64 else _pow_of_float32(x, y)


def _truth(x: Any) -> Any:
    data = x.handle.data.astype(bool)
    return _like(data, tl.int1, scalar=not isinstance(x.type, tl.block_type))


def both(x: Any, y: Any) -> Any:
    """Whether x and y; the interpreter takes a comparison of two scalars for a number."""
    return _truth(x) & _truth(y)


def either(x: Any, y: Any) -> Any:
    """Whether x or y."""
    return _truth(x) | _truth(y)


def range(*bounds: Any) -> Iterator[int]:
    """Python's range, of scalars too."""
    return iter(builtins.range(*(_integer(b) for b in bounds)))


def _integer(x: Any) -> int:
    return int(x.handle.data.reshape(())) if isinstance(x, tl.tensor) else int(x)


def _along(name: str, *, kept: bool) -> Callable[..., Any]:
    function = getattr(np, name)

    def call(x: Any, axis: int) -> Any:
        found = function(x.handle.data, axis=axis, keepdims=kept)
        return _like(np.atleast_1d(found), x.dtype, scalar=np.ndim(found) == 0)

    return call


total, kept_total = _along("sum", kept=False), _along("sum", kept=True)
largest, kept_largest = _along("max", kept=False), _along("max", kept=True)


def widen(x: Any) -> Any:
    """Half precision as float32, exactly."""
    if x.dtype != tl.bfloat16:
        return x.to(tl.float32)
    bits = x.handle.data.astype(np.uint32) << np.uint32(16)  # the interpreter keeps bits here
    return _like(bits.view(np.float32), tl.float32)


def narrow(x: Any, dtype: Any) -> Any:
    """A number as half precision, to nearest, ties to even."""
    if dtype != tl.bfloat16:
        return x.to(dtype)
    rounded = torch.from_numpy(np.ascontiguousarray(x.handle.data)).to(torch.bfloat16)
    return _like(rounded.view(torch.int16).numpy().view(np.uint16), tl.bfloat16)
