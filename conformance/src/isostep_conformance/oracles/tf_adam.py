"""TensorFlow's Adam kernels and Keras's Adam classes, for the ``keras`` dialect."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

import isostep

from .drive import run
from .outcome import Outcome
from .problems import MIXED_SHAPES, Problem, Record, deviation, wild

BETAS = (0.875, 0.96875)
"""Exact in float32: on TensorFlow, Keras casts its betas and decay through float32 (4e-7 off)."""
EPS = 1e-3
TOLERANCE = 1e-12


def kernel_run(problem: Problem, *, amsgrad: bool) -> Record:
    """ResourceApplyAdam or ResourceApplyAdamWithAmsgrad in float64."""
    p = [tf.Variable(value) for value in problem.start]
    m, v, top = ([tf.Variable(np.zeros_like(x)) for x in problem.start] for _ in range(3))
    b1, b2 = BETAS
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), start=1):
        scalars = {
            "beta1_power": b1**t,
            "beta2_power": b2**t,
            "lr": lr,
            "beta1": b1,
            "beta2": b2,
            "epsilon": EPS,
        }
        numbers = {name: tf.constant(np.float64(value)) for name, value in scalars.items()}
        for i, gradient in enumerate(gradients):
            common = {
                "var": p[i].handle,
                "m": m[i].handle,
                "v": v[i].handle,
                "grad": tf.constant(gradient),
                **numbers,
            }
            if amsgrad:
                tf.raw_ops.ResourceApplyAdamWithAmsgrad(vhat=top[i].handle, **common)
            else:
                tf.raw_ops.ResourceApplyAdam(**common)
        record.add(
            [x.numpy() for x in p],
            {
                "exp_avg": [x.numpy() for x in m],
                "exp_avg_sq": [x.numpy() for x in v],
                "max_exp_avg_sq": [x.numpy() for x in top],
            },
        )
    return record


def keras_run(problem: Problem, kind: str, **settings: Any) -> Record:
    """keras.optimizers.Adam or AdamW in float64, state included."""
    keras = importlib.import_module("keras")
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        p = [keras.Variable(value, dtype="float64") for value in problem.start]
        optimizer = getattr(keras.optimizers, kind)(
            learning_rate=problem.lrs[0], beta_1=BETAS[0], beta_2=BETAS[1], epsilon=EPS, **settings
        )
        optimizer.build(p)
        record = Record()
        for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
            optimizer.learning_rate = lr
            optimizer.apply([tf.constant(g) for g in gradients], p)
            state = {
                "exp_avg": [x.numpy() for x in optimizer._momentums],
                "exp_avg_sq": [x.numpy() for x in optimizer._velocities],
            }
            if settings.get("amsgrad"):
                state["max_exp_avg_sq"] = [x.numpy() for x in optimizer._velocity_hats]
            record.add([x.numpy() for x in p], state)
        return record
    finally:
        keras.config.set_floatx(before)


def checks(path: str) -> Iterator[Outcome]:
    """The keras dialect of adam and adamw on one path."""
    problem = wild(MIXED_SHAPES)
    settings = {"betas": BETAS, "eps": EPS, "dialect": "keras"}
    moments = ("exp_avg", "exp_avg_sq")
    for amsgrad in (False, True):
        rule = isostep.rule("adam", **settings, amsgrad=amsgrad)
        ours = run(path, rule, problem)
        op = "ResourceApplyAdamWithAmsgrad" if amsgrad else "ResourceApplyAdam"
        kept = (*moments, "max_exp_avg_sq") if amsgrad else moments
        found = deviation(ours, kernel_run(problem, amsgrad=amsgrad), problem, kept)
        yield Outcome("adam", f"tf.raw_ops.{op}", "keras dialect", found, TOLERANCE)
    for name, kind, weight_decay, amsgrad in (
        ("adam", "Adam", 0.0, False),
        ("adam", "Adam", 0.0, True),
        ("adam", "Adam", 0.125, False),
        ("adamw", "AdamW", 0.125, False),
        ("adamw", "AdamW", 0.125, True),
    ):
        rule = isostep.rule(name, **settings, amsgrad=amsgrad, weight_decay=weight_decay)
        theirs = keras_run(problem, kind, amsgrad=amsgrad, weight_decay=weight_decay or None)
        kept = (*moments, "max_exp_avg_sq") if amsgrad else moments
        found = deviation(run(path, rule, problem), theirs, problem, kept)
        setting = f"keras dialect, decay {weight_decay:g}{', amsgrad' if amsgrad else ''}"
        yield Outcome(name, f"keras.optimizers.{kind}", setting, found, TOLERANCE)
