"""Stable-SPAM, SPAM, AdaGC, AdaGO and SPlus as loops over float64 arrays that keep all that came since their start."""

from __future__ import annotations

import math

import numpy as np

from .derivations_kin import mean
from .derivations_orthogonal import looked_ahead, newton_schulz
from .problems import Floats, Problem, Record


def stable_spam(
    problem: Problem,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    gamma1: float,
    gamma2: float,
    gamma3: float,
    update_proj_gap: int,
) -> Record:
    """Huang et al.: of norms and largest magnitudes all that came, of gradients what came since the moments started."""
    points = [p.copy() for p in problem.start]
    tops: list[list[Floats]] = [[] for _ in points]
    norms: list[list[Floats]] = [[] for _ in points]
    seen: list[list[Floats]] = [[] for _ in points]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        for k, g in enumerate(gradients):
            tops[k].append(np.asarray(np.abs(g).max()))
            bound = mean(tops[k], gamma3)
            e = np.where(np.abs(g) > bound, g * (bound / tops[k][-1]), g)
            norms[k].append(np.asarray(np.linalg.norm(e)))
            typical = np.sqrt(mean([n**2 for n in norms[k]], gamma2))
            if t % update_proj_gap == 0:
                seen[k].clear()
            seen[k].append(e * mean(norms[k], gamma1) / ((typical + eps) * norms[k][-1]))
            m, v = mean(seen[k], betas[0]), mean([h**2 for h in seen[k]], betas[1])
            points[k] = (1 - lr * weight_decay) * points[k] - lr * m / (np.sqrt(v) + eps)
        record.add(points)
    return record


def spam(
    problem: Problem,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    warmup_steps: int,
    threshold: float,
    delta_t: int,
    grad_accu_steps: int,
) -> Record:
    """Huang et al.: sums over the gradients since the moments started, corrected as if of all."""
    points = [p.copy() for p in problem.start]
    seen: list[list[Floats]] = [[] for _ in points]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        since = t % delta_t
        rate = lr
        if t >= delta_t and since < warmup_steps:
            rate *= 1 - 0.99 * math.cos(math.pi * since / (2 * (warmup_steps + 1))) ** 2
        for k, g in enumerate(gradients):
            if since == 0:
                seen[k].clear()
            bound = np.full(g.shape, np.inf)
            if threshold and since >= grad_accu_steps:
                bound = threshold * _sum([x**2 for x in seen[k]], betas[1], g)
            seen[k].append(np.where(g**2 > bound, np.copysign(np.sqrt(bound), g), g))
            m = _sum(seen[k], betas[0], g) / (1 - betas[0] ** t)
            v = _sum([x**2 for x in seen[k]], betas[1], g)
            root = (np.sqrt(v) + eps) / math.sqrt(1 - betas[1] ** t)
            points[k] = (points[k] - rate * m / root) * (1 - lr * weight_decay)
        record.add(points)
    return record


def _sum(history: list[Floats], beta: float, like: Floats) -> Floats:
    """The running average from zero, of nothing zeros."""
    total = np.zeros_like(like)
    for age, x in enumerate(reversed(history)):
        total = total + (1 - beta) * beta**age * x
    return total


def adagc_adamw(
    problem: Problem,
    *,
    max_norm: float,
    clip_ratio: float,
    beta: float,
    eps: float,
    start_clip_steps: int,
    betas: tuple[float, float],
    adam_eps: float,
    weight_decay: float,
) -> Record:
    """Wang et al. with AdamW behind it: the least of the early norms, then each later one weighed by its age."""
    points = [p.copy() for p in problem.start]
    norms: list[list[float]] = [[] for _ in points]
    seen: list[list[Floats]] = [[] for _ in points]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        whole = math.hypot(*(float(np.linalg.norm(g)) for g in gradients))
        for k, g in enumerate(gradients):
            size = float(np.linalg.norm(g))
            if t <= start_clip_steps:
                kept = size * min(max_norm / (whole + eps), 1.0)
            else:
                early = norms[k][:start_clip_steps] or [size]
                typical = min(early)
                for n in norms[k][start_clip_steps:]:
                    typical += (1 - beta) * (n - typical)
                kept = min(clip_ratio * max(typical, eps) * (size / max(size, eps)), size)
            norms[k].append(kept)
            seen[k].append(g * (kept / size if size else 1.0))
            m, v = mean(seen[k], betas[0]), mean([x**2 for x in seen[k]], betas[1])
            points[k] = (1 - lr * weight_decay) * points[k] - lr * m / (np.sqrt(v) + adam_eps)
        record.add(points)
    return record


def adago(
    problem: Problem,
    *,
    momentum: float,
    nesterov: bool,
    gamma: float,
    eps: float,
    v: float,
    weight_decay: float,
) -> Record:
    """Zhang et al.: the norms that count, and the root of the sum of their squares."""
    points = [p.copy() for p in problem.start]
    seen: list[list[Floats]] = [[] for _ in points]
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        for k, g in enumerate(gradients):
            seen[k].append(g)
            counted = [min(float(np.linalg.norm(x)), gamma) for x in seen[k]]
            rate = max(lr * counted[-1] / math.hypot(v, *counted), eps)
            o = newton_schulz(looked_ahead(seen[k], momentum, nesterov))
            points[k] = (1 - lr * weight_decay) * points[k] - rate * o
        record.add(points)
    return record


def splus(
    problem: Problem,
    *,
    b1: float,
    b2: float,
    ema_rate: float,
    inverse_every: int,
    weight_decay: float,
    nonstandard_constant: float,
) -> Record:
    """Frans et al.: bases from singular values of the sums so far, and all points so far, each by its age."""
    points = [p.copy() for p in problem.start]
    seen: list[list[Floats]] = [[] for _ in points]
    passed: list[list[Floats]] = [[] for _ in points]
    bases = [[np.eye(n) for n in p.shape] for p in points]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        for k, g in enumerate(gradients):
            seen[k].append(g)
            d = looked_ahead(seen[k], b1, nesterov=False)
            rate = lr * nonstandard_constant
            if g.ndim == 2:
                left, right = bases[k]
                d = left @ np.sign(left.T @ d @ right) @ right.T
                rate = 2 * lr / sum(g.shape)
                if t == 1 or t % inverse_every == 0:
                    sides = [x @ x.T for x in seen[k]], [x.T @ x for x in seen[k]]
                    bases[k] = [np.linalg.svd(looked_ahead(s, b2, False))[0] for s in sides]
            else:
                d = np.sign(d)
            passed[k].append(points[k] - rate * d)
            points[k] = passed[k][-1] * (1 - rate * weight_decay)
        means = [mean(p, ema_rate) for p in passed]
        record.add(points, {"evaluation point": means})
    return record
