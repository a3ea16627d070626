"""Rules and pieces against torch.optim and torch.nn.utils."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

import isostep

from . import torch_optim
from .check import Check, words
from .problems import MIXED_SHAPES, Problem, mild, wild

BETAS = (0.85, 0.96)
MOMENTS = ("exp_avg", "exp_avg_sq")


def checks() -> Iterator[Check]:
    """All of them."""
    yield from sgd()
    yield from adam()
    yield from adafactor()
    yield from clipping()
    yield from weight_decay()


def _optimizer(kind: str, **settings: Any) -> Any:
    """Makes a torch optimizer of the plain loop, whose arithmetic is the documented one."""
    return partial(getattr(torch.optim, kind), lr=1.0, foreach=False, **settings)


def sgd() -> Iterator[Check]:
    """Every combination that torch.optim.SGD has."""
    for settings in (
        {},
        {"momentum": 0.85},
        {"momentum": 0.85, "dampening": 0.3},
        {"momentum": 0.85, "nesterov": True},
        {"momentum": 0.85, "dampening": 0.3, "weight_decay": 0.1},
        {"momentum": 0.85, "nesterov": True, "weight_decay": 0.1},
    ):
        states = ("momentum_buffer",) if "momentum" in settings else ()
        yield Check(
            isostep.rule("sgd", **settings),
            "torch.optim.SGD",
            words(settings) or "plain",
            wild(MIXED_SHAPES),
            partial(torch_optim.run, _optimizer("SGD", **settings), states=states),
            states,
        )


def adam() -> Iterator[Check]:
    """Adam and AdamW with a large eps, with and without amsgrad and decay."""
    problem = wild(MIXED_SHAPES)
    for name, kind, decay in (
        ("adam", "Adam", 0.0),
        ("adam", "Adam", 0.1),
        ("adamw", "AdamW", 0.0),
        ("adamw", "AdamW", 0.3),
    ):
        for amsgrad in (False, True):
            settings = {"betas": BETAS, "eps": 1e-3, "weight_decay": decay, "amsgrad": amsgrad}
            states = (*MOMENTS, "max_exp_avg_sq") if amsgrad else MOMENTS
            yield Check(
                isostep.rule(name, **settings, dialect="torch"),
                f"torch.optim.{kind}",
                f"torch dialect, decay {decay:g}{', amsgrad' if amsgrad else ''}",
                problem,
                partial(torch_optim.run, _optimizer(kind, **settings), states=states),
                states,
            )
    settings = {"betas": BETAS, "eps": 1e-3, "weight_decay": 0.3, "decoupled_weight_decay": True}
    yield Check(
        isostep.rule("adam", **settings, dialect="torch"),
        "torch.optim.Adam",
        "torch dialect, decay 0.3, decoupled",
        problem,
        partial(torch_optim.run, _optimizer("Adam", **settings), states=MOMENTS),
        MOMENTS,
    )
    # The paper's decay is not multiplied by lr: torch is given the quotient at every step.
    make = _optimizer("AdamW", betas=BETAS, eps=1e-3)
    yield Check(
        isostep.rule("adamw", betas=BETAS, eps=1e-3, weight_decay=0.02, dialect="paper"),
        "torch.optim.AdamW",
        "paper dialect: torch gets decay / lr",
        problem,
        partial(torch_optim.run, make, states=MOMENTS, weight_decay=lambda lr: 0.02 / lr),
        MOMENTS,
    )


def adafactor() -> Iterator[Check]:
    """torch's Adafactor: both eps large enough to matter, updates clipped, decay on and off."""
    states = ("row_var", "col_var", "variance")
    for title, problem, settings in (
        ("eps 1e-3", wild(MIXED_SHAPES), {"eps": (1e-3, 0.9), "d": 1.3, "weight_decay": 0.1}),
        ("small gradients", _quiet(), {"eps": (1e-2, 1e-3), "weight_decay": 0.0}),
        ("eps tiny", wild(MIXED_SHAPES), {"eps": (1e-30, 1e-3), "weight_decay": 0.0}),
        ("eps None", mild(MIXED_SHAPES), {"eps": (None, 1e-3), "weight_decay": 0.3}),
        # A learning rate above 1 / sqrt(t) for most steps, so that this bound is what acts.
        ("lr large", mild(MIXED_SHAPES, lr=0.7), {"eps": (1e-2, 1e-3), "beta2_decay": -0.6}),
    ):
        yield Check(
            isostep.rule("adafactor", **settings, dialect="torch"),
            "torch.optim.Adafactor",
            title,
            problem,
            partial(torch_optim.run, _optimizer("Adafactor", **settings), states=states),
            states,
        )


def _quiet() -> Problem:
    """Gradients so small that eps acts on the row factors too."""
    problem = mild(MIXED_SHAPES)
    gradients = tuple(tuple(0.01 * g for g in step) for step in problem.gradients)
    return Problem(problem.start, gradients, problem.lrs)


def clipping() -> Iterator[Check]:
    """clip_by_global_norm in front of SGD against torch.nn.utils.clip_grad_norm_."""
    problem = mild(MIXED_SHAPES)
    for bound in (0.5, 9.0):
        clip = partial(torch.nn.utils.clip_grad_norm_, max_norm=bound, foreach=False)
        yield Check(
            isostep.compose(
                isostep.pieces.clip_by_global_norm(max_norm=bound, dialect="torch"),
                isostep.rule("sgd", momentum=0.85),
            ),
            "torch.nn.utils.clip_grad_norm_",
            f"in front of SGD, bound {bound:g}",
            problem,
            partial(torch_optim.run, _optimizer("SGD", momentum=0.85), before=clip),
        )


def weight_decay() -> Iterator[Check]:
    """The piece: coupled in front of SGD is torch's SGD with decay, decoupled behind Adam is AdamW."""
    problem = wild(MIXED_SHAPES)
    yield Check(
        isostep.compose(
            isostep.pieces.weight_decay(0.1, decoupled=False), isostep.rule("sgd", momentum=0.85)
        ),
        "torch.optim.SGD",
        "coupled decay as a piece",
        problem,
        partial(torch_optim.run, _optimizer("SGD", momentum=0.85, weight_decay=0.1)),
    )
    yield Check(
        isostep.compose(
            isostep.rule("adam", betas=BETAS, eps=1e-3), isostep.pieces.weight_decay(0.3)
        ),
        "torch.optim.AdamW",
        "decoupled decay as a piece",
        problem,
        partial(
            torch_optim.run,
            _optimizer("AdamW", betas=BETAS, eps=1e-3, weight_decay=0.3),
            states=MOMENTS,
        ),
        MOMENTS,
    )
