"""TensorFlow's AddSign, PowerSign and sign decays in NumPy, written from the published formulas.

Sources: tensorflow/contrib/opt/python/training/{sign_decay,addsign,powersign}.py of TensorFlow 1.x
and core/kernels/training_ops.cc. This is a second opinion next to TensorFlow itself: it says which
entries TensorFlow's flushing of denormals has touched, and what they would have been without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .outcome import Array
from .sign_cases import Decay, Inputs, SignCase


def decay_value(decay: Decay, done: int) -> float:
    """The decay after ``done`` steps, in TensorFlow's order of operations but in float64."""
    step, total = min(done, decay.steps), decay.steps
    if decay.kind == "linear":
        return max(0.0, (total - step) / total)
    cut = decay.zero_after
    if decay.kind == "cosine":
        phase = 2.0 * decay.num_periods * (step / total)
        if cut is not None and phase >= 2.0 * cut:
            return 0.0
    else:
        phase = (decay.num_periods * step) % total / total
        if cut is not None and decay.num_periods * step / total >= cut:
            return 0.0
    return 0.5 * (1.0 + math.cos(math.pi * phase))


def decay_value_float32(decay: Decay, done: int) -> np.float32:
    """The same rounded to float32 after every operation, as TensorFlow 1.x computed it."""
    real = np.float32
    step, total = min(done, decay.steps), real(decay.steps)
    if decay.kind == "linear":
        return max(real(0), real(decay.steps - step) / total)
    cut = decay.zero_after
    if decay.kind == "cosine":
        phase = real(2.0 * decay.num_periods) * (real(step) / total)
        if cut is not None and phase >= real(2.0 * cut):
            return real(0)
    else:
        travelled = real(decay.num_periods * step)
        phase = np.mod(travelled, total) / total
        if cut is not None and travelled / total >= real(cut):
            return real(0)
    return real(0.5) * (real(1) + np.cos(real(math.pi) * phase))


@dataclass(frozen=True)
class Trajectory:
    """The parameter and the momentum after each step."""

    p: tuple[Array, ...]
    m: tuple[Array, ...]


def flush(value: Array) -> Array:
    """Subnormal entries replaced by a zero of the same sign."""
    with np.errstate(all="ignore"):
        smallest = np.asarray(ml_dtypes.finfo(value.dtype).smallest_normal, np.float64)
        small = np.abs(value.astype(np.float64)) < smallest
        return np.where(small, np.copysign(np.zeros_like(value), value), value)


def sign_step(
    case: SignCase, decay: float, p: Array, g: Array, m: Array, *, flushing: bool
) -> tuple[Array, Array]:
    """One step in TensorFlow's order, every operation rounded to the arrays' dtype.

    ``flushing`` treats subnormal inputs and results as zero. TensorFlow's CPU kernels do so in
    float32, float64 and bfloat16; float16 is computed from float32, where its subnormals are
    ordinary numbers.
    """
    kind = p.dtype.type
    clean = flush if flushing and p.dtype.name != "float16" else lambda value: value
    lr, beta, done = kind(case.lr), kind(case.beta), kind(decay)
    with np.errstate(all="ignore"):
        p, g, m = clean(p), clean(g), clean(m)
        m = clean(clean(m * beta) + clean(g * (kind(1) - beta)))
        signs = np.sign(g) * np.sign(m)
        if case.rule == "addsign":
            factor = kind(case.strength) + done * signs
        else:
            factor = np.exp((kind(math.log(case.strength)) * done) * signs)
        return clean(p - clean(clean(lr * factor) * g)), m


def emulate(case: SignCase, decays: list[float], inputs: Inputs, *, flushing: bool) -> Trajectory:
    """A whole trajectory of ``sign_step``."""
    p, m = inputs.start, np.zeros_like(inputs.start)
    ps, ms = [], []
    for gradient, decay in zip(inputs.gradients, decays, strict=True):
        p, m = sign_step(case, decay, p, gradient, m, flushing=flushing)
        ps.append(p)
        ms.append(m)
    return Trajectory(tuple(ps), tuple(ms))


def touched(flushed: Trajectory, kept: Trajectory) -> NDArray[np.bool_]:
    """Entries (steps first) that flushing has changed, in the parameter or in the momentum.

    A changed momentum may change the parameter in any later step, so an entry stays touched.
    """
    with np.errstate(invalid="ignore"):
        changed = np.stack(
            [
                (np.asarray(p, np.float64) != np.asarray(q, np.float64))
                | (np.asarray(m, np.float64) != np.asarray(n, np.float64))
                for p, q, m, n in zip(flushed.p, kept.p, flushed.m, kept.m, strict=True)
            ]
        )
    return np.maximum.accumulate(changed, axis=0)


UNIT_TEST_START = (np.array([1.0, 2.0]), np.array([3.0, 4.0]))
UNIT_TEST_GRADIENTS = (np.array([0.1, 0.1]), np.array([0.01, 0.01]))
UNIT_TEST_SIGNS = (1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0)
UNIT_TESTS: tuple[tuple[SignCase, tuple[float, ...]], ...] = (
    (SignCase("addsign", 0.1, 0.9, 1.0), (0.98, 0.96, 0.94, 0.92, 0.92, 0.92, 0.94)),
    (
        SignCase("addsign", 0.01, 0.8, 0.1),
        (0.9989, 0.9978, 0.9967, 0.9956, 0.9947, 0.9938, 0.9949),
    ),
    (
        SignCase("addsign", 0.1, 0.9, 1.0, Decay("linear", 10)),
        (0.98, 0.961, 0.943, 0.926, 0.93, 0.935, 0.949),
    ),
    (
        SignCase("powersign", 0.1, 0.9, math.e),
        (
            0.9728171817,
            0.9456343634,
            0.9184515451,
            0.8912687269,
            0.8949475213,
            0.8986263157,
            0.9258091340,
        ),
    ),
    (SignCase("powersign", 0.1, 0.8, 10.0), (0.9, 0.8, 0.7, 0.6, 0.601, 0.602, 0.702)),
    (SignCase("powersign", 0.01, 0.8, 2.0), (0.998, 0.996, 0.994, 0.992, 0.9925, 0.993, 0.995)),
    (
        SignCase("powersign", 0.1, 0.9, math.e, Decay("linear", 10)),
        (
            0.9728171817,
            0.9482211506,
            0.9259657413,
            0.9058282142,
            0.9113163306,
            0.9173816372,
            0.9322998842,
        ),
    ),
)
"""The settings of TensorFlow's own unit tests, and the first element of the first variable.

``addsign_test.py`` and ``powersign_test.py``: variables [1, 2] and [3, 4], gradients 0.1 and 0.01,
four steps along the gradient and three against it.
"""
