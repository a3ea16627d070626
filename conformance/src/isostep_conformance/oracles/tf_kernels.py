"""TensorFlow itself: its AddSign and PowerSign kernels and the decays built of its operations.

The only file that runs TensorFlow's sign kernels. A non-scalar decay aborts the process inside
TensorFlow (the kernel checks another argument's shape by mistake), so scalars are built here only.
"""

from __future__ import annotations

import math
import os

import ml_dtypes
import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from . import sign_formulas
from .sign_cases import STEPS, Decay, Inputs, SignCase
from .sign_formulas import Trajectory


def decay_value(decay: Decay, done: int) -> np.float32:
    """The decay after ``done`` steps by TensorFlow's operations, in float32 as in TensorFlow 1.x."""
    whole = int(decay.num_periods) if decay.num_periods == int(decay.num_periods) else None
    step = tf.minimum(tf.constant(done, tf.int64), tf.constant(decay.steps, tf.int64))
    total = tf.cast(decay.steps, tf.float32)
    if decay.kind == "linear":
        left = tf.cast(decay.steps, tf.int32) - tf.cast(step, tf.int32)
        return (tf.maximum(0.0, tf.cast(left, tf.float32) / total)).numpy()
    cut = decay.zero_after
    progress = tf.cast(step, tf.float32)
    if decay.kind == "cosine":
        phase = (2.0 * decay.num_periods) * (progress / total)
        over = cut is not None and bool(phase >= 2.0 * cut)
    else:
        phase = tf.math.floormod(decay.num_periods * progress, total) / total
        # TensorFlow multiplies in the step's own dtype here, so that only whole numbers work.
        travelled = (
            decay.num_periods * progress if whole is None else tf.cast(whole * step, tf.float32)
        )
        over = cut is not None and bool(travelled / total >= cut)
    value = 0.5 * (1.0 + tf.cos(tf.constant(math.pi, tf.float32) * phase))
    return np.float32(0) if over else value.numpy()


def decays(case: SignCase, mode: str) -> list[float]:
    """The decays that a case's kernel is given: TensorFlow's own, but float64 ones in float64.

    The modes are those of ``golden``. Sixteen-bit modes get decays that their dtype holds exactly.
    """
    if case.decay is None:
        return [1.0] * STEPS
    if mode == "float64":
        return [sign_formulas.decay_value(case.decay, done) for done in range(STEPS)]
    values = [decay_value(case.decay, done) for done in range(STEPS)]
    if mode in ("bfloat16", "float16"):
        kind = ml_dtypes.bfloat16 if mode == "bfloat16" else np.float16
        return [float(kind(value)) for value in values]
    return [float(value) for value in values]


def run(case: SignCase, decays: list[float], inputs: Inputs) -> Trajectory:
    """The trajectory by TensorFlow's kernel, in the dtype of ``inputs``."""
    p = tf.Variable(inputs.start)
    m = tf.Variable(np.zeros_like(inputs.start))
    kind = inputs.start.dtype.type
    ps, ms = [], []
    for gradient, decay in zip(inputs.gradients, decays, strict=True):
        step(case, kind(decay), p, m, gradient)
        ps.append(p.numpy())
        ms.append(m.numpy())
    return Trajectory(tuple(ps), tuple(ms))


def step(
    case: SignCase, decay: np.generic, p: tf.Variable, m: tf.Variable, gradient: np.ndarray
) -> None:
    """One step of TensorFlow's kernel, in place."""
    kind = gradient.dtype.type
    common = {
        "var": p.handle,
        "m": m.handle,
        # Not tf.cast(0.1, ...): that goes through float32.
        "lr": tf.constant(kind(case.lr)),
        "sign_decay": tf.constant(decay),
        "beta": tf.constant(kind(case.beta)),
        "grad": tf.constant(gradient),
    }
    if case.rule == "addsign":
        tf.raw_ops.ResourceApplyAddSign(alpha=tf.constant(kind(case.strength)), **common)
    else:
        log_base = tf.constant(kind(math.log(case.strength)))
        tf.raw_ops.ResourceApplyPowerSign(logbase=log_base, **common)
