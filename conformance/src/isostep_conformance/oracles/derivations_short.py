"""Adai, PNM, Rprop, Adam-mini, ACProp and others as loops over float64 arrays, written from their papers."""

from __future__ import annotations

import numpy as np

from .problems import Floats, Problem, Record


def adai(
    problem: Problem,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> Record:
    """Xie et al., Algorithm 2, with both bias corrections: each element's inertia, then its momentum."""
    b0, b2 = betas
    points = [p.copy() for p in problem.start]
    squares, sums = ([np.zeros_like(p) for p in points] for _ in range(2))
    products = [np.ones_like(p) for p in points]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        fed = [
            g + weight_decay * p * (not decoupled) for g, p in zip(gradients, points, strict=True)
        ]
        squares = [b2 * v + (1 - b2) * g**2 for v, g in zip(squares, fed, strict=True)]
        corrected = [v / (1 - b2**t) for v in squares]
        level = np.concatenate([v.ravel() for v in corrected]).mean()
        for k, g in enumerate(fed):
            inertia = np.minimum(np.maximum(1 - b0 / level * corrected[k], 0), 1 - eps)
            products[k] = products[k] * inertia
            sums[k] = inertia * sums[k] + (1 - inertia) * g
            kept = points[k] * (1 - lr * weight_decay * decoupled)
            points[k] = kept - lr * sums[k] / (1 - products[k])
        record.add(points, {"exp_avg": sums, "exp_avg_sq": squares})
    return record


def pnm(
    problem: Problem, *, betas: tuple[float, float], weight_decay: float, decoupled: bool
) -> Record:
    """Xie et al., Algorithm 1: m(t) as the sum of all the gradients that are an even number of steps old."""
    b1, weight = betas
    points = [p.copy() for p in problem.start]
    history: list[list[Floats]] = []
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True)):
        pairs = zip(gradients, points, strict=True)
        history.append([g + weight_decay * p * (not decoupled) for g, p in pairs])
        for k, p in enumerate(points):
            m = [np.zeros_like(p), np.zeros_like(p)]
            for age in range(t + 1):
                # One momentum has the ages 0, 2, 4 .. and the other 1, 3, 5 ..; each decays when it is fed.
                m[age % 2] = m[age % 2] + b1 ** (age - age % 2) * (1 - b1**2) * history[t - age][k]
            d = ((1 + weight) * m[0] - weight * m[1]) / np.hypot(1 + weight, weight)
            points[k] = p * (1 - lr * weight_decay * decoupled) - lr * d
        record.add(points)
    return record


def rprop(
    problem: Problem, *, etas: tuple[float, float], step_sizes: tuple[float, float]
) -> Record:
    """Igel and Huesken, iRprop-, element by element; the first step sizes are the first learning rate."""
    points = [p.copy() for p in problem.start]
    sizes = [np.full_like(p, problem.lrs[0]) for p in points]
    before = [np.zeros_like(p) for p in points]
    record = Record()
    for gradients in problem.gradients:
        for k, gradient in enumerate(gradients):
            for place in np.ndindex(gradient.shape):
                g = float(gradient[place])
                if g * float(np.sign(before[k][place])) > 0:
                    sizes[k][place] *= etas[1]
                elif g * float(np.sign(before[k][place])) < 0:
                    sizes[k][place] *= etas[0]
                    g = 0.0
                sizes[k][place] = np.clip(sizes[k][place], *step_sizes)
                points[k][place] -= np.sign(g) * sizes[k][place]
                before[k][place] = g
        record.add(points, {"step_size": sizes})
    return record


def adammini(
    problem: Problem,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    blocks: str,
    unit_axis: int,
) -> Record:
    """Zhang et al., Algorithm 1: Adam by block, the blocks being slices along one axis or whole arrays."""
    b1, b2 = betas
    points = [p.copy() for p in problem.start]
    means = [np.zeros_like(p) for p in points]
    squares: dict[tuple[int, int], float] = {}
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        for k, gradient in enumerate(gradients):
            cut = blocks == "unit" and gradient.ndim > 1
            whole = (points[k], means[k], gradient)
            turned = [np.moveaxis(x, unit_axis, 0) if cut else x[None] for x in whole]
            for i in range(len(turned[0])):
                # Views of one block, which the step writes to.
                p, m, g = (x[i, ...] for x in turned)
                squares[k, i] = b2 * squares.get((k, i), 0.0) + (1 - b2) * float(np.mean(g**2))
                m[...] = b1 * m + (1 - b1) * g
                p[...] = p * (1 - lr * weight_decay)
                p[...] -= lr * (m / (1 - b1**t)) / ((squares[k, i] / (1 - b2**t)) ** 0.5 + eps)
        record.add(points, {"exp_avg": means})
    return record


