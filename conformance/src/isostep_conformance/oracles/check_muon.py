"""Muon against torch.optim, optax and an independent float64 iteration."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import optax
import torch

import isostep

from . import optax_rules, papers, torch_optim
from .check import Check
from .problems import MATRIX_SHAPES, Problem, Record, deviation, mild

COEFFICIENTS = (3.4445, -4.775, 2.0315)


def checks() -> Iterator[Check]:
    """All of them. Parameters and learning rate are such that the steps are what is seen."""
    problem = mild(MATRIX_SHAPES, lr=0.2)
    for nesterov, decay, adjust, eps in (
        (True, 0.1, None, 1e-7),
        (False, 0.0, "original", 2.0),
        (True, 0.3, "match_rms_adamw", 1e-7),
    ):
        settings: dict[str, Any] = {
            "momentum": 0.8,
            "nesterov": nesterov,
            "weight_decay": decay,
            "eps": eps,
        }
        rule = isostep.rule("muon", **settings, adjust_lr_fn=adjust)
        form = "nesterov, " if nesterov else ""
        title = f"{form}decay {decay:g}, lr {adjust or 'default'}, eps {eps:g}"
        make = partial(torch.optim.Muon, lr=1.0, adjust_lr_fn=adjust, **settings)
        run = partial(torch_optim.run, make, states=("momentum_buffer",))
        exact = partial(_exact, run)
        zero = _from_zero(problem)
        # torch iterates in bfloat16: a few percent of a step. isostep may be as far from torch as
        # torch itself is when it iterates in float64, and no farther.
        own_error = deviation(exact(zero), run(zero), zero, (), whole=True).worst
        yield Check(
            rule,
            "torch.optim.Muon",
            title,
            zero,
            run,
            tolerance=1.001 * own_error,
            note="bfloat16 iteration; tolerance: torch's distance from its own in float64",
            whole=True,
        )
        yield Check(
            rule,
            "torch.optim.Muon, float64 iteration",
            title,
            problem,
            exact,
            ("momentum_buffer",),
        )
        yield Check(
            rule,
            "Newton-Schulz on singular values",
            title,
            problem,
            partial(
                papers.muon,
                **settings,
                coefficients=COEFFICIENTS,
                steps=5,
                scale=_width if adjust != "match_rms_adamw" else _consistent,
            ),
            ("momentum_buffer",),
        )
    for consistent in (None, 0.2):
        make_optax = partial(
            optax.contrib.muon,
            beta=0.8,
            nesterov=False,
            weight_decay=0.1,
            eps=0.0,
            consistent_rms=consistent,
        )
        yield Check(
            isostep.rule(
                "muon",
                momentum=0.8,
                nesterov=False,
                weight_decay=0.1,
                adjust_lr_fn="original" if consistent is None else "match_rms_adamw",
            ),
            "optax.contrib.muon",
            f"no nesterov, eps 0, (in, out) matrices, rms {consistent}",
            problem,
            partial(optax_rules.run_transposed, make_optax),
            note="optax corrects the bias, which the iteration divides out",
        )


def _from_zero(problem: Problem) -> Problem:
    """The same problem from zero parameters, so that the steps alone make the scale."""
    return Problem(tuple(p * 0.0 for p in problem.start), problem.gradients, problem.lrs)


def _exact(run: partial[Record], problem: Problem) -> Record:
    with torch_optim.exact_muon():
        return run(problem)


def _width(rows: int, columns: int) -> float:
    return math.sqrt(max(1.0, rows / columns))


def _consistent(rows: int, columns: int) -> float:
    return 0.2 * math.sqrt(max(rows, columns))
