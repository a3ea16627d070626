"""More rules against optax with 64-bit floats."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import optax
import optax.contrib

import isostep

from . import optax_rules
from .check import Check
from .check_torch_more import words
from .problems import MIXED_SHAPES, mild, wild

B1, B2 = BETAS = (0.85, 0.96)
EPS = 1e-3
MOMENTS = {"exp_avg": "mu", "exp_avg_sq": "nu"}
ADAM = {"b1": B1, "b2": B2, "eps": EPS}
OURS = {"betas": BETAS, "eps": EPS}

#: rule, optax's name, isostep's settings, optax's constructor with its own, the states that both have
Row = tuple[str, str, dict[str, Any], Any, dict[str, str]]

TORCH_RULES: tuple[Row, ...] = (
    *(
        (
            "adadelta",
            "adadelta",
            {"rho": 0.8, "eps": EPS, "weight_decay": decay},
            partial(optax.adadelta, rho=0.8, eps=EPS, weight_decay=decay),
            {"square_avg": "e_g", "acc_delta": "e_x"},
        )
        for decay in (0.0, 0.1)
    ),
    *(
        (
            "adagrad",
            "adagrad",
            {"eps": EPS, "initial_accumulator_value": start, "dialect": "optax"},
            partial(optax.adagrad, eps=EPS, initial_accumulator_value=start),
            {"sum": "sum_of_squares"},
        )
        for start in (0.0, 0.3)
    ),
    ("adamax", "adamax", OURS, partial(optax.adamax, **ADAM), {"exp_avg": "mu", "exp_inf": "nu"}),
    ("nadam", "nadam", {**OURS, "dialect": "optax"}, partial(optax.nadam, **ADAM), MOMENTS),
    (
        "nadam",
        "nadamw",
        {**OURS, "dialect": "optax", "weight_decay": 0.3, "decoupled_weight_decay": True},
        partial(optax.nadamw, **ADAM, weight_decay=0.3),
        MOMENTS,
    ),
    *(
        (
            "radam",
            "radam",
            {"betas": (0.85, b2), "eps": EPS, "dialect": dialect},
            partial(optax.radam, b1=0.85, b2=b2, eps=EPS, threshold=bound),
            MOMENTS,
        )
        for dialect, bound in (("optax", 5.0), ("paper", 4.0))
        for b2 in (0.96, 0.999)
    ),
    *(
        (
            "rmsprop",
            "rmsprop",
            {"alpha": 0.9, "eps": EPS, "centered": centered, "momentum": momentum, "dialect": name},
            partial(
                optax.rmsprop,
                decay=0.9,
                eps=EPS,
                initial_scale=float(name == "tf1"),
                centered=centered,
                momentum=momentum or None,
            ),
            {
                "square_avg": "nu",
                **({"grad_avg": "mu"} if centered else {}),
                **({"momentum_buffer": "trace"} if momentum else {}),
            },
        )
        for name in ("optax", "tf1")
        for centered in (False, True)
        for momentum in (0.0, 0.85)
    ),
)

OTHER_RULES: tuple[Row, ...] = (
    *(
        (
            "lion",
            "lion",
            {"betas": BETAS, "weight_decay": decay},
            partial(optax.lion, b1=B1, b2=B2, weight_decay=decay),
            {"exp_avg": "mu"},
        )
        for decay in (0.0, 0.3)
    ),
    ("signsgd", "sign_sgd", {}, optax.sign_sgd, {}),
    ("signum", "signum", {"momentum": 0.85}, partial(optax.signum, beta=0.85), {}),
    *(
        (
            "lars",
            "lars",
            {
                "momentum": momentum,
                "nesterov": nesterov,
                "weight_decay": decay,
                "trust_coefficient": 0.1,
                "eps": EPS,
                "dialect": "optax",
            },
            partial(
                optax.lars,
                weight_decay=decay,
                trust_coefficient=0.1,
                eps=EPS,
                momentum=momentum,
                nesterov=nesterov,
            ),
            {},
        )
        for momentum, nesterov, decay in (
            (0.0, False, 0.1),
            (0.85, False, 0.0),
            (0.85, True, 0.1),
        )
    ),
    (
        "adabelief",
        "adabelief",
        OURS,
        partial(optax.adabelief, **ADAM, eps_root=EPS),
        {"exp_avg": "mu", "exp_avg_var": "nu"},
    ),
    ("yogi", "yogi", {**OURS, "initial_accumulator": 1e-6}, partial(optax.yogi, **ADAM), MOMENTS),
    (
        "adopt",
        "contrib.adopt",
        {**OURS, "clip_exp": 0.25},
        partial(optax.contrib.adopt, **ADAM),
        MOMENTS,
    ),
    *(
        (
            "ademamix",
            "contrib.ademamix",
            {"betas": (B1, B2, 0.99), "alpha": 3.0, "eps": EPS, "weight_decay": decay},
            partial(optax.contrib.ademamix, **ADAM, b3=0.99, alpha=3.0, weight_decay=decay),
            {"exp_avg_fast": "m1", "exp_avg_slow": "m2", "exp_avg_sq": "nu"},
        )
        for decay in (0.0, 0.1)
    ),
    ("fromage", "fromage", {}, optax.fromage, {}),
    *(
        (
            "prodigy",
            "contrib.prodigy",
            {**OURS, "d0": 0.01, "use_bias_correction": True, "weight_decay": decay},
            partial(
                optax.contrib.prodigy,
                betas=BETAS,
                eps=EPS,
                estim_lr0=0.01,
                weight_decay=decay,
            ),
            {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "s": "grad_sum"},
        )
        for decay in (0.0, 0.1)
    ),
)


def checks() -> Iterator[Check]:
    """All of them."""
    for name, theirs, settings, make, states in (*TORCH_RULES, *OTHER_RULES):
        if name == "rmsprop" and settings["momentum"]:
            # optax's buffer has the sign of the update.
            states = {o: s for o, s in states.items() if s != "trace"}
        yield Check(
            isostep.rule(name, **settings),
            f"optax.{theirs}",
            words(settings),
            mild(MIXED_SHAPES, lr=0.7) if name == "prodigy" else wild(MIXED_SHAPES),
            partial(optax_rules.run, make, states=states),
            tuple(states),
        )
