"""TensorFlow as the oracle, live: its sign kernels, decays and unit tests, its Adam, and Keras.

Needs tensorflow-cpu, isostep's core and this package, nothing else. Every check runs on each of the
NumPy paths that are installed; the paths of torch and JAX meet the same trajectories on file
(``golden``), because TensorFlow shares its environment badly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from . import check_keras, sign_formulas, tf_adam, tf_kernels
from .drive import PATHS, decay_schedule, installed, run_sign, sign_rule
from .outcome import NOTHING, Deviation, Outcome, compare
from .replay import TOLERANCES, Replay, replay
from .sign_cases import (
    CASES,
    DECAYS,
    HALF_CASES,
    STEPS,
    Decay,
    Inputs,
    SignCase,
    inputs,
    rounded_to_float32,
)
from .sign_formulas import UNIT_TEST_GRADIENTS, UNIT_TEST_SIGNS, UNIT_TEST_START, UNIT_TESTS

KERNELS = "tf.raw_ops"


def checks() -> Iterator[Outcome]:
    """Every check against TensorFlow, as it is finished."""
    paths = installed(path for path in PATHS if path.startswith("numpy"))
    yield from decay_checks()
    yield from formula_checks()
    for path in paths:
        yield from unit_test_checks(path)
        yield from kernel_checks(path)
    yield from tf_adam.checks(paths[0])
    for check in check_keras.checks():
        yield check.outcome(paths[0])


def decay_checks() -> Iterator[Outcome]:
    """isostep's decays against TensorFlow's operations, which are float32, and the exact formula.

    The float32 tolerance is the rounding of the angle pi * x, x up to 10: TensorFlow's own error.
    The last row is TensorFlow's sign_decay_test: 1000 steps, looked at every 100.
    """
    long = tuple(
        Decay(kind, 1000, n, cut)
        for kind, n, cut in (
            ("linear", 1, None),
            ("cosine", 0.5, None),
            ("cosine", 5, 2),
            ("restart", 1, None),
            ("restart", 5, 2),
        )
    )
    for title, decays, moments in (
        ("T 10 and 20, 25 steps", DECAYS, range(STEPS)),
        ("T 1000, TensorFlow's test", long, range(0, 1200, 100)),
    ):
        for kind in ("linear", "cosine", "restart"):
            in_float32 = exact = 0.0
            count = 0
            for decay in (each for each in decays if each.kind == kind):
                schedule = decay_schedule(decay)
                for done in moments:
                    ours = float(schedule(done))
                    theirs = float(tf_kernels.decay_value(decay, done))
                    in_float32 = max(in_float32, abs(ours - theirs))
                    exact = max(exact, abs(ours - sign_formulas.decay_value(decay, done)))
                    count += 1
            name = f"{kind} decay"
            yield Outcome(name, "tf ops, float32", title, Deviation(in_float32, count), 1e-6)
            yield Outcome(name, "formula, float64", title, Deviation(exact, count), 4e-15)


#: The rules that the cases are of.
RULES = tuple(dict.fromkeys(case.rule for case in CASES))
MODES: dict[str, tuple[Any, tuple[SignCase, ...]]] = {
    "float32": (np.float32, CASES),
    "float64": (np.float64, CASES),
    "float64-tf1": (np.float64, tuple(rounded_to_float32(case) for case in CASES)),
    "bfloat16": (ml_dtypes.bfloat16, HALF_CASES),
    "float16": (np.float16, HALF_CASES),
}
"""As in ``golden``: what the kernels are given, and in which dtype."""


def kernel_checks(path: str, seed: int = 11) -> Iterator[Outcome]:
    """Every sign case on one path against the kernels, parameter and momentum at every step."""
    for mode, (dtype, cases) in MODES.items():
        given = inputs(dtype, per_pattern=4, seed=seed)
        own_decay = mode in ("float32", "float64")
        for name in RULES:
            total, worst_case = Replay(), ""
            chosen = [case for case in cases if case.rule == name]
            for case in chosen:
                decays = tf_kernels.decays(case, mode)
                rule = sign_rule(case, None if own_decay else decays)
                found = replay(path, rule, case, decays, given, tf_kernels.run(case, decays, given))
                if found.deviation.worst > total.deviation.worst:
                    worst_case = f"worst at {case}"
                total |= found
            yield Outcome(
                name,
                KERNELS,
                f"{path} {mode}, {len(chosen)} cases",
                total.deviation,
                TOLERANCES[given.start.dtype.name],
                total.flushed,
                worst_case,
            )


def formula_checks() -> Iterator[Outcome]:
    """The NumPy formulas that stand in where TensorFlow flushes, against TensorFlow itself."""
    for mode, (dtype, cases) in MODES.items():
        given = inputs(dtype, per_pattern=4, seed=11)
        for name in RULES:
            total = NOTHING
            for case in (each for each in cases if each.rule == name):
                decays = tf_kernels.decays(case, mode)
                theirs = tf_kernels.run(case, decays, given)
                ours = sign_formulas.emulate(case, decays, given, flushing=True)
                total |= compare(ours.p, theirs.p, first=given.start)
                total |= compare(ours.m, theirs.m)
            tolerance = TOLERANCES[given.start.dtype.name]
            yield Outcome(name, KERNELS, f"NumPy formulas with flushing, {mode}", total, tolerance)


def unit_test_checks(path: str) -> Iterator[Outcome]:
    """TensorFlow's unit-test vectors: their printed digits, and the kernels on the same inputs."""
    for name in RULES:
        printed, live = NOTHING, NOTHING
        for case, expected in (each for each in UNIT_TESTS if each[0].rule == name):
            rule = sign_rule(case)
            for index, (start, gradient) in enumerate(
                zip(UNIT_TEST_START, UNIT_TEST_GRADIENTS, strict=True)
            ):
                gradients = np.stack([sign * gradient for sign in UNIT_TEST_SIGNS])
                ps, ms = run_sign(path, rule, start, gradients)
                if index == 0:
                    first = [float(p[0]) for p in ps]
                    off = np.max(np.abs(np.array(first) - np.array(expected)))
                    printed |= Deviation(float(off), len(expected))
                live |= _kernel_on(case, start, gradients, ps, ms)
        yield Outcome(name, "TensorFlow's unit tests", f"{path} printed digits", printed, 5.1e-11)
        yield Outcome(name, KERNELS, f"{path} on the unit tests' inputs", live, 4e-15)


def _kernel_on(
    case: SignCase, start: Any, gradients: Any, ps: Sequence[Any], ms: Sequence[Any]
) -> Deviation:
    """How far a run is from the kernel on the same float64 inputs."""
    decays = [
        1.0 if case.decay is None else sign_formulas.decay_value(case.decay, done)
        for done in range(len(gradients))
    ]
    theirs = tf_kernels.run(case, decays, Inputs(start, gradients, np.zeros(start.size, np.int64)))
    return compare(ps, theirs.p, first=start) | compare(ms, theirs.m)
