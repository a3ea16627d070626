"""The rules of torch.optim that optax has too, in its dialects, and Prodigy, with 64-bit floats."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import optax
import optax.contrib

import isostep

from . import optax_rules
from .check import Check, words
from .problems import MIXED_SHAPES, Problem, mild, wild

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
    (
        "adamax",
        "adamaxw",
        {**OURS, "weight_decay": 0.3, "decoupled_weight_decay": True},
        partial(optax.adamaxw, **ADAM, weight_decay=0.3),
        {"exp_avg": "mu", "exp_inf": "nu"},
    ),
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
            {
                "alpha": 0.9,
                "eps": EPS,
                "centered": centered,
                "momentum": momentum,
                "dialect": dialect,
            },
            partial(
                optax.rmsprop,
                decay=0.9,
                eps=EPS,
                initial_scale=first,
                centered=centered,
                momentum=momentum or None,
            ),
            {
                "square_avg": "nu",
                **({"grad_avg": "mu"} if centered else {}),
            },
        )
        for dialect, first in (("optax", 0.0), ("tf1", 1.0))
        for centered in (False, True)
        for momentum in (0.0, 0.85)
    ),
)


#: Prodigy and D-Adapt Adam want a learning rate near one.
ESTIMATES: tuple[Row, ...] = tuple(
    (
        name,
        f"contrib.{theirs.__name__}",
        {**OURS, "d0": 0.01, "use_bias_correction": True, "weight_decay": decay, **more},
        partial(theirs, betas=BETAS, eps=EPS, estim_lr0=0.01, weight_decay=decay),
        {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "s": "grad_sum"},
    )
    for name, theirs, more in (
        ("prodigy", optax.contrib.prodigy, {}),
        ("dadapt_adam", optax.contrib.dadapt_adamw, {"decouple": True}),
    )
    for decay in (0.0, 0.1)
)


def rows(table: tuple[Row, ...], problem: Problem | None = None) -> Iterator[Check]:
    """The checks of a table; gradients over ten decades unless a problem is given."""
    for name, theirs, settings, make, states in table:
        yield Check(
            isostep.rule(name, **settings),
            f"optax.{theirs}",
            words(settings),
            problem or wild(MIXED_SHAPES),
            partial(optax_rules.run, make, states=states),
            tuple(states),
        )


def checks() -> Iterator[Check]:
    """All of them."""
    yield from rows(TORCH_RULES)
    yield from rows(ESTIMATES, mild(MIXED_SHAPES, lr=0.7))