def acprop(
    problem: Problem, *, betas: tuple[float, float], eps: float, weight_decay: float
) -> Record:
    """Zhuang et al., ACProp.py: neither rectified nor with momentum; its average gets eps when it is used."""
    b1, b2 = betas
    points = [p.copy() for p in problem.start]
    means, spreads = ([np.zeros_like(p) for p in points] for _ in range(2))
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        for k, g in enumerate(gradients):
            points[k] = points[k] * (1 - lr * weight_decay)
            means[k] = b1 * means[k] + (1 - b1) * g
            if t == 1:
                points[k] = points[k] - lr * means[k] / (1 - b1)
            else:
                spreads[k] = spreads[k] + eps
                points[k] -= lr * g / (np.sqrt(spreads[k] / (1 - b2 ** (t - 1))) + eps)
            spreads[k] = b2 * spreads[k] + (1 - b2) * (g - means[k]) ** 2
        record.add(points, {"exp_avg": means, "exp_avg_var": [s + eps for s in spreads]})
    return record


def simplified_ademamix(
    problem: Problem, *, betas: tuple[float, float], alpha: float, eps: float, weight_decay: float
) -> Record:
    """Morwani et al., simplified_AdEMAMix.py: what the averages sum to corrects v, and m is not corrected."""
    b1, b2 = betas
    points = [p.copy() for p in problem.start]
    sums, squares = ([np.zeros_like(p) for p in points] for _ in range(2))
    weights = 0.0
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        weights = b2 * weights + (1 - b2)
        for k, g in enumerate(gradients):
            sums[k] = b1 * sums[k] + g
            squares[k] = b2 * squares[k] + (1 - b2) * g**2
            step = (alpha * g + sums[k]) / (np.sqrt(squares[k]) + eps * weights**0.5)
            points[k] = points[k] - lr * (step * weights**0.5 + weight_decay * points[k])
        record.add(points, {"exp_avg": sums, "exp_avg_sq": squares})
    return record


def optimistic_sgd(problem: Problem, *, alpha: float, beta: float) -> Record:
    """Daskalakis et al., OMDA in optimizer.py with Mokhtari et al.'s weights: first the last step's part is undone."""
    points = [p.copy() for p in problem.start]
    before = [np.zeros_like(p) for p in points]
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        points = [p + lr * beta * b for p, b in zip(points, before, strict=True)]
        points = [p - lr * (alpha + beta) * g for p, g in zip(points, gradients, strict=True)]
        before = list(gradients)
        record.add(points)
    return record


def optimistic_adam(
    problem: Problem, *, betas: tuple[float, float], eps: float, alpha: float, beta: float
) -> Record:
    """Daskalakis et al., Algorithm 1 with those weights: both steps from their own moments, none before the first."""
    b1, b2 = betas
    points = [p.copy() for p in problem.start]
    means, squares = ([np.zeros_like(p) for p in points] for _ in range(2))
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        for k, g in enumerate(gradients):
            if t > 1:
                root = np.sqrt(squares[k] / (1 - b2 ** (t - 1)))
                points[k] = points[k] + lr * beta * means[k] / (1 - b1 ** (t - 1)) / (root + eps)
            means[k] = b1 * means[k] + (1 - b1) * g
            squares[k] = b2 * squares[k] + (1 - b2) * g**2
            root = np.sqrt(squares[k] / (1 - b2**t))
            points[k] = points[k] - lr * (alpha + beta) * means[k] / (1 - b1**t) / (root + eps)
        record.add(points, {"exp_avg": means, "exp_avg_sq": squares})
    return record
