"""Triangular systems in the truth's formats, and how far an honest solver may be; the column of the largest norm."""

from __future__ import annotations

from typing import Any

import numpy as np


def unsound(upper: np.ndarray) -> bool:
    """Whether nothing can be divided by it."""
    return not np.isfinite(upper).all() or not np.diag(upper).all()


def over(x: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """What ``nm.over_triangle`` says, column by column."""
    if unsound(upper):
        return np.full_like(x, np.nan)
    found = np.where(np.isfinite(x).all(axis=1, keepdims=True), x, np.nan)
    for j in range(len(upper)):
        found[:, j] = (found[:, j] - found[:, :j] @ upper[:j, j]) / upper[j, j]
    return found


def error(
    x: tuple[np.ndarray, Any], upper: tuple[np.ndarray, Any], found: np.ndarray, eps: float
) -> np.ndarray:
    """How far a solver in a format of this ``eps`` may be, with operands off by bounds.

    To first order: what the operands' bounds leave on the right side, and a rounding of each product there, times the
    inverse. A general solver exchanges rows, and then rounds products as large as the largest number of a column.
    """
    matrix, off = upper
    size = np.broadcast_to(np.abs(matrix).max(axis=0, initial=0.0), matrix.shape)
    moved = np.broadcast_to(x[1], found.shape) + np.abs(found) @ np.broadcast_to(off, matrix.shape)
    rounding = eps * np.sqrt(max(len(matrix), 1)) * (np.abs(found) @ size)
    inverse = np.abs(over(np.eye(len(matrix), dtype=matrix.dtype), matrix))
    return np.asarray((moved + rounding) @ inverse)


def largest(x: np.ndarray) -> int:
    """The index of the column of the largest norm, the first of several."""
    return int(np.argmax(np.sum(x * x, axis=0)))
