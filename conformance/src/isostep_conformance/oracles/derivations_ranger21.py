"""Ranger21 in its two dialects, as a loop over units."""

from __future__ import annotations

import numpy as np

from .problems import Floats, Problem, Record


def ranger21(
    problem: Problem,
    *,
    dialect: str,
    betas: tuple[float, float],
    beta0: float,
    eps: float,
    weight_decay: float,
    norm_loss: float,
    clipping: float,
    agc_eps: float,
    beta_softplus: float,
    k: int,
    alpha: float,
    unit_axis: int,
) -> Record:
    """The momenta in turn, as the first author has them; the decays applied to the parameter one after the other."""
    b1, b2 = betas
    first = dialect == "authors"
    weight = 1.0 if first else beta0
    noise = np.hypot(1 + (b2 if first else beta0), b2 if first else beta0)
    points, slow = ([p.copy() for p in problem.start] for _ in range(2))
    squares, tops, odd, even = ([np.zeros_like(p) for p in points] for _ in range(4))
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        c1, c2 = 1 - b1**t, 1 - b2**t
        fed: list[Floats] = []
        for i, (p, raw) in enumerate(zip(points, gradients, strict=True)):
            g = np.array(raw)
            for row, weights in zip(_rows(g, unit_axis), _rows(p, unit_axis), strict=True):
                limit = clipping * max(_length(weights), agc_eps)
                if _length(row) > limit:
                    row *= limit / max(_length(row), 1e-6)
                if g.ndim > 1:
                    row -= row.mean()
            if first and g.size > 1:
                g = g / (np.std(g, ddof=1) + eps)
            fed.append(g)
            squares[i] = b2 * squares[i] + (1 - b2) * g**2
            tops[i] = np.maximum(tops[i], squares[i])
        mean = sum(v.sum() for v in squares) / sum(v.size for v in squares) / c2
        for i, (p, g) in enumerate(zip(points, fed, strict=True)):
            mine, other = (odd, even) if t % 2 else (even, odd)
            mine[i] = b1**2 * mine[i] + (1 - b1**2) * g
            d = ((1 + weight) * mine[i] - weight * other[i]) / c1
            after = np.array(p)
            if first:
                after *= 1 - lr * weight_decay / mean**0.5
                for row in _rows(after, unit_axis):
                    row *= 1 - lr * 2 * norm_loss * (1 - 1 / (_length(row) + eps))
                bent = np.logaddexp(0, beta_softplus * ((squares[i] / c2) ** 0.5 + eps))
                after -= lr * d / noise / (bent / beta_softplus)
            else:
                own = (tops[i] / c2).mean() ** 0.5
                for row in _rows(after, unit_axis):
                    size = _length(row)
                    row *= 1 - lr * weight_decay * (size - 1) / (size * own + eps)
                after -= lr * d / (noise * (tops[i] / c2) ** 0.5 + eps)
            points[i] = after
            if t % k == 0:
                points[i] = slow[i] = (1 - alpha) * slow[i] + alpha * points[i]
        kept = {"exp_avg_sq": squares, "exp_avg": odd if t % 2 else even}
        record.add(points, kept | {"last_exp_avg": even if t % 2 else odd})
    return record


def _rows(x: Floats, unit_axis: int) -> list[Floats]:
    """Views of the units."""
    return [x[...]] if x.ndim < 2 else [r[...] for r in np.moveaxis(x, unit_axis, 0)]


def _length(x: Floats) -> float:
    return float(np.linalg.norm(x.ravel()))
