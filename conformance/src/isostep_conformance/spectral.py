"""Symmetric matrices in the truth's formats: eigenvalues and vectors, powers, and how far those may move.

LAPACK has no extended precision. What it finds in float64 is refined: its vectors are made orthonormal in the
wide format, and a few sweeps of Jacobi's method remove what is left beside the diagonal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from isostep_conformance.formats import Format

#: Sweeps after LAPACK: what is left beside the diagonal squares with each of them.
_SWEEPS = 3


def eigh(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (in no promised order) and orthonormal eigenvectors of a finite symmetric matrix."""
    scale = np.abs(a).max(initial=0.0)
    if scale == 0:
        return np.zeros(len(a), a.dtype), np.eye(len(a), dtype=a.dtype)
    a = a / scale
    values, vectors = np.linalg.eigh(a.astype(np.float64))
    if a.dtype == np.float64:
        return values * scale, vectors
    q = vectors.astype(a.dtype)
    q = q @ (3 * np.eye(len(a), dtype=a.dtype) - q.T @ q) / 2
    b = q.T @ a @ q
    for _ in range(_SWEEPS):
        if not _sweep((b + b.T) / 2, q):
            break
        b = q.T @ a @ q
    return np.diag(b) * scale, q


def _sweep(b: np.ndarray, q: np.ndarray) -> bool:
    """One sweep of rotations of ``b``, done to ``q`` as well; whether there was anything to rotate."""
    least = np.finfo(b.dtype).eps * np.abs(b).max() / 4
    found = False
    for i in range(len(b) - 1):
        for j in range(i + 1, len(b)):
            if abs(b[i, j]) <= least:
                continue
            found = True
            tau = (b[j, j] - b[i, i]) / (2 * b[i, j])
            t = (1 if tau >= 0 else -1) / (abs(tau) + np.sqrt(1 + tau * tau))
            c = 1 / np.sqrt(1 + t * t)
            turn = np.array([[c, t * c], [-t * c, c]])
            pair = [i, j]
            b[:, pair] = b[:, pair] @ turn
            b[pair, :] = turn.T @ b[pair, :]
            q[:, pair] = q[:, pair] @ turn
    return found


def norm(a: np.ndarray) -> float:
    """The largest size of an eigenvalue; zero where there is no telling."""
    if not a.size or not np.isfinite(a).all():
        return 0.0
    return float(np.abs(np.linalg.eigvalsh(a.astype(np.float64))).max())


def power(a: np.ndarray, exponent: Any, low: Any) -> np.ndarray:
    """What ``nm.spectral_power`` says, in the wide format."""
    if not np.isfinite(a).all():
        return np.full_like(a, np.nan)
    values, q = eigh((a + a.T) / 2)
    return (q * np.maximum(values, low) ** exponent) @ q.T


def eigenbasis(a: np.ndarray) -> np.ndarray:
    """Eigenvectors as LAPACK gives them in float64, or NaN: whoever is held to them is held to what makes them so."""
    if not np.isfinite(a).all():
        return np.full_like(a, np.nan)
    scale = max(np.abs(a).max(initial=0.0), np.finfo(a.dtype).tiny)
    return np.linalg.eigh((a / scale).astype(np.float64))[1][:, ::-1].astype(a.dtype)


def iterated_basis(a: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """What ``nm.iterated_basis`` says, decomposed in float64."""
    product = a @ basis
    if not np.isfinite(product).all():
        return np.full_like(a, np.nan)
    order = np.argsort(-np.sum(basis * product, axis=0), kind="stable")
    scale = max(np.abs(product).max(initial=0.0), np.finfo(a.dtype).tiny)
    found = np.linalg.qr((product[:, order] / scale).astype(np.float64))[0]
    return found[:, np.argsort(order)].astype(a.dtype)


def eigenbasis_faults(q: np.ndarray, a: np.ndarray, e: Any, form: Format) -> np.ndarray:
    """How far q is from orthonormal, from making a diagonal, and from having the largest eigenvalue first.

    In units of what storing q in ``form``, and a matrix off by ``e``, may do to a right one.
    """
    a = (a + a.T) / 2
    size, spread = np.abs(q), np.sqrt(len(a)) * form.eps
    room = spread * norm(a) + size.T @ np.broadcast_to(e, a.shape) @ size + len(a) * form.tiny
    d = q.T @ a @ q
    values = np.diag(d)
    order = np.triu(values - values[:, None], 1) / (np.diag(room) + np.diag(room)[:, None])
    beside = np.abs(d - np.diag(values)) / room
    return np.maximum(np.maximum(beside, order), np.abs(q.T @ q - np.eye(len(a))) / spread)


def triangle_faults(
    q: np.ndarray,
    product: tuple[np.ndarray, Any],
    estimates: tuple[np.ndarray, Any],
    form: Format,
) -> np.ndarray:
    """How far q is from orthonormal, and from the columns of ``product`` having no part in later ones of q.

    A column is later than one of a larger estimate; the order of two whose estimates may be equal is free.
    """
    b, e = product
    size, spread = np.abs(q), np.sqrt(len(b)) * form.eps
    room = spread * np.sqrt(np.sum(b * b, axis=0)) + size.T @ np.broadcast_to(e, b.shape)
    values, off = estimates[0], np.broadcast_to(estimates[1], len(b))
    later = values[:, None] + off[:, None] < values - off
    part = np.where(later, np.abs(q.T @ b) / (room + len(b) * form.tiny), 0)
    return np.maximum(part, np.abs(q.T @ q - np.eye(len(b))) / spread)


def power_error(
    a: np.ndarray, exponent: Any, low: Any, errors: tuple[Any, Any, Any], eps: float
) -> np.ndarray:
    """How far an honest ``power`` in a format of this ``eps`` may be, with operands off by ``errors``.

    In the basis of the eigenvectors, by the divided differences of the power (Daleckii and Krein); LAPACK's own
    error is that of a matrix off by a few eps of its norm.
    """
    values, q = eigh((a + a.T) / 2)
    off, off_exponent, off_low = errors
    size = np.abs(q)
    moved = size.T @ np.broadcast_to(off, a.shape) @ size
    moved = moved + eps * np.sqrt(len(a)) * np.abs(values).max(initial=0.0)
    shift = np.diag(moved)
    f = np.maximum(values, low) ** exponent
    ends = [
        np.maximum(values + s * shift, low + r * off_low) ** (exponent + e * off_exponent)
        for s in (-1, 1)
        for r in (-1, 1)
        for e in (-1, 1)
    ]
    own = np.max([np.abs(end - f) for end in ends], axis=0)
    gap = np.abs(values[:, None] - values) - shift[:, None] - shift
    apart = np.abs(f[:, None] - f) + own[:, None] + own
    # The steepest slope between two eigenvalues is that at the smaller one.
    start = np.maximum(np.minimum(values[:, None], values) - np.maximum(shift[:, None], shift), low)
    slope = np.abs(exponent) * start ** (exponent - 1)
    steep = np.where(gap > 0, np.minimum(apart / np.where(gap > 0, gap, 1), slope), slope)
    change = np.minimum(steep * moved, apart)
    np.fill_diagonal(change, own)
    return np.asarray(size @ (change + 8 * eps * np.diag(f)) @ size.T)
