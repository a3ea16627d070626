"""Muon's kin as loops over float64 arrays, written from their papers, with singular values for products of matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .problems import Floats, Problem, Record


def newton_schulz(
    x: Floats,
    coefficients: Sequence[float] = (3.4445, -4.775, 2.0315),
    steps: int = 5,
    eps: float = 1e-7,
) -> Floats:
    """The iteration is an odd polynomial, which acts on the singular values alone: one thin decomposition will do."""
    a, b, c = coefficients
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    sizes = sizes / max(math.sqrt(float(np.sum(sizes**2))), eps)
    for _ in range(steps):
        sizes = a * sizes + b * sizes**3 + c * sizes**5
    return np.asarray((left * sizes) @ right)


def looked_ahead(history: list[Floats], momentum: float, nesterov: bool) -> Floats:
    """The running average of all gradients so far, each by its age; Nesterov's goes on towards the last."""
    ages = range(len(history) - 1, -1, -1)
    mean = sum(
        ((1 - momentum) * momentum**k * g for k, g in zip(ages, history, strict=True)),
        np.zeros_like(history[0]),
    )
    return momentum * mean + (1 - momentum) * history[-1] if nesterov else mean


def normuon(
    problem: Problem,
    *,
    momentum: float,
    nesterov: bool,
    beta2: float,
    eps: float,
    weight_decay: float,
    dialect: str,
    unit_axis: int = 0,
) -> Record:
    """Li et al.: each neuron's row of the orthogonal matrix over the root of the running mean of its squares."""
    points = [p.copy() for p in problem.start]
    seen: list[list[Floats]] = [[] for _ in points]
    means: list[list[Floats]] = [[] for _ in points]
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        kept = []
        for k, g in enumerate(gradients):
            seen[k].append(g)
            o = newton_schulz(looked_ahead(seen[k], momentum, nesterov))
            neurons = o if unit_axis == 0 else o.T
            means[k].append((neurons**2).mean(axis=1))
            v = looked_ahead(means[k], beta2, nesterov=False)
            scaled = neurons / (np.sqrt(v) + eps)[:, None]
            outputs, inputs = neurons.shape
            size = 0.2 * math.sqrt(outputs * inputs)
            if dialect == "authors":
                size = float(np.linalg.norm(o)) * math.sqrt(max(1.0, outputs / inputs))
            step = scaled * size / (np.linalg.norm(scaled) + eps)
            points[k] = (1 - lr * weight_decay) * points[k] - lr * (
                step if unit_axis == 0 else step.T
            )
            kept.append(v[:, None] if unit_axis == 0 else v[None])
        record.add(points, {"second_momentum_buffer": kept})
    return record


def adamuon(
    problem: Problem,
    *,
    momentum: float,
    nesterov: bool,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> Record:
    """Si et al.: each element of the orthogonal matrix over the root of the mean of its squares so far."""
    points = [p.copy() for p in problem.start]
    seen: list[list[Floats]] = [[] for _ in points]
    squares: list[list[Floats]] = [[] for _ in points]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        for k, g in enumerate(gradients):
            seen[k].append(g)
            o = newton_schulz(looked_ahead(seen[k], momentum, nesterov))
            squares[k].append(o**2)
            mean = looked_ahead(squares[k], beta2, nesterov=False) / (1 - beta2**t)
            r = o / (np.sqrt(mean) + eps)
            matched = 0.2 * math.sqrt(max(g.shape)) * math.sqrt(min(g.shape))
            points[k] = points[k] - lr * (
                weight_decay * points[k] + matched * r / (np.linalg.norm(r) + eps)
            )
        record.add(points)
    return record


def scion(
    problem: Problem,
    *,
    momentum: float,
    scale: float,
    norm: str,
    normalized: bool,
    unconstrained: bool,
    eps: float,
) -> Record:
    """Pethick et al., Algorithms 1 and 2, with the oracles of their Tables for each layer's norm."""
    points = [p.copy() for p in problem.start]
    seen: list[list[Floats]] = [[] for _ in points]
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        for k, g in enumerate(gradients):
            seen[k].append(g)
            m = looked_ahead(seen[k], 1 - momentum, nesterov=False)
            target = scale * corner(m, norm, normalized, eps)
            # The conditional gradient's step: a part of the way to the corner that lies against m.
            points[k] = (
                points[k] - lr * target if unconstrained else (1 - lr) * points[k] - lr * target
            )
        record.add(points)
    return record


def corner(m: Floats, norm: str, normalized: bool, eps: float) -> Floats:
    """The point of the unit ball that an array points at, the other way round."""
    if m.ndim < 2:
        return np.asarray(m / (math.sqrt(float(np.mean(m**2))) + eps))
    x = m.reshape(len(m), -1)
    outputs, inputs = x.shape
    if norm == "spectral":
        window = inputs // m.shape[1]
        factor = math.sqrt(outputs / m.shape[1] if normalized else outputs) / window
        found = newton_schulz(x) * factor
    elif norm == "sign":
        found = np.sign(x) / (inputs if normalized else 1)
    elif norm == "row":
        found = x / (
            np.linalg.norm(x, axis=1, keepdims=True) * (math.sqrt(inputs) if normalized else 1)
            + eps
        )
    else:
        found = x / (np.sqrt(np.mean(x**2, axis=0)) * (inputs if normalized else 1) + eps)
    return np.asarray(found.reshape(m.shape))
