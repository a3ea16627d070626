"""Rules with a matrix for each axis as loops over float64 arrays, written from their papers."""

from __future__ import annotations

import numpy as np

from .problems import Floats, Problem, Record


def mode_product(x: Floats, matrix: Floats, axis: int) -> Floats:
    """sum_j x[.., j, ..] matrix[i, j] in the place of axis."""
    return np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)


def gram(x: Floats, axis: int) -> Floats:
    """The inner products of the slices along an axis."""
    rest = [a for a in range(x.ndim) if a != axis]
    return np.asarray(np.tensordot(x, x, (rest, rest)))


def shampoo(
    problem: Problem,
    *,
    eps: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    precondition_frequency: int = 1,
    max_preconditioner_dim: int = 1024,
    inv_root_override: int = 0,
) -> Record:
    """Gupta et al., Algorithm 2, with singular values for the roots, then the momentum of heavy balls."""
    points = [p.copy() for p in problem.start]
    buffers = [np.zeros_like(p) for p in points]
    sums = [[eps * np.eye(n) for n in p.shape] for p in points]
    roots = [[np.eye(n) for n in p.shape] for p in points]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True)):
        for k, (p, gradient) in enumerate(zip(points, gradients, strict=True)):
            g = gradient + weight_decay * p
            exponent = -1 / (inv_root_override or 2 * g.ndim)
            step = g
            for axis, size in enumerate(g.shape):
                kept = np.eye(size) if size > max_preconditioner_dim else 1.0
                sums[k][axis] = sums[k][axis] + gram(g, axis) * kept
                if t % precondition_frequency == 0:
                    u, s, _ = np.linalg.svd(sums[k][axis])
                    roots[k][axis] = u @ np.diag(s**exponent) @ u.T
                step = mode_product(step, roots[k][axis], axis)
            buffers[k] = momentum * buffers[k] + step
            points[k] = p - lr * buffers[k]
        first = [
            _kept(own[0], g, max_preconditioner_dim) for own, g in zip(sums, gradients, strict=True)
        ]
        record.add(points, {"preconditioner_0": first, "momentum_buffer": buffers})
    return record


def _kept(matrix: Floats, like: Floats, longest: int) -> Floats:
    """A diagonal matrix as the state has it: with axes of length 1 for the others."""
    if len(matrix) <= longest:
        return matrix
    return np.diag(matrix).reshape(-1, *(1,) * (like.ndim - 1))


def soap(
    problem: Problem,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    shampoo_beta: float | None = None,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    precondition_1d: bool = False,
    correct_bias: bool = True,
) -> Record:
    """Vyas et al., Algorithms 3 and 4, with the authors' sorted columns and first step, in one dense basis."""
    b1, b2 = betas
    b3 = b2 if shampoo_beta is None else shampoo_beta
    points = [p.copy() for p in problem.start]
    means, squares = ([np.zeros_like(p) for p in points] for _ in range(2))
    whole = [
        [n <= max_precond_dim and (p.ndim > 1 or precondition_1d) for n in p.shape] for p in points
    ]
    sums = [[np.zeros((n, n)) for n in p.shape] for p in points]
    bases = [[np.eye(n) for n in p.shape] for p in points]
    record = Record()
    for s, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True)):
        scale = lr * ((1 - b2**s) ** 0.5 / (1 - b1**s) if correct_bias and s else 1)
        for k, g in enumerate(gradients):
            if s:
                means[k] = b1 * means[k] + (1 - b1) * g
                squares[k] = b2 * squares[k] + (1 - b2) * _turned(g, bases[k]) ** 2
                step = _turned(means[k], bases[k]) / (np.sqrt(squares[k]) + eps)
                step = _turned(step, [q.T for q in bases[k]])
                points[k] = (points[k] - scale * step) * (1 - lr * weight_decay)
            for axis in range(g.ndim):
                sums[k][axis] = b3 * sums[k][axis] + (1 - b3) * gram(g, axis)
                if not whole[k][axis]:
                    continue
                if s == 0:
                    bases[k][axis] = np.linalg.eigh(sums[k][axis])[1]
                elif s % precondition_frequency == 0:
                    power = sums[k][axis] @ bases[k][axis]
                    order = np.argsort(-np.diag(bases[k][axis].T @ power))
                    squares[k] = np.take(squares[k], order, axis)
                    bases[k][axis] = np.linalg.qr(power[:, order])[0]
        record.add(points, {"exp_avg": means})
    return record


def _turned(x: Floats, bases: list[Floats]) -> Floats:
    """An array in other bases: each vector v along an axis becomes Q^T v."""
    for axis, q in enumerate(bases):
        x = mode_product(x, q.T, axis)
    return x
