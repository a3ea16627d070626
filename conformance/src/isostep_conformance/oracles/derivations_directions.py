"""PID, BCOS and SGD-SaI as loops over float64 arrays, written from their formulas."""

from __future__ import annotations

import numpy as np

from .derivations_kin import coupled, stepped
from .problems import Floats, Problem, Record


def aged(history: list[Floats], rate: float) -> Floats:
    """The sum of what came, each weighed by its age."""
    weights = np.asarray([rate**k for k in range(len(history) - 1, -1, -1)])
    return np.asarray(np.tensordot(weights, np.stack(history), 1))


def pid(
    problem: Problem,
    *,
    momentum: float,
    dampening: float,
    integral: float,
    derivative: float,
    weight_decay: float,
) -> Record:
    """An et al.: what is, what has been, and how it changes."""

    def step(history: list[Floats], _: list[Floats]) -> Floats:
        first, *rest = history
        sums = aged([first, *((1 - dampening) * g for g in rest)], momentum)
        changes = [0 * first, *(b - a for a, b in zip(history, rest, strict=False))]
        smoothed = (1 - momentum) * aged(changes, momentum)
        return np.asarray(history[-1] + integral * sums + derivative * smoothed)

    return coupled(problem, weight_decay, 0.0, step)


def bcos(
    problem: Problem,
    *,
    beta: float,
    beta2: float | None,
    eps: float,
    mode: str,
    decouple_wd: bool,
    simple_cond: bool,
    weight_decay: float,
) -> Record:
    """Jiang, Xiao: by the mean square of the gradient, of the momentum, or by what the momentum says of it."""

    def momenta(history: list[Floats], first: Floats) -> list[Floats]:
        found = [first]
        for g in history:
            found.append(found[-1] * beta + g * (1 - beta))
        return found

    def step(history: list[Floats], bare: list[Floats]) -> Floats:
        *_, old, new = momenta(history, bare[0])
        d, g = (history[-1] if mode == "g" else new), history[-1]
        rate = (1 - (1 - beta) ** 2 if mode == "c" else beta) if beta2 is None else beta2
        if mode == "c" and simple_cond:
            v = rate * old**2 + (1 - rate) * g**2
        elif mode == "c":
            mixed = 2 * beta * (1 - beta) ** 2 * old * g
            v = (3 * beta**2 - 2 * beta**3) * old**2 + (1 - beta) ** 2 * g**2 + mixed
        else:
            taken = history if mode == "g" else momenta(history, bare[0])[1:]
            v = aged([bare[0] ** 2, *((1 - rate) * x**2 for x in taken)], rate)
        return np.asarray(d / (np.sqrt(v) + eps))

    decay = (0.0, weight_decay) if decouple_wd else (weight_decay, 0.0)
    return coupled(problem, *decay, step)


def sgd_sai(problem: Problem, *, momentum: float, eps: float, weight_decay: float) -> Record:
    """Xu et al.: a rate for every array, that its first gradient gives."""

    def step(history: list[Floats]) -> Floats:
        first, *rest = history
        deviation = np.std(first, ddof=1) if first.size > 1 else 0.0
        scale = np.linalg.norm(first) / (deviation + eps)
        return np.asarray(scale * aged([first, *((1 - momentum) * g for g in rest)], momentum))

    return stepped(problem, weight_decay, step)
