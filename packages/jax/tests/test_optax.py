"""Thirty float64 steps against optax, rule by rule; what is not in the registry is skipped by name.

No oracle here: optax.rprop (0.2.8) applies each update one step late, and optax.adan (0.2.8) takes 1 - b2 for b2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isostep
import isostep_jax

pytestmark = pytest.mark.whole  # not for want of a package: minutes of work, and once is enough

LR, B1, B2, EPS, DECAY = 0.037, 0.83, 0.957, 2.3e-3, 0.17
MOMENTS = {"lr": LR, "betas": (B1, B2), "eps": EPS}
THEIRS = {"learning_rate": LR, "b1": B1, "b2": B2, "eps": EPS}
RMS = {"lr": LR, "alpha": 0.91, "eps": EPS, "momentum": 0.6}
RMS_THEIRS = {"learning_rate": LR, "decay": 0.91, "eps": EPS, "momentum": 0.6}

#: name of the comparison: (rule, its hyperparameters, optax's function, its arguments)
TABLE = {
    "sgd": ("sgd", {"lr": LR}, "sgd", {"learning_rate": LR}),
    "momentum": ("sgd", {"lr": LR, "momentum": 0.7}, "sgd", {"learning_rate": LR, "momentum": 0.7}),
    "nesterov": (
        "sgd",
        {"lr": LR, "momentum": 0.7, "nesterov": True},
        "sgd",
        {"learning_rate": LR, "momentum": 0.7, "nesterov": True},
    ),
    "adam": ("adam", {**MOMENTS, "dialect": "optax"}, "adam", THEIRS),
    "adamw": (
        "adamw",
        {**MOMENTS, "weight_decay": DECAY},
        "adamw",
        {**THEIRS, "weight_decay": DECAY},
    ),
    "lamb": ("lamb", {**MOMENTS, "weight_decay": DECAY}, "lamb", {**THEIRS, "weight_decay": DECAY}),
    "nadam": ("nadam", {**MOMENTS, "dialect": "optax"}, "nadam", THEIRS),
    "radam": ("radam", {**MOMENTS, "dialect": "optax"}, "radam", THEIRS),
    "lion": (
        "lion",
        {"lr": LR, "betas": (B1, B2), "weight_decay": DECAY},
        "lion",
        {"learning_rate": LR, "b1": B1, "b2": B2, "weight_decay": DECAY},
    ),
    "lars": (
        "lars",
        {
            "lr": LR,
            "momentum": 0.7,
            "weight_decay": DECAY,
            "trust_coefficient": 0.3,
            "eps": EPS,
            "dialect": "optax",
        },
        "lars",
        {
            "learning_rate": LR,
            "momentum": 0.7,
            "weight_decay": DECAY,
            "trust_coefficient": 0.3,
            "eps": EPS,
        },
    ),
    "adabelief": ("adabelief", MOMENTS, "adabelief", {**THEIRS, "eps_root": EPS}),
    "adagrad": (
        "adagrad",
        {"lr": LR, "eps": EPS, "initial_accumulator_value": 0.2, "dialect": "optax"},
        "adagrad",
        {"learning_rate": LR, "eps": EPS, "initial_accumulator_value": 0.2},
    ),
    "adadelta": (
        "adadelta",
        {"lr": LR, "rho": 0.87, "eps": EPS, "weight_decay": DECAY},
        "adadelta",
        {"learning_rate": LR, "rho": 0.87, "eps": EPS, "weight_decay": DECAY},
    ),
    "adamax": ("adamax", MOMENTS, "adamax", THEIRS),
    "rmsprop, eps in the root": ("rmsprop", {**RMS, "dialect": "optax"}, "rmsprop", RMS_THEIRS),
    "rmsprop, eps beside it": ("rmsprop", RMS, "rmsprop", {**RMS_THEIRS, "eps_in_sqrt": False}),
    "rmsprop, centered": (
        "rmsprop",
        {**RMS, "centered": True, "dialect": "optax"},
        "rmsprop",
        {**RMS_THEIRS, "centered": True},
    ),
    "yogi": ("yogi", MOMENTS, "yogi", THEIRS),
    "novograd": (
        "novograd",
        {**MOMENTS, "weight_decay": DECAY},
        "novograd",
        {**THEIRS, "weight_decay": DECAY},
    ),
}

SHAPES = {"a": (5, 3), "b": (7,), "c": ()}


def gradient(k):
    rng = np.random.default_rng(100 + k)
    return {n: jnp.asarray(rng.standard_normal(s) * 10.0 ** (k % 5 - 2)) for n, s in SHAPES.items()}


def thirty(tx, params):
    state, update = tx.init(params), jax.jit(tx.update)
    for k in range(30):
        updates, state = update(gradient(k), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("name", TABLE)
def test_thirty_steps_as_optax(name):
    rule, ours, function, theirs = TABLE[name]
    if rule not in isostep.rules():
        pytest.skip(f"{rule} is not in the registry yet")
    with jax.enable_x64(True):
        params = gradient(-1)
        found = thirty(getattr(isostep_jax, rule)(**ours), params)
        wanted = thirty(getattr(optax, function)(**theirs), params)
        for n in SHAPES:
            np.testing.assert_allclose(found[n], wanted[n], rtol=1e-12, atol=1e-12)


def test_optax_rprop_is_no_oracle():
    grads = {"a": jnp.array([1.0, -2.0])}
    tx = optax.rprop(0.1)
    updates, _ = tx.update(grads, tx.init(grads), grads)
    assert not np.any(updates["a"])  # the paper's first step is lr against the gradient's sign
