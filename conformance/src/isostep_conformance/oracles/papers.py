"""Rules and pieces as plain NumPy loops, written from the papers' and authors' formulas.

These were written without sight of isostep's rules. Each says which text it follows. They are slow,
float64 and as literal as possible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from .derivations_orthogonal import newton_schulz
from .problems import Floats, Problem, Record


def _dot(left: Sequence[Floats], right: Sequence[Floats]) -> float:
    """One dot product over all arrays."""
    return math.fsum(
        float(a) * float(b)
        for x, y in zip(left, right, strict=True)
        for a, b in zip(x.ravel(), y.ravel(), strict=True)
    )


def _moved(
    lr: float,
    hypergrad_lr: float,
    g: Sequence[Floats],
    d: Sequence[Floats],
    multiplicative: bool,
    min_lr: float | None,
    max_lr: float | None,
) -> float:
    """The learning rate after one step of its own: additive or by the cosine, then kept in its bounds."""
    dot = _dot(g, d)
    if multiplicative:
        lengths = math.sqrt(_dot(g, g) * _dot(d, d))
        lr = lr * (1.0 + hypergrad_lr * dot / lengths) if lengths else lr
    else:
        lr = lr + hypergrad_lr * dot
    lr = lr if min_lr is None or lr > min_lr else min_lr
    return lr if max_lr is None or lr < max_lr else max_lr


def sgd_hd(
    problem: Problem,
    *,
    hypergrad_lr: float,
    multiplicative: bool = False,
    min_lr: float | None = None,
    max_lr: float | None = None,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> Record:
    """Baydin et al., arXiv 1703.04782, Algorithms 4 and 5, with the authors' options.

    At step t: h = -g_t . d_(t-1) over all parameters at once, lr <- lr - hypergrad_lr * h, and
    theta <- theta - lr * d_t, where d_t is the direction that SGD takes. The authors' sgd_hd.py
    adds torch's options: dampening is skipped at the first step, and decay is added to g first.
    Multiplicative: lr <- lr * (1 - hypergrad_lr * h / (|g_t| * |d_(t-1)|)), the authors' ICLR poster.
    """
    p = [value.copy() for value in problem.start]
    before = [np.zeros_like(value) for value in p]
    buffer: list[Floats] = []
    lr = problem.lrs[0]
    record = Record()
    for gradients in problem.gradients:
        g = [x + weight_decay * y for x, y in zip(gradients, p, strict=True)]
        lr = _moved(lr, hypergrad_lr, g, before, multiplicative, min_lr, max_lr)
        direction = g
        if momentum:
            if buffer:
                damped = [(1 - dampening) * x for x in g]
                buffer = [momentum * b + x for b, x in zip(buffer, damped, strict=True)]
            else:
                buffer = g
            looked = [x + momentum * b for x, b in zip(g, buffer, strict=True)]
            direction = looked if nesterov else buffer
        p = [x - lr * d for x, d in zip(p, direction, strict=True)]
        before = direction
        record.add(p, group={"lr": lr})
    return record


def adam_hd(
    problem: Problem,
    *,
    hypergrad_lr: float,
    multiplicative: bool = False,
    min_lr: float | None = None,
    max_lr: float | None = None,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float = 0.0,
    authors: bool = False,
) -> Record:
    """Baydin et al., arXiv 1703.04782, Algorithm 6: one global dot product.

    With ``authors``, their hypergrad/adam_hd.py instead: the learning rate moves once per array, in
    the order of the arrays, each array's step uses it as it then is, and eps is added to the root
    of the uncorrected second moment.
    """
    b1, b2 = betas
    p = [value.copy() for value in problem.start]
    m = [np.zeros_like(value) for value in p]
    v = [np.zeros_like(value) for value in p]
    before = [np.zeros_like(value) for value in p]
    lr = problem.lrs[0]
    record = Record()
    for t, gradients in enumerate(problem.gradients, start=1):
        g = [x + weight_decay * y for x, y in zip(gradients, p, strict=True)]
        if not authors:
            lr = _moved(lr, hypergrad_lr, g, before, multiplicative, min_lr, max_lr)
        for i, x in enumerate(g):
            if authors:
                lr = _moved(lr, hypergrad_lr, [x], [before[i]], False, min_lr, max_lr)
            m[i] = b1 * m[i] + (1 - b1) * x
            v[i] = b2 * v[i] + (1 - b2) * x * x
            c1, c2 = 1 - b1**t, 1 - b2**t
            if authors:
                before[i] = math.sqrt(c2) / c1 * m[i] / (np.sqrt(v[i]) + eps)
            else:
                before[i] = (m[i] / c1) / (np.sqrt(v[i] / c2) + eps)
            p[i] = p[i] - lr * before[i]
        record.add(p, {"exp_avg": m, "exp_avg_sq": v}, {"lr": lr})
    return record


def adahessian(
    problem: Problem,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    hessian_power: float,
) -> Record:
    """Yao et al., arXiv 2006.00719, Algorithm 1, with the authors' decay and Hessian power.

    The authors' code raises the root of the bias-corrected average of squares to the power, adds
    eps to that, and decays by lr * weight_decay * theta beside the step. The diagonals are used as
    they are given: spatial averaging is the business of whoever estimates them.
    """
    b1, b2 = betas
    p = [value.copy() for value in problem.start]
    m = [np.zeros_like(value) for value in p]
    v = [np.zeros_like(value) for value in p]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), start=1):
        diagonals = problem.inputs["hessian_diag"][t - 1]
        for i, (g, diagonal) in enumerate(zip(gradients, diagonals, strict=True)):
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = b2 * v[i] + (1 - b2) * diagonal * diagonal
            root = np.sqrt(v[i] / (1 - b2**t)) ** hessian_power
            p[i] = p[i] - lr * (m[i] / (1 - b1**t) / (root + eps) + weight_decay * p[i])
        record.add(p, {"exp_avg": m, "exp_hessian_diag_sq": v})
    return record


def muon(
    problem: Problem,
    *,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    coefficients: tuple[float, float, float],
    steps: int,
    eps: float,
    scale: Callable[[int, int], float],
) -> Record:
    """Jordan's Muon with a float64 Newton-Schulz iteration and a decoupled decay, as torch's.

    The momentum is a running average, Nesterov's form of it interpolates towards the gradient, and
    ``scale`` gives the factor of lr from the number of rows and columns.
    """
    p = [value.copy() for value in problem.start]
    m = [np.zeros_like(value) for value in p]
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        for i, g in enumerate(gradients):
            m[i] = momentum * m[i] + (1 - momentum) * g
            x = momentum * m[i] + (1 - momentum) * g if nesterov else m[i]
            o = newton_schulz(x, coefficients, steps, eps)
            p[i] = p[i] - lr * weight_decay * p[i] - lr * scale(*x.shape) * o
        record.add(p, {"momentum_buffer": m})
    return record


def lookahead_sgd(problem: Problem, *, momentum: float, every: int, alpha: float) -> Record:
    """Zhang et al., arXiv 1907.08610, Algorithm 1, around SGD with momentum.

    The slow weights start at the first parameters. After every k steps of the inner optimizer
    they move by alpha towards the fast ones, which restart from there; the inner state goes on.
    """
    slow = [value.copy() for value in problem.start]
    fast = [value.copy() for value in problem.start]
    buffer = [np.zeros_like(value) for value in fast]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), start=1):
        buffer = [momentum * b + g for b, g in zip(buffer, gradients, strict=True)]
        fast = [x - lr * b for x, b in zip(fast, buffer, strict=True)]
        if t % every == 0:
            slow = [s + alpha * (x - s) for s, x in zip(slow, fast, strict=True)]
            fast = [s.copy() for s in slow]
        record.add(fast, {"slow": slow})
    return record
