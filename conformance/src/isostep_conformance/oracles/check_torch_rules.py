"""The rest of torch.optim: adadelta, adagrad, adamax, asgd, nadam, radam, rmsprop, rprop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import isostep

from . import torch_packages
from .check import Check, words
from .problems import MIXED_SHAPES, Problem, mild, wild

BETAS = (0.85, 0.96)
EPS = 1e-3
MOMENTS = ("exp_avg", "exp_avg_sq")

#: rule, torch's class, isostep's states (torch's names), settings that both take
TABLE: tuple[tuple[str, str, tuple[str, ...], dict[str, Any]], ...] = (
    *(
        ("adadelta", "Adadelta", ("square_avg", "acc_delta"), {"rho": 0.8, "eps": e, **s})
        for e, s in ((EPS, {}), (1e-6, {"weight_decay": 0.1}))
    ),
    ("adagrad", "Adagrad", ("sum",), {"eps": EPS, "lr_decay": 0.1}),
    (
        "adagrad",
        "Adagrad",
        ("sum",),
        {"eps": EPS, "initial_accumulator_value": 0.3, "weight_decay": 0.1},
    ),
    *(
        ("adamax", "Adamax", ("exp_avg", "exp_inf"), {"betas": BETAS, "eps": EPS, **s})
        for s in ({}, {"weight_decay": 0.1})
    ),
    *(
        ("nadam", "NAdam", MOMENTS, {"betas": BETAS, "eps": EPS, **s})
        for s in (
            {},
            {"momentum_decay": 0.3, "weight_decay": 0.1},
            {"momentum_decay": 0.3, "weight_decay": 0.1, "decoupled_weight_decay": True},
        )
    ),
    *(
        ("radam", "RAdam", MOMENTS, {"betas": b, "eps": EPS, **s})
        for b, s in (
            (BETAS, {}),
            ((0.85, 0.999), {"weight_decay": 0.1}),
            ((0.7, 0.99), {"weight_decay": 0.1, "decoupled_weight_decay": True}),
            ((0.7, 0.5), {}),
        )
    ),
    *(
        ("rmsprop", "RMSprop", states, {"alpha": 0.9, "eps": EPS, **s})
        for states, s in (
            (("square_avg",), {}),
            (("square_avg", "grad_avg"), {"centered": True, "weight_decay": 0.1}),
            (("square_avg", "momentum_buffer"), {"momentum": 0.85}),
            (
                ("square_avg", "momentum_buffer", "grad_avg"),
                {"momentum": 0.85, "centered": True, "weight_decay": 0.1},
            ),
        )
    ),
    ("rprop", "Rprop", ("prev", "step_size"), {}),
    ("rprop", "Rprop", ("prev", "step_size"), {"etas": (0.3, 1.9), "step_sizes": (0.01, 0.06)}),
)


def checks() -> Iterator[Check]:
    """All of them: torch's plain loops, with float64 as torch's default dtype."""
    for name, kind, states, settings in TABLE:
        make = partial(getattr(torch.optim, kind), lr=1.0, foreach=False, **settings)
        yield Check(
            isostep.rule(name, **settings),
            f"torch.optim.{kind}",
            words(settings),
            wild(MIXED_SHAPES),
            partial(torch_packages.run, make, states={s: s for s in states}),
            states,
        )
    yield from asgd()
    # Keras's NAdam is torch's with this decay; check_keras has Keras itself.
    make = partial(
        torch.optim.NAdam, lr=1.0, foreach=False, betas=BETAS, eps=EPS, momentum_decay=1.0
    )
    yield Check(
        isostep.rule("nadam", betas=BETAS, eps=EPS, dialect="keras"),
        "torch.optim.NAdam",
        "keras dialect: torch gets momentum_decay 1",
        wild(MIXED_SHAPES),
        partial(torch_packages.run, make, states={s: s for s in MOMENTS}),
        MOMENTS,
    )


def asgd() -> Iterator[Check]:
    """ASGD: torch takes a learning rate one step late, so it is told each of them early."""
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("average from the start", {"lambd": 0.2, "alpha": 0.6, "t0": 0.0}),
        ("average from t0", {"lambd": 0.2, "alpha": 0.6, "t0": 5.0, "weight_decay": 0.1}),
        ("torch's defaults", {}),
    )
    for title, settings in cases:
        make = partial(torch.optim.ASGD, lr=1.0, foreach=False, **settings)
        yield Check(
            isostep.rule("asgd", **settings),
            "torch.optim.ASGD",
            title,
            _first_rate_twice(mild(MIXED_SHAPES)),
            partial(torch_packages.run_ahead, make, states={"ax": "ax"}),
            ("ax",),
            note="torch is told the learning rate of the next step",
        )


def _first_rate_twice(problem: Problem) -> Problem:
    return replace(problem, lrs=(problem.lrs[0], *problem.lrs[:-1]))
