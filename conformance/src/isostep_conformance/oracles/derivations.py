"""Rules as loops over float64 arrays, written from their papers, where the packages differ."""

from __future__ import annotations

from collections.abc import Sequence

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
    problem: Problem,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    early: int | None = None,
) -> Record:
    """Ziyin et al., Algorithm 1, with the decay of AdamW; with ``early`` the authors' centered and amsgrad too."""
    b1, b2 = betas
    points = [p.copy() for p in problem.start]
    means, squares, centres, tops = ([np.zeros_like(p) for p in points] for _ in range(4))
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        for k, (p, g) in enumerate(zip(points, gradients, strict=True)):
            squares[k] = squares[k] + (1 - b2) * (g**2 - squares[k])
            centres[k] = centres[k] + (1 - b2) * (g - centres[k])
            below = squares[k]
            if early is not None and t > early:
                tops[k] = np.maximum(tops[k], squares[k] - centres[k] ** 2)
                below = tops[k]
            quotient = g / ((below / (1 - b2**t)) ** 0.5 + eps)
            means[k] = means[k] + (1 - b1) * (quotient - means[k])
            points[k] = p * (1 - lr * weight_decay) - lr * means[k] / (1 - b1**t)
        kept = {"exp_avg": means, "exp_avg_sq": squares}
        more = {"exp_mean_avg_beta2": centres, "max_exp_avg_sq": tops}
        record.add(points, kept if early is None else kept | more)
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


def swats(
    problem: Problem,
    *,
    betas: tuple[float, float],
    eps: float,
    threshold: float,
    weight_decay: float,
) -> Record:
    """Keskar and Socher, Algorithm 1, its vectors being all arrays at once; decay as an L2 penalty."""
    b1, b2 = betas
    points = [p.copy() for p in problem.start]
    means = [np.zeros_like(p) for p in points]
    squares = [np.zeros_like(p) for p in points]
    velocity: list[Floats] = []
    average = rate = 0.0
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        g = [x + weight_decay * p for x, p in zip(gradients, points, strict=True)]
        if velocity:
            velocity = [b1 * v + x for v, x in zip(velocity, g, strict=True)]
            points = [p - (1 - b1) * rate * v for p, v in zip(points, velocity, strict=True)]
            record.add(points, {"exp_avg": velocity}, {"sgd_lr": rate, "phase": 2.0})
            continue
        means = [b1 * m + (1 - b1) * x for m, x in zip(means, g, strict=True)]
        squares = [b2 * a + (1 - b2) * x**2 for a, x in zip(squares, g, strict=True)]
        scale = lr * (1 - b2**t) ** 0.5 / (1 - b1**t)
        steps = [-scale * m / (a**0.5 + eps) for m, a in zip(means, squares, strict=True)]
        points = [p + u for p, u in zip(points, steps, strict=True)]
        slope = sum(float(np.sum(u * x)) for u, x in zip(steps, g, strict=True))
        settled = False
        if slope:
            projected = sum(float(np.sum(u * u)) for u in steps) / -slope
            average = b2 * average + (1 - b2) * projected
            found = average / (1 - b2**t)
            settled = t > 1 and abs(found - projected) < threshold
        if settled:
            rate, velocity = found, [np.zeros_like(p) for p in points]
        record.add(
            points,
            {"exp_avg": velocity or means},
            {"sgd_lr": rate, "phase": float(settled)},
        )
    return record


def adasmooth(
    problem: Problem,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    window: int,
) -> Record:
    """Lu's equations; the effective ratio over the moves since the first step of the window."""
    fast, slow = betas
    points = [p.copy() for p in problem.start]
    squares = [np.zeros_like(p) for p in points]
    moves: list[list[Floats]] = []
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True)):
        count = t % window if window else t
        steps = []
        for k, (p, gradient) in enumerate(zip(points, gradients, strict=True)):
            g = gradient + weight_decay * p
            past = [move[k] for move in moves[t - count :]]
            length = np.sum(np.abs(past), axis=0) if past else np.zeros_like(p)
            total = np.abs(np.sum(past, axis=0)) if past else length
            ratio = np.divide(total, length, out=np.zeros_like(p), where=length > 0)
            smoothing = (slow - fast) * ratio + (1 - slow)
            squares[k] = smoothing**2 * g**2 + (1 - smoothing**2) * squares[k]
            steps.append(-lr / np.sqrt(squares[k] + eps) * g)
        moves.append(steps)
        points = [p + u for p, u in zip(points, steps, strict=True)]
        record.add(points, {"exp_avg_sq": squares})
    return record


def amos(
    problem: Problem,
    *,
    eta: float,
    beta: float,
    momentum: float,
    extra_l2: float,
    c_coef: float,
    d_coef: float,
    eps: float,
    slots: str,
    unit_axis: int = 0,
) -> Record:
    """Tian and Parikh, the update of the authors' amos.py; the slots as its shape_fn would make them."""
    points = [p.copy() for p in problem.start]
    means: list[Floats] = [np.float64(0.0) * _slot(p, slots, unit_axis) for p in points]
    decays = [m.copy() for m in means]
    averages = [np.zeros_like(p) for p in points]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        for k, (p, g) in enumerate(zip(points, gradients, strict=True)):
            square = _slot(g**2, slots, unit_axis)
            means[k] = beta * means[k] + (1 - beta) * square
            scale = (1 - beta**t) / np.maximum(means[k], eps)
            b = decays[k]
            gamma = lr**2 * scale * square * (1 + c_coef * lr**0.5 * b) ** -0.5
            step = lr * eta * scale**0.5 * g + gamma * p / 2 + extra_l2 * p
            step = step / (1 + d_coef * (lr * eta) ** 0.5 * b)
            decays[k] = b * (1 + gamma) + gamma
            averages[k] = momentum * averages[k] + (1 - momentum) * step
            points[k] = p - averages[k]
        record.add(points, {"exp_avg_sq": means, "decay": decays})
    return record


