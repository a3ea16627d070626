"""Matrix functions for the rules that treat a parameter as a matrix. They run generically."""

from __future__ import annotations

from typing import Any

from isostep import nm


def newton_schulz(x: Any, coefficients: tuple[Any, Any, Any], steps: int, eps: Any) -> Any:
    """Push all singular values of a matrix towards 1, leaving its singular vectors.

    ``steps`` times x <- a x + (b A + c A**2) x with A = x x^T, after x has been divided by
    max(|x|, eps) (Frobenius), which puts its singular values into [0, 1]. Muon's coefficients are
    chosen for speed, not convergence: values that were not tiny end up between about 0.7 and 1.2.
    """
    a, b, c = coefficients
    rows, columns = x.shape
    tall = rows > columns
    if tall:  # x x^T is then the smaller of the two products
        x = nm.transpose(x)
    x = x / nm.maximum(nm.sqrt(nm.sum(x * x)), eps)
    for _ in range(steps):
        gram = nm.matmul(x, nm.transpose(x))
        x = a * x + nm.matmul(b * gram + c * nm.matmul(gram, gram), x)
    return nm.transpose(x) if tall else x
