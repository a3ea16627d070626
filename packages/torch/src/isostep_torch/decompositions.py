"""What is made from eigenvalues, with derivatives where torch's own are infinite or NaN: at eigenvalues that are equal.

Rows of zeros in a gradient are enough for that. A power of a matrix has a derivative there all the same, which is
computed. A basis has none, since which it is is the library's choice: it is then a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from isostep import nm


class _Power(torch.autograd.Function):
    """``nm.spectral_power``; the derivative is that of Daleckii and Krein, in quotients of differences."""

    @staticmethod
    def forward(x: torch.Tensor, exponent: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = nm.spectral_power(x, exponent, low)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        x, exponent, low = ctx.saved_tensors
        values, vectors = nm._eigh(x)
        bounded = torch.maximum(values, low)
        powers, slopes = bounded**exponent, exponent * bounded ** (exponent - 1)
        own = torch.where(values > low, slopes, 0.0)
        # Where the difference of two is lost in rounding, the mean of their slopes is as good.
        gap, sizes = values[:, None] - values, torch.maximum(bounded[:, None], bounded)
        near = gap.abs() <= torch.finfo(x.dtype).eps ** (1 / 3) * sizes
        change = (powers[:, None] - powers) / torch.where(near, 1.0, gap)
        change = torch.where(near, (own[:, None] + own) / 2, change)
        inner = vectors.mT @ ((grads[0] + grads[0].mT) / 2) @ vectors
        each = inner.diagonal()
        return (
            vectors @ (change * inner) @ vectors.mT,
            (each * powers * torch.log(bounded)).sum().reshape(exponent.shape),
            (each * torch.where(values < low, slopes, 0.0)).sum().reshape(low.shape),
        )


def _power(x: torch.Tensor, *numbers: Any) -> Any:
    known = (torch.as_tensor(n, dtype=x.dtype, device=x.device) for n in numbers)
    return _Power.apply(x, *known)


def _basis(op: str, *operands: torch.Tensor) -> Any:
    """Eigenvectors need eigenvalues that differ, and iterated ones eigenvalues that are not zero."""
    x = operands[0].detach()
    sizes = torch.sort(nm._eigh(x)[0].abs()).values
    gaps = sizes.diff() if op == "eigenbasis" else sizes
    sound = bool((gaps > len(x) * torch.finfo(x.dtype).eps * sizes[-1:]).all())
    return getattr(nm, op)(*(operands if sound else (a.detach() for a in operands)))


#: operation -> itself, with such a derivative
DECOMPOSED: dict[str, Callable[..., Any]] = {
    "spectral_power": _power,
    "eigenbasis": lambda x: _basis("eigenbasis", x),
    "iterated_basis": lambda x, basis: _basis("iterated_basis", x, basis),
}
