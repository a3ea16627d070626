"""Recent rules as loops over float64 arrays, written from their papers: what no package has as they say it."""

from __future__ import annotations

import numpy as np

from .problems import Floats, Problem, Record


def adapnm(
    problem: Problem,
    *,
    betas: tuple[float, float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    amsgrad: bool,
) -> Record:
    """Xie et al., Algorithm 2, by its recursion m(t) = b1**2 m(t-2) + (1 - b1**2) g(t)."""
    b1, b2, weight = betas
    points = [p.copy() for p in problem.start]
    history: list[list[Floats]] = [[np.zeros_like(p) for p in points] for _ in range(2)]
    squares = [np.zeros_like(p) for p in points]
    tops = [np.zeros_like(p) for p in points]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        history.append([])
        for k, (p, gradient) in enumerate(zip(points, gradients, strict=True)):
            g = gradient if decoupled else gradient + weight_decay * p
            history[-1].append(b1**2 * history[-3][k] + (1 - b1**2) * g)
            squares[k] = squares[k] + (1 - b2) * (g**2 - squares[k])
            tops[k] = np.where(squares[k] > tops[k], squares[k], tops[k])
            used = tops[k] if amsgrad else squares[k]
            mixed = (1 + weight) * history[-1][k] - weight * history[-2][k]
            mixed = mixed / ((1 + weight) ** 2 + weight**2) ** 0.5
            step = mixed / (1 - b1**t) / ((used / (1 - b2**t)) ** 0.5 + eps)
            points[k] = p * (1 - lr * weight_decay * decoupled) - lr * step
        record.add(points, {"exp_avg_sq": squares})
    return record


def avagrad(
    problem: Problem,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> Record:
    """Savarese et al., Algorithm 2, with bias corrections: the norm is this step's own."""
    b1, b2 = betas
    points = [p.copy() for p in problem.start]
    means = [np.zeros_like(p) for p in points]
    squares = [np.zeros_like(p) for p in points]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        corrected = [v / (1 - b2 ** (t - 1)) if t > 1 else v for v in squares]
        rates = [1 / (v**0.5 + eps) for v in corrected]
        length = np.sqrt(sum(float((r**2).sum()) for r in rates))
        level = length / np.sqrt(sum(r.size for r in rates))
        for k, (p, gradient) in enumerate(zip(points, gradients, strict=True)):
            g = gradient if decoupled else gradient + weight_decay * p
            means[k] = b1 * means[k] + (1 - b1) * g
            squares[k] = b2 * squares[k] + (1 - b2) * g**2
            if t > 1:
                step = rates[k] / level * means[k] / (1 - b1**t)
                points[k] = p - lr * step - lr * weight_decay * decoupled * p
        record.add(points, {"exp_avg": means, "exp_avg_sq": squares})
    return record


def tiger(problem: Problem, *, beta: float, weight_decay: float) -> Record:
    """bojone/tiger's step for a weight that is no embedding: relative to its RMS."""
    points = [p.copy() for p in problem.start]
    means = [np.zeros_like(p) for p in points]
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        for k, (p, g) in enumerate(zip(points, gradients, strict=True)):
            means[k] = beta * means[k] + (1 - beta) * g
            rate = lr * np.sqrt(np.mean(p**2))
            points[k] = p - rate * (np.sign(means[k]) + weight_decay * p)
        record.add(points, {"exp_avg": means})
    return record


def cautious_momentum(
    problem: Problem, *, momentum: float, eps: float, authors: bool, weight_decay: float
) -> Record:
    """Liang et al., Algorithm 1 around SGD with momentum, and a decay that is not masked."""
    points = [p.copy() for p in problem.start]
    sums = [np.zeros_like(p) for p in points]
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        for k, (p, g) in enumerate(zip(points, gradients, strict=True)):
            sums[k] = momentum * sums[k] + g
            agree = sums[k] * g > 0
            if authors:
                factor = 1 / max(float(np.mean(agree)), eps)
            else:
                factor = agree.size / (np.count_nonzero(agree) + 1)
            points[k] = p - lr * (factor * np.where(agree, sums[k], 0.0) + weight_decay * p)
        record.add(points, {"momentum_buffer": sums})
    return record


def sm3(problem: Problem, *, momentum: float, eps: float) -> Record:
    """Anil et al., Algorithm SM3-II, element by element, with the covers of the paper's section 4."""
    points = [p.copy() for p in problem.start]
    covers = [[np.zeros(n) for n in p.shape] or [np.zeros(1)] for p in points]
    means = [np.zeros_like(p) for p in points]
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        for k, (p, g) in enumerate(zip(points, gradients, strict=True)):
            fresh = [np.zeros_like(mu) for mu in covers[k]]
            step = np.zeros_like(p)
            for place in np.ndindex(p.shape):
                slots = list(enumerate(place)) or [(0, 0)]
                nu = min(covers[k][a][i] for a, i in slots) + g[place] ** 2
                for a, i in slots:
                    fresh[a][i] = max(fresh[a][i], nu)
                step[place] = g[place] / (nu + eps) ** 0.5 if nu > 0 else 0.0
            covers[k] = fresh
            means[k] = momentum * means[k] + (1 - momentum) * step
            points[k] = p - lr * means[k]
        record.add(points, {"momentum_buffer": means})
    return record


def adashift(
    problem: Problem,
    *,
    betas: tuple[float, float],
    keep_num: int,
    reduce: str,
    eps: float,
) -> Record:
    """Zhou et al., Algorithm 3: the whole list of gradients is at hand."""
    b1, b2 = betas
    points = [p.copy() for p in problem.start]
    squares = [np.zeros_like(p) for p in points]
    record = Record()
    for t, lr in enumerate(problem.lrs, 1):
        for k, p in enumerate(points):
            past = [step[k] for step in problem.gradients[:t]]
            if t <= keep_num:
                continue
            weights = b1 ** np.arange(keep_num)
            recent = np.stack(past[::-1][:keep_num])
            m = np.tensordot(weights / weights.sum(), recent, axes=1)
            old = past[-1 - keep_num] ** 2
            q = np.full_like(p, old.max()) if reduce == "max" else old
            squares[k] = b2 * squares[k] + (1 - b2) * q
            points[k] = p - lr * m / ((squares[k] / (1 - b2 ** (t - keep_num))) ** 0.5 + eps)
        record.add(points, {"exp_avg_sq": squares})
    return record


def novograd(
    problem: Problem,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    grad_averaging: bool,
) -> Record:
    """Ginsburg et al., Algorithm 1, with the text's averaging."""
    b1, b2 = betas
    points = [p.copy() for p in problem.start]
    levels: list[float] = []
    means: list[Floats] = []
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        for k, (p, g) in enumerate(zip(points, gradients, strict=True)):
            length = float(np.sum(g**2))
            if t == 1:
                levels.append(length)
                means.append(g / (length**0.5 + eps) + weight_decay * p)
            else:
                levels[k] = b2 * levels[k] + (1 - b2) * length
                d = g / (levels[k] ** 0.5 + eps) + weight_decay * p
                means[k] = b1 * means[k] + (1 - b1 if grad_averaging else 1.0) * d
            points[k] = p - lr * means[k]
        record.add(points, {"moments": means})
    return record


def adamd(
    problem: Problem,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    amsgrad: bool,
) -> Record:
    """John, AdamD: Adam whose first moment keeps its bias; coupled decay."""
    b1, b2 = betas
    points = [p.copy() for p in problem.start]
    means = [np.zeros_like(p) for p in points]
    squares = [np.zeros_like(p) for p in points]
    tops = [np.zeros_like(p) for p in points]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        for k, (p, gradient) in enumerate(zip(points, gradients, strict=True)):
            g = gradient + weight_decay * p
            means[k] = means[k] + (1 - b1) * (g - means[k])
            squares[k] = squares[k] + (1 - b2) * (g**2 - squares[k])
            tops[k] = np.fmax(tops[k], squares[k])
            used = tops[k] if amsgrad else squares[k]
            points[k] = p - lr * means[k] / ((used / (1 - b2**t)) ** 0.5 + eps)
        record.add(points, {"exp_avg": means, "exp_avg_sq": squares})
    return record
