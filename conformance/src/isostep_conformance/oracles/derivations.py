"""Rules as loops over float64 arrays, written from their papers, where the packages differ."""

from __future__ import annotations

import numpy as np

from .problems import Floats, Problem, Record


def padam(
    problem: Problem,
    *,
    betas: tuple[float, float],
    eps: float,
    partial: float,
    weight_decay: float,
) -> Record:
    """Chen et al., Algorithm 1 with the corrections and the decay of the authors' code."""
    b1, b2 = betas
    points = [p.copy() for p in problem.start]
    kept = [[np.zeros_like(p) for p in points] for _ in range(3)]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        scale = lr * (1 - b2**t) ** 0.5 / (1 - b1**t)
        for k, (p, gradient) in enumerate(zip(points, gradients, strict=True)):
            g = gradient + weight_decay * p
            kept[0][k] = kept[0][k] + (1 - b1) * (g - kept[0][k])
            kept[1][k] = kept[1][k] + (1 - b2) * (g**2 - kept[1][k])
            kept[2][k] = np.where(kept[1][k] > kept[2][k], kept[1][k], kept[2][k])
            points[k] = p - scale * kept[0][k] * (kept[2][k] ** 0.5 + eps) ** (-2 * partial)
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
        record.add(points, dict(zip(names, kept, strict=True)))
    return record


def laprop(
    problem: Problem, *, betas: tuple[float, float], eps: float, weight_decay: float
) -> Record:
    """Ziyin et al., Algorithm 1, with the decay of AdamW."""
    b1, b2 = betas
    points = [p.copy() for p in problem.start]
    means = [np.zeros_like(p) for p in points]
    squares = [np.zeros_like(p) for p in points]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        for k, (p, g) in enumerate(zip(points, gradients, strict=True)):
            squares[k] = squares[k] + (1 - b2) * (g**2 - squares[k])
            quotient = g / ((squares[k] / (1 - b2**t)) ** 0.5 + eps)
            means[k] = means[k] + (1 - b1) * (quotient - means[k])
            points[k] = p * (1 - lr * weight_decay) - lr * means[k] / (1 - b1**t)
        record.add(points, {"exp_avg": means, "exp_avg_sq": squares})
    return record


def lars(
    problem: Problem, *, momentum: float, weight_decay: float, trust_coefficient: float, eps: float
) -> Record:
    """You et al., Algorithm 1: the momentum sums steps, each with the lr of its time."""
    points = [p.copy() for p in problem.start]
    sums = [np.zeros_like(p) for p in points]
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        for k, (p, g) in enumerate(zip(points, gradients, strict=True)):
            size = _length(p)
            ratio = trust_coefficient * size / (_length(g) + weight_decay * size + eps)
            sums[k] = momentum * sums[k] + lr * ratio * (g + weight_decay * p)
            points[k] = p - sums[k]
        record.add(points, {"momentum_buffer": sums})
    return record


def nero(
    problem: Problem, *, beta: float, bias_scale: float, bias_correction: bool, unit_axis: int
) -> Record:
    """Liu et al., Algorithm 1, neuron by neuron."""
    points = [p.copy() for p in problem.start]
    squares: dict[tuple[int, int], float] = {}
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        for k, (p, g) in enumerate(zip(points, gradients, strict=True)):
            weights = p.ndim > 1
            # Views: one row of numbers a neuron, or one number a bias.
            rows, slopes = (
                [x[i] for i in range(len(x))]
                for x in (
                    np.moveaxis(a, unit_axis, 0) if weights else a.reshape(-1, 1) for a in (p, g)
                )
            )
            for i, (row, slope) in enumerate(zip(rows, slopes, strict=True)):
                scale = _length(row) if weights else bias_scale
                squares[k, i] = beta * squares.get((k, i), 0.0) + (1 - beta) * _length(slope) ** 2
                size = (squares[k, i] / (1 - beta**t if bias_correction else 1)) ** 0.5
                row -= lr * scale / size * slope
                if weights:
                    row -= np.mean(row)
                    row /= _length(row)
        record.add(points)
    return record


def _length(x: Floats) -> float:
    return float(np.linalg.norm(x.ravel()))
