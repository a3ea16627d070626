"""Adam's kin with other sizes and signs of a step, as loops over float64 arrays, written from their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .problems import Floats, Problem, Record

#: what is added to a parameter: of its past gradients, in order
Step = Callable[[list[Floats]], Floats]


def mean(history: list[Floats], beta: float) -> Floats:
    """The bias-corrected running average: a mean of what came, each weighed by its age."""
    weights = np.asarray([beta**k for k in range(len(history) - 1, -1, -1)])
    return np.asarray(np.tensordot(weights / weights.sum(), np.stack(history), 1))


def stepped(problem: Problem, weight_decay: float, step: Step) -> Record:
    """Steps times the learning rate beside a decay times that."""
    return coupled(problem, 0.0, weight_decay, lambda seen, _: step(seen))


def coupled(
    problem: Problem,
    weight_decay: float,
    decoupled: float,
    step: Callable[[list[Floats], list[Floats]], Floats],
) -> Record:
    """The same with a decay in the gradients; the step is also told what these were before it."""
    points = [p.copy() for p in problem.start]
    seen: list[list[Floats]] = [[] for _ in points]
    bare: list[list[Floats]] = [[] for _ in points]
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        for k, g in enumerate(gradients):
            bare[k].append(g)
            seen[k].append(g + weight_decay * points[k])
            points[k] = points[k] - lr * (step(seen[k], bare[k]) + decoupled * points[k])
        record.add(points)
    return record


def grams(
    problem: Problem, *, betas: tuple[float, float], eps: float, weight_decay: float
) -> Record:
    """Cao et al.: Adam's length, the gradient's sign."""

    def step(history: list[Floats]) -> Floats:
        m, v = mean(history, betas[0]), mean([g**2 for g in history], betas[1])
        return np.sign(history[-1]) * np.abs(m / (np.sqrt(v) + eps))

    return stepped(problem, weight_decay, step)


def adam_atan2(
    problem: Problem, *, betas: tuple[float, float], a: float, b: float, weight_decay: float
) -> Record:
    """Everett et al.: the angle of a complex number."""

    def step(history: list[Floats]) -> Floats:
        m, v = mean(history, betas[0]), mean([g**2 for g in history], betas[1])
        return a * np.angle(b * np.sqrt(v) + 1j * m)

    return stepped(problem, weight_decay, step)


def exadam(
    problem: Problem, *, betas: tuple[float, float], eps: float, weight_decay: float
) -> Record:
    """Adly: both moments, corrected by each other, and the last gradient."""

    def step(history: list[Floats]) -> Floats:
        t, (b1, b2) = len(history), betas
        m = mean(history, b1) * (1 - b1**t)
        v = mean([g**2 for g in history], b2) * (1 - b2**t)
        first = 1 + v / (v + eps) * b2**t
        second = 1 + m**2 / (m**2 + eps) * b1**t
        ahead = (m + history[-1]) / (1 - b1**t) * first
        return np.asarray(ahead / (np.sqrt(v / (1 - b2**t) * second) + eps))

    return stepped(problem, weight_decay, step)


def ano(problem: Problem, *, betas: tuple[float, float], eps: float, weight_decay: float) -> Record:
    """Kegreisz: v moves up or down by a share of the last square."""

    def step(history: list[Floats]) -> Floats:
        t, v = len(history), np.zeros_like(history[0])
        for g in history:
            moved = (1 - betas[1]) * g**2
            v = betas[1] * v + np.where(g**2 > v, moved, np.where(g**2 < v, -moved, 0.0))
        size = np.abs(history[-1]) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
        return np.copysign(size, mean(history, betas[0]))

    return stepped(problem, weight_decay, step)


def adanorm(
    problem: Problem, *, betas: tuple[float, float], r: float, eps: float, weight_decay: float
) -> Record:
    """Dubey et al.: gradients shorter than their average length are made as long."""

    def step(history: list[Floats]) -> Floats:
        lifted, average = [], 0.0
        for g in history:
            length = math.sqrt(float(np.sum(g**2)))
            average = r * average + (1 - r) * length
            lifted.append(g if length >= average or length == 0 else g / length * average)
        # What is added at every step decays with the rest: a geometric series of eps.
        b2 = betas[1]
        v = mean([g**2 for g in history], b2) + eps / (1 - b2)
        return mean(lifted, betas[0]) / (np.sqrt(v) + eps)

    return stepped(problem, weight_decay, step)
