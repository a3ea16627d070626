"""SGDP as a loop over units."""

from __future__ import annotations

import numpy as np

from .problems import Floats, Problem, Record


def sgdp(
    problem: Problem,
    *,
    momentum: float,
    weight_decay: float,
    delta: float,
    wd_ratio: float,
    eps: float,
) -> Record:
    """Heo et al., Algorithm 1, with the package's test by rows and then by the whole array."""
    points = [p.copy() for p in problem.start]
    sums = [np.zeros_like(p) for p in points]
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        for k, (p, g) in enumerate(zip(points, gradients, strict=True)):
            sums[k] = momentum * sums[k] + g
            step, ratio = sums[k], 1.0
            for units in (p.shape[0], 1) if p.ndim > 1 else ():
                flat = [x.reshape(units, -1) for x in (p, g, sums[k])]
                if all(
                    _cosine(a, b, eps) < delta / a.size**0.5 for a, b, _ in zip(*flat, strict=True)
                ):
                    step = np.stack([_tangent(a, c, eps) for a, _, c in zip(*flat, strict=True)])
                    step, ratio = step.reshape(p.shape), wd_ratio
                    break
            points[k] = p * (1 - lr * weight_decay * ratio / (1 - momentum)) - lr * step
        record.add(points, {"momentum_buffer": sums})
    return record


def _length(x: Floats) -> float:
    return float(np.linalg.norm(x.ravel()))


def _cosine(p: Floats, g: Floats, eps: float) -> float:
    return abs(float(p @ g)) / (max(_length(p), eps) * max(_length(g), eps))


def _tangent(p: Floats, d: Floats, eps: float) -> Floats:
    e = p / (_length(p) + eps)
    return d - e * float(e @ d)
