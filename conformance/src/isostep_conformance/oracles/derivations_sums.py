"""AccSGD, M-SVAG, KATE and Mirror MADGRAD as loops over float64 arrays that sum over the steps so far."""

from __future__ import annotations

import numpy as np

from .derivations_kin import mean
from .problems import Floats, Problem, Record


def accsgd(
    problem: Problem, *, kappa: float, xi: float, small_const: float, weight_decay: float
) -> Record:
    """Kidambi et al., Algorithm 1, in the paper's numbers: alpha, and a mean of both points."""
    alpha = 1 - small_const**2 * xi / kappa
    points, averages = ([p.copy() for p in problem.start] for _ in range(2))
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        for k, gradient in enumerate(gradients):
            g = gradient + weight_decay * points[k]
            far = points[k] - lr * kappa / small_const * g
            averages[k] = alpha * averages[k] + (1 - alpha) * far
            near = points[k] - lr * g
            share = small_const / (small_const + 1 - alpha)
            points[k] = share * near + (1 - share) * averages[k]
        record.add(points)
    return record


def msvag(problem: Problem, *, beta: float) -> Record:
    """Balles and Hennig: the corrected moments, from all gradients so far, and the variance that they leave."""
    points = [p.copy() for p in problem.start]
    seen: list[list[Floats]] = [[] for _ in points]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        for k, g in enumerate(gradients):
            seen[k].append(g)
            m, v = mean(seen[k], beta), mean([x**2 for x in seen[k]], beta)
            noise = np.zeros_like(m)
            if t > 1:
                rho = (1 - beta) * (1 + beta**t) / ((1 + beta) * (1 - beta**t))
                noise = rho * (v - m**2) / (1 - rho)
            total = m**2 + noise
            points[k] = points[k] - lr * m**3 / np.where(total == 0, 1.0, total)
        record.add(points)
    return record


def kate(problem: Problem, *, eta: float, eps: float, weight_decay: float) -> Record:
    """Choudhury et al., Algorithm 1: both sums anew at every step."""
    points = [p.copy() for p in problem.start]
    squares: list[list[Floats]] = [[] for _ in points]
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        for k, g in enumerate(gradients):
            squares[k].append(g**2)
            b = np.cumsum(np.stack(squares[k]), 0)
            m = np.sum(np.stack(squares[k]) * (eta + 1 / (b + eps)), 0)
            step = np.sqrt(m) * g / (b[-1] + eps)
            points[k] = points[k] * (1 - lr * weight_decay) - lr * step
        record.add(points)
    return record


def mirror_madgrad(
    problem: Problem,
    *,
    momentum: float,
    eps: float,
    weight_decay: float,
    decouple_decay: bool = False,
) -> Record:
    """The package's mirror descent: of t squares the k-th weighs sqrt(k / t)."""
    points, mirrors = ([p.copy() for p in problem.start] for _ in range(2))
    squares: list[list[Floats]] = [[] for _ in points]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        weights = np.sqrt(np.arange(1, t + 1) / t)
        for k, gradient in enumerate(gradients):
            g = gradient + weight_decay * points[k] * (not decouple_decay)
            squares[k].append(g**2)
            v = np.tensordot(weights, np.stack(squares[k]), 1)
            kept = 1 - (lr + eps) * weight_decay * decouple_decay
            mirrors[k] = kept * mirrors[k] - (lr + eps) * np.cbrt(t) * g / (np.cbrt(v) + eps)
            points[k] = momentum * points[k] + (1 - momentum) * mirrors[k]
        record.add(points)
    return record