def momo(
    problem: Problem,
    *,
    beta: float,
    weight_decay: float,
    lb: float,
    bias_correction: bool,
    use_fstar: bool,
) -> Record:
    """Schaipp et al., MoMo as in the authors' momo.py: one sum for all arrays."""
    points = [p.copy() for p in problem.start]
    record = Record()
    bound = lb
    for t, (g, lr, loss) in enumerate(
        zip(problem.gradients, problem.lrs, problem.inputs["loss"], strict=True), 1
    ):
        inner = _inner(g, points)
        if t == 1:
            start = 0.0 if bias_correction else 1.0
            means = [start * x for x in g]
            average, dot = start * loss, start * inner
        means = [beta * d + (1 - beta) * x for d, x in zip(means, g, strict=True)]
        average = beta * average + (1 - beta) * loss
        dot = beta * dot + (1 - beta) * inner
        rho = 1 - beta**t if bias_correction else 1.0
        bound, tau, shrink = _polyak(
            lr, weight_decay, average, dot, _inner(means, points), _inner(means, means), rho,
            bound, lb, use_fstar,
        )  # fmt: skip
        points = [(p - tau * d) / shrink for p, d in zip(points, means, strict=True)]
        record.add(points, {"grad_avg": means}, {"loss_avg": average, "fstar": bound, "tau": tau})
    return record


def momo_adam(
    problem: Problem,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    lb: float,
    divide: bool,
    use_fstar: bool,
) -> Record:
    """Schaipp et al., MoMo-Adam as in the authors' momo_adam.py: one sum for all arrays."""
    b1, b2 = betas
    points = [p.copy() for p in problem.start]
    means = [np.zeros_like(p) for p in points]
    squares = [np.zeros_like(p) for p in points]
    average = dot = 0.0
    bound = lb
    record = Record()
    for t, (g, lr, loss) in enumerate(
        zip(problem.gradients, problem.lrs, problem.inputs["loss"], strict=True), 1
    ):
        means = [b1 * d + (1 - b1) * x for d, x in zip(means, g, strict=True)]
        squares = [b2 * v + (1 - b2) * x**2 for v, x in zip(squares, g, strict=True)]
        steps = [d / ((v / (1 - b2**t)) ** 0.5 + eps) for d, v in zip(means, squares, strict=True)]
        average = b1 * average + (1 - b1) * loss
        dot = b1 * dot + (1 - b1) * _inner(g, points)
        bound, tau, shrink = _polyak(
            lr, weight_decay, average, dot, _inner(means, points), _inner(means, steps), 1 - b1**t,
            bound, lb, use_fstar,
        )  # fmt: skip
        if divide:
            points = [(p - tau * d) / shrink for p, d in zip(points, steps, strict=True)]
        else:
            kept = 1 - lr * weight_decay
            points = [kept * p - tau * d for p, d in zip(points, steps, strict=True)]
        record.add(
            points,
            {"grad_avg": means, "grad_avg_sq": squares},
            {"loss_avg": average, "fstar": bound, "tau": tau},
        )
    return record


def _polyak(
    lr: float,
    weight_decay: float,
    average: float,
    dot: float,
    inner: float,
    length: float,
    rho: float,
    bound: float,
    least: float,
    estimate: bool,
) -> tuple[float, float, float]:
    """The bound after the step, the step size, and what the decay divides by."""
    shrink = 1 + lr * weight_decay
    gain = shrink * average + inner - shrink * dot
    if estimate and gain < shrink * rho * bound:
        bound = max(gain / (2 * shrink * rho), least)
    tau = min(lr / rho, max(gain - shrink * rho * bound, 0.0) / length)
    if estimate:
        bound = max((average + inner - dot - tau * length / 2) / rho, least)
    return bound, tau, shrink


def _inner(xs: Sequence[Floats], ys: Sequence[Floats]) -> float:
    return float(sum(np.sum(x * y) for x, y in zip(xs, ys, strict=True)))


def _slot(x: Floats, slots: str, unit_axis: int) -> Floats:
    """The mean over all axes (array), over all but one (unit), or over none."""
    if slots == "element":
        return x
    if slots == "array" or x.ndim < 2:
        return np.asarray(x.mean())
    others = tuple(i for i in range(x.ndim) if i != unit_axis % x.ndim)
    return np.asarray(x.mean(axis=others, keepdims=True))


def nero(
    problem: Problem,
    *,
    beta: float,
    bias_scale: float,
    bias_correction: bool,
    unit_axis: int,
    constraints: bool = True,
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
                if weights and constraints:
                    row -= np.mean(row)
                    row /= _length(row)
        record.add(points)
    return record


def _length(x: Floats) -> float:
    return float(np.linalg.norm(x.ravel()))
