"""Rules against Keras and TensorFlow's raw training operations, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import keras

import isostep

from . import keras_rules
from .check import TOLERANCE, Check
from .problems import MIXED_SHAPES, mild, wild

#: Keras turns Python numbers into float32 on their way to float64, so all of them are dyadic here.
B1, B2 = BETAS = (0.875, 0.96875)
EPS = 2.0**-10
NADAM = 1e-6
ADAM = {"betas": BETAS, "eps": EPS}
KERAS_ADAM = {"beta_1": B1, "beta_2": B2, "epsilon": EPS}
MOMENTS = {"exp_avg": "_momentums", "exp_avg_sq": "_velocities"}

#: rule, its settings, Keras's class and settings, isostep's and Keras's names of the state
KERAS: tuple[tuple[str, dict[str, Any], str, dict[str, Any], dict[str, str]], ...] = (
    (
        "adadelta",
        {"rho": 0.8125, "eps": EPS},
        "Adadelta",
        {"rho": 0.8125, "epsilon": EPS},
        {"square_avg": "_accumulated_grads", "acc_delta": "_accumulated_delta_vars"},
    ),
    *(
        (
            "adagrad",
            {
                "eps": EPS,
                "initial_accumulator_value": 0.25,
                "weight_decay": decay,
                "dialect": "keras",
            },
            "Adagrad",
            {"epsilon": EPS, "initial_accumulator_value": 0.25, "weight_decay": decay or None},
            {"sum": "_accumulators"},
        )
        for decay in (0.0, 0.125)
    ),
    *(
        (
            "adamax",
            {**ADAM, "weight_decay": decay, "dialect": "keras"},
            "Adamax",
            {**KERAS_ADAM, "weight_decay": decay or None},
            {"exp_avg": "_m", "exp_inf": "_u"},
        )
        for decay in (0.0, 0.125)
    ),
    *(
        (
            "nadam",
            {**ADAM, "weight_decay": decay, "dialect": "keras"},
            "Nadam",
            {**KERAS_ADAM, "weight_decay": decay or None},
            MOMENTS,
        )
        for decay in (0.0, 0.125)
    ),
    *(
        (
            "rmsprop",
            {
                "alpha": 0.875,
                "eps": EPS,
                "momentum": momentum,
                "centered": centered,
                "weight_decay": decay,
                "dialect": "keras",
            },
            "RMSprop",
            {
                "rho": 0.875,
                "epsilon": EPS,
                "momentum": momentum,
                "centered": centered,
                "weight_decay": decay or None,
            },
            {
                "square_avg": "_velocities",
                **({"momentum_buffer": "_momentums"} if momentum else {}),
                **({"grad_avg": "_average_gradients"} if centered else {}),
            },
        )
        for momentum, centered, decay in (
            (0.0, False, 0.0),
            (0.875, False, 0.125),
            (0.0, True, 0.0),
            (0.875, True, 0.125),
        )
    ),
)

FTRL_SLOTS = {"accumulator": "_accumulators", "linear": "_linears"}
FTRL = {
    "learning_rate_power": -0.4375,
    "initial_accumulator_value": 0.25,
    "l1_regularization_strength": 0.0625,
    "l2_regularization_strength": 0.125,
    "l2_shrinkage_regularization_strength": 0.1875,
}


def checks() -> Iterator[Check]:
    """All of them."""
    for name, settings, kind, theirs, states in KERAS:
        words = ", ".join(f"{n}={x}" for n, x in settings.items() if n not in ADAM)
        yield Check(
            isostep.rule(name, **settings),
            f"keras.optimizers.{kind}",
            words,
            wild(MIXED_SHAPES),
            partial(
                keras_rules.run, partial(getattr(keras.optimizers, kind), **theirs), states=states
            ),
            tuple(states),
            tolerance=NADAM if kind == "Nadam" else TOLERANCE,
            note="Keras takes 0.96 in float32" if kind == "Nadam" else "",
        )
    yield Check(
        isostep.rule("ftrl", **FTRL, beta=0.25),
        "keras.optimizers.Ftrl",
        "all penalties",
        mild(MIXED_SHAPES),
        partial(
            keras_rules.run, partial(keras.optimizers.Ftrl, **FTRL, beta=0.25), states=FTRL_SLOTS
        ),
        tuple(FTRL_SLOTS),
    )
    yield from kernels()


def kernels() -> Iterator[Check]:
    """TensorFlow 1's rules: its raw operations."""

    def check(
        name: str,
        op: str,
        settings: dict[str, Any],
        slots: Any,
        scalars: Any,
        problem: Any = wild,
        **rest: Any,
    ) -> Check:
        run = partial(keras_rules.run_kernel, op, slots=slots, scalars=scalars, **rest)
        words = ", ".join(f"{n}={x}" for n, x in settings.items() if n not in ADAM)
        made = problem(MIXED_SHAPES)
        return Check(
            isostep.rule(name, **settings), f"tf.raw_ops.{op}", words, made, run, tuple(slots)
        )

    yield check(
        "nadam",
        "ResourceApplyAdam",
        {**ADAM, "dialect": "tf1"},
        {"exp_avg": ("m", 0.0), "exp_avg_sq": ("v", 0.0)},
        lambda t, lr: {
            "beta1_power": B1**t,
            "beta2_power": B2**t,
            "lr": lr,
            "beta1": B1,
            "beta2": B2,
            "epsilon": EPS,
            "use_nesterov": True,
        },
    )
    yield check(
        "adamax",
        "ResourceApplyAdaMax",
        {**ADAM, "dialect": "keras"},
        {"exp_avg": ("m", 0.0), "exp_inf": ("v", 0.0)},
        lambda t, lr: {
            "beta1_power": B1**t,
            "lr": lr,
            "beta1": B1,
            "beta2": B2,
            "epsilon": EPS,
        },
    )
    yield check(
        "adadelta",
        "ResourceApplyAdadelta",
        {"rho": 0.8125, "eps": EPS},
        {"square_avg": ("accum", 0.0), "acc_delta": ("accum_update", 0.0)},
        lambda t, lr: {"lr": lr, "rho": 0.8125, "epsilon": EPS},
    )
    yield check(
        "adagrad",
        "ResourceApplyAdagradV2",
        {"eps": EPS, "initial_accumulator_value": 0.25},
        {"sum": ("accum", 0.25)},
        lambda t, lr: {"lr": lr, "epsilon": EPS},
    )
    for shrinkage in (0.0, 0.1875):
        ftrl = {**FTRL, "l2_shrinkage_regularization_strength": shrinkage}
        yield check(
            "ftrl",
            "ResourceApplyFtrlV2",
            ftrl,
            {"accumulator": ("accum", 0.25), "linear": ("linear", 0.0)},
            _ftrl_scalars(shrinkage),
            problem=mild,
        )
    for momentum in (0.0, 0.875):
        buffer = {"momentum_buffer": ("mom", 0.0)} if momentum else {}
        hidden = {} if momentum else {"mom": 0.0}
        settings = {"alpha": 0.875, "eps": EPS, "momentum": momentum, "dialect": "tf1"}
        scalars = _rms_scalars(momentum)
        yield check(
            "rmsprop",
            "ResourceApplyRMSProp",
            settings,
            {"square_avg": ("ms", 1.0), **buffer},
            scalars,
            hidden=hidden,
        )
        yield check(
            "rmsprop",
            "ResourceApplyCenteredRMSProp",
            {**settings, "centered": True},
            {"square_avg": ("ms", 1.0), **buffer, "grad_avg": ("mg", 0.0)},
            scalars,
            hidden=hidden,
        )


def _ftrl_scalars(shrinkage: float) -> Any:
    return lambda t, lr: {
        "lr": lr,
        "l1": 0.0625,
        "l2": 0.125,
        "l2_shrinkage": shrinkage,
        "lr_power": -0.4375,
    }


def _rms_scalars(momentum: float) -> Any:
    return lambda t, lr: {"lr": lr, "rho": 0.875, "momentum": momentum, "epsilon": EPS}
