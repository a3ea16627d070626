"""Rules without a learning rate to tune (DoG to D-Adapt Adan), as loops over float64 arrays from their papers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .problems import Floats, Problem, Record


def dog(
    problem: Problem,
    *,
    reps_rel: float,
    init_eta: float | None,
    eps: float,
    weight_decay: float,
    layers: bool,
) -> Record:
    """Ivgi et al., DoG with all arrays as one vector, or L-DoG with each for itself: no sum is kept."""
    points = [p.copy() for p in problem.start]
    count = len(points)
    blocks = [[k] for k in range(count)] if layers else [list(range(count))]
    ways: list[list[float]] = [[] for _ in blocks]
    norms: list[list[float]] = [[] for _ in blocks]
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        fed = [g + weight_decay * p for g, p in zip(gradients, points, strict=True)]
        etas = np.zeros(count)
        for block, way, norm in zip(blocks, ways, norms, strict=True):
            first = 0.0 if init_eta else reps_rel * (1 + _length(problem.start, block))
            moved = [p - start for p, start in zip(points, problem.start, strict=True)]
            way.append(_length(moved, block) or first)
            norm.append(_length(fed, block))
            etas[block] = lr * max(way) / float(np.hypot.reduce([*norm, eps**0.5]))
            if init_eta and len(way) == 1:
                etas[block] = init_eta
        points = [p - eta * g for p, eta, g in zip(points, etas, fed, strict=True)]
        record.add(points)
    return record


def dowg(
    problem: Problem, *, eps: float, init_estim_sq_dist: float | None, weight_decay: float
) -> Record:
    """Khaled et al., Algorithm 1 on the whole space, with eps as in the authors' code."""
    points = [p.copy() for p in problem.start]
    everything = range(len(points))
    furthest = (init_estim_sq_dist or eps) ** 0.5
    weighed = 0.0
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        fed = [g + weight_decay * p for g, p in zip(gradients, points, strict=True)]
        moved = [p - start for p, start in zip(points, problem.start, strict=True)]
        furthest = max(furthest, _length(moved, everything))
        weighed += (furthest * _length(fed, everything)) ** 2
        eta = furthest**2 / (weighed**0.5 + eps)
        points = [p - lr * eta * g for p, g in zip(points, fed, strict=True)]
        record.add(points, group={"rt2": furthest**2, "vt": weighed})
    return record


def cocob(problem: Problem, *, alpha: float, eps: float, weight_decay: float) -> Record:
    """Orabona and Tommasi, Algorithm 2, element by element; there g is the negative gradient."""
    points = [p.copy() for p in problem.start]
    known = [{place: [eps, 0.0, 0.0, 0.0] for place in np.ndindex(p.shape)} for p in problem.start]
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        for first, point, gradient, coins in zip(
            problem.start, points, gradients, known, strict=True
        ):
            for place, (largest, total, reward, theta) in coins.items():
                g = -lr * float(gradient[place] + weight_decay * point[place])
                w = float(point[place] - first[place])
                largest = max(largest, abs(g))
                total += abs(g)
                reward = max(reward + w * g, 0.0)
                theta += g
                coins[place] = [largest, total, reward, theta]
                if largest:
                    beta = theta / (largest * max(total + largest, alpha * largest))
                    point[place] = first[place] + beta * (largest + reward)
        record.add(points)
    return record


def polyak_sgd(problem: Problem, *, c: float, fstar: float, eps: float, variant: str) -> Record:
    """Loizou et al., SPS_max, and SPS+ of Garrigos et al.: one gradient of all arrays."""
    points = [p.copy() for p in problem.start]
    record = Record()
    for gradients, lr, loss in zip(
        problem.gradients, problem.lrs, problem.inputs["loss"], strict=True
    ):
        gap = loss - fstar
        if variant == "sps+" and gap < 0:
            gap = 0.0
        squared = _length(gradients, range(len(gradients))) ** 2
        rate = min(gap / (c * squared + eps), lr)
        points = [p - rate * g for p, g in zip(points, gradients, strict=True)]
        record.add(points, group={"step_size": rate})
    return record


def _length(arrays: Sequence[Floats], block: Sequence[int]) -> float:
    """The norm of some of the arrays as one vector."""
    return float(np.linalg.norm(np.concatenate([arrays[k].ravel() for k in block])))


def dadapt_adan(
    problem: Problem,
    *,
    d0: float,
    betas: tuple[float, float, float],
    eps: float,
    weight_decay: float,
    growth_rate: float,
    no_prox: bool,
) -> Record:
    """Defazio and Mishchenko's package, with every average as the weighted sum that it stands for."""
    b1, b2, b3 = betas
    d, size = d0, len(problem.start)
    points = [p.copy() for p in problem.start]
    rates: list[float] = []
    grown: list[float] = []
    record = Record()
    for t, lr in enumerate(problem.lrs):
        rates.append(d * lr)
        steps: list[Floats] = []
        shares: list[tuple[float, float, float]] = []
        for k in range(size):
            g = np.array([gradients[k] for gradients in problem.gradients[: t + 1]])
            change = np.concatenate([0 * g[:1], g[1:] - g[:-1]])
            scaled = np.array(rates).reshape(-1, *(1 for _ in g.shape[1:]))
            below = np.sqrt(_averaged((g + b2 * change) ** 2, b3)) + eps
            total = _averaged(scaled * g, b3)
            ahead = _averaged(scaled * g, b1) + b2 * _averaged(scaled * change, b2)
            steps.append(ahead / below)
            parts = (rates[-1] ** 2 * g[-1] ** 2 / below, total**2 / below, abs(total))
            shares.append(tuple(float(np.sum(x)) for x in parts))  # type: ignore[arg-type]
        gain, squares, norm = np.sum(shares, axis=0)
        grown.append(float(gain))
        decay = rates[-1] * weight_decay
        for k in range(size):
            p, a = points[k], steps[k]
            points[k] = p * (1 - decay) - a if no_prox else (p - a) / (1 + decay)
        found = (squares / (1 - b3) - float(_averaged(np.array(grown), b3))) / norm
        d = max(d, min(found, d * growth_rate))
        record.add(points, group={"d": d})
    return record


def _averaged(values: Floats, beta: float) -> Floats:
    """What a running average from zero is after the last of ``values``."""
    ages = np.arange(len(values))[::-1]
    return np.asarray(np.tensordot((1 - beta) * beta**ages, values, axes=1))
