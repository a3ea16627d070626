"""Keras's optimizers and TensorFlow's training kernels, run on a problem in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .problems import Problem, Record


def run(
    make: Callable[..., Any], problem: Problem, states: Mapping[str, str] | None = None
) -> Record:
    """The record of a Keras optimizer; ``states`` maps isostep's names to Keras's attributes."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")  # the learning rate and the constants follow it
    try:
        variables = [keras.Variable(p, dtype="float64") for p in problem.start]
        optimizer = make(learning_rate=1.0)
        optimizer.build(variables)
        record = Record()
        for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
            optimizer.learning_rate.assign(lr)
            optimizer.apply([tf.constant(g, tf.float64) for g in gradients], variables)
            kept = {
                ours: [np.array(value) for value in getattr(optimizer, theirs)]
                for ours, theirs in (states or {}).items()
            }
            record.add([np.array(v) for v in variables], kept)
        return record
    finally:
        keras.config.set_floatx(before)


def run_kernel(
    op: str,
    problem: Problem,
    slots: Mapping[str, tuple[str, float]],
    scalars: Callable[[int, float], Mapping[str, Any]],
    hidden: Mapping[str, float] | None = None,
) -> Record:
    """The record of one of TensorFlow's raw training operations.

    ``slots`` maps isostep's names of the state to the operation's and their first value, ``hidden``
    are the operation's slots that isostep lacks, and ``scalars`` gives its other inputs at step t
    and learning rate.
    """
    apply = getattr(tf.raw_ops, op)
    first = {**{theirs: value for theirs, value in slots.values()}, **(hidden or {})}
    variables = [tf.Variable(p, dtype=tf.float64) for p in problem.start]
    slot = [
        {n: tf.Variable(np.full(p.shape, value), dtype=tf.float64) for n, value in first.items()}
        for p in problem.start
    ]
    record = Record()
    for t, (gradients, lr) in enumerate(zip(problem.gradients, problem.lrs, strict=True), 1):
        for variable, own, g in zip(variables, slot, gradients, strict=True):
            given = {
                n: tf.constant(x, tf.float64) if isinstance(x, float) else x
                for n, x in scalars(t, lr).items()
            }
            handles = {n: v.handle for n, v in own.items()}
            apply(var=variable.handle, **handles, **given, grad=tf.constant(g, tf.float64))
        kept = {ours: [own[theirs].numpy() for own in slot] for ours, (theirs, _) in slots.items()}
        record.add([v.numpy() for v in variables], kept)
    return record
