"""Run isostep's rules on a problem and note parameters and state after every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

import isostep

from .outcome import Array
from .problems import Problem, Record
from .sign_cases import Decay, SignCase

PATHS = ("numpy:reference", "numpy:fused", "torch:loop", "jax:jit")


def installed(paths: Iterable[str]) -> list[str]:
    """Those of the paths that can run here."""
    found = []
    for path in paths:
        try:
            isostep.backend(path)
        except isostep.BackendError:
            continue
        found.append(path)
    return found


def decay_schedule(decay: Decay) -> Callable[[int], float]:
    """isostep's schedule of a decay given as data."""
    if decay.kind == "linear":
        return isostep.schedules.LinearInternalDecay(decay.steps)
    settings: Any = {"num_periods": decay.num_periods, "zero_after": decay.zero_after}
    if decay.kind == "cosine":
        return isostep.schedules.CosineInternalDecay(decay.steps, **settings)
    return isostep.schedules.RestartCosineInternalDecay(decay.steps, **settings)


def sign_rule(case: SignCase, decays: Sequence[float] | None = None) -> Any:
    """isostep's rule for a case: with its own decay, or with a table of decays per step done."""
    if decays is not None:
        table = list(decays)
        return isostep.rule(
            case.rule, **case.hyper, sign_internal_decay=lambda done: table[int(done)]
        )
    schedule = None if case.decay is None else decay_schedule(case.decay)
    return isostep.rule(case.rule, **case.hyper, sign_internal_decay=schedule)


def run_sign(
    path: str, rule: Any, start: Array, gradients: Array
) -> tuple[list[Array], list[Array]]:
    """The parameter and the momentum after each step, running freely."""
    backend = isostep.backend(path)
    params = [backend.asarray(start.copy())]
    state = backend.init(rule, params)
    ps, ms = [], []
    for gradient in gradients:
        params, state = backend.step(rule, params, [backend.asarray(gradient)], state)
        ps.append(np.array(backend.to_numpy(params[0])))
        ms.append(np.array(backend.to_numpy(state.arrays[0]["m"])))
    return ps, ms


def one_sign_step(
    path: str, rule: Any, p: Array, m: Array, gradient: Array, done: int
) -> tuple[Array, Array]:
    """Parameter and momentum after step ``done`` + 1 from a given parameter and momentum."""
    backend = isostep.backend(path)
    params = [backend.asarray(p.copy())]
    state = backend.init(rule, params)
    state.arrays[0]["m"] = backend.asarray(m.copy())
    state.t[0] = done
    params, state = backend.step(rule, params, [backend.asarray(gradient)], state)
    return np.array(backend.to_numpy(params[0])), np.array(backend.to_numpy(state.arrays[0]["m"]))


def run(path: str, rule: Any, problem: Problem, **changes: Callable[[float], float]) -> Record:
    """The whole record of a rule on a problem, the learning rate replaced before every step.

    ``changes`` are further hyperparameters that depend on the learning rate. A rule that keeps the
    learning rate in its group state is left alone after the first step: the state rules. The point
    to evaluate at is noted among the states where the rule has one.
    """
    backend = isostep.backend(path)
    params = [backend.asarray(p.copy()) for p in problem.start]
    owned = "lr" in rule.group_names
    state = None
    record = Record()
    for t, gradients in enumerate(problem.gradients):
        lr = problem.lrs[0 if owned else t]
        rule = rule.replace(lr=lr, **{name: make(lr) for name, make in changes.items()})
        state = backend.init(rule, params) if state is None else state
        given = {
            name: [backend.asarray(value) for value in steps[t]]
            if name in rule.input_names
            else steps[t]
            for name, steps in problem.inputs.items()
        }
        grads = [backend.asarray(gradient) for gradient in gradients]
        params, state = backend.step(rule, params, grads, state, **given)
        kept = {
            name: [backend.to_numpy(arrays[name]) for arrays in state.arrays]
            for name in rule.state_names
        }
        if rule.rule.evaluate is not None:
            point = backend.evaluation_point(rule, params, state)
            kept["evaluation point"] = [backend.to_numpy(p) for p in point]
        record.add(
            [backend.to_numpy(p) for p in params],
            kept,
            {name: float(backend.to_numpy(value)) for name, value in state.group.items()},
        )
    return record
