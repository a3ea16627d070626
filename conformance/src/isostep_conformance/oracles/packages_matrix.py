"""Rules with a matrix for each axis against the collections, and against loops of their equations."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import torch

import isostep

from . import derivations_matrix, torch_packages
from .check import Check, words
from .problems import Problem, Record, mild

#: Scalars have no axis there. Eigenvalues make an array's error one of the whole array.
SHAPES = ((4, 3), (7,), (2, 3, 5), (5, 2), (3, 2, 2, 3))


def _row(
    package: str, kind: str, ours: dict[str, Any], theirs: Callable[[Problem], Record], **more: Any
) -> Check:
    options = {"problem": mild(SHAPES), "whole": True, **more}
    return Check(isostep.rule(kind, **ours), package, words(ours), theirs=theirs, **options)


def _package(package: str, kind: str, settings: dict[str, Any]) -> Callable[[Problem], Record]:
    make = partial(torch_packages.optimizer_class(package, kind), **settings)
    return partial(torch_packages.run, make)


def after_rest(run: Callable[[Problem], Record], rest: int) -> Callable[[Problem], Record]:
    """``run`` after some steps with gradients of zero, which are not part of the record."""

    def rested(problem: Problem) -> Record:
        still = tuple(0.0 * g for g in problem.gradients[0])
        longer = replace(
            problem,
            gradients=(*(still,) * rest, *problem.gradients),
            lrs=(*problem.lrs[:1] * rest, *problem.lrs),
        )
        record = run(longer)
        return Record(record.p[rest:], {n: s[rest:] for n, s in record.state.items()})

    return rested


def shampoo() -> Iterator[Check]:
    """Without momentum, which the collections have their own way with; vectors where r = k."""
    for decay, frequency in ((0.0, 1), (0.1, 1), (0.0, 3)):
        ours: dict[str, Any] = {
            "eps": 0.05,
            "weight_decay": decay,
            "precondition_frequency": frequency,
        }
        theirs = {"matrix_eps": 0.05, "weight_decay": decay}
        run = _package(
            "pytorch_optimizer", "Shampoo", {**theirs, "preconditioning_compute_steps": frequency}
        )
        # It takes its first root at step ``frequency``, not at the first.
        run = after_rest(run, frequency - 1)
        yield _row("pytorch_optimizer.Shampoo", "shampoo", ours, run)
    for decay, frequency in product((0.0, 0.1), (1, 3)):
        settings = {"weight_decay": decay}
        theirs = {"epsilon": 0.05, "update_freq": frequency, **settings}
        ours = {"eps": 0.05, "precondition_frequency": frequency, **settings}
        run = _package("torch_optimizer", "Shampoo", theirs)
        ours |= {"inv_root_override": 1}
        yield _row("torch_optimizer.Shampoo", "shampoo", ours, run, problem=mild(((7,), (3,))))
    for settings in (
        {"momentum": 0.85, "weight_decay": 0.1, "precondition_frequency": 4},
        {"momentum": 0.85, "max_preconditioner_dim": 3, "inv_root_override": 3},
    ):
        ours = {"eps": 0.05, **settings}
        run = partial(derivations_matrix.shampoo, **ours)
        kept = ("preconditioner_0", "momentum_buffer")
        yield _row("Gupta et al., Algorithm 2", "shampoo", ours, run, states=kept)


#: No first gradient leaves a preconditioner two zero eigenvalues, whose eigenvectors would be anybody's choice.
SQUARE = ((3, 4), (5, 5), (2, 3, 5), (3, 2, 2, 3), (7,), ())


class InFloat64:
    """torch for a module that casts to float32: there is none."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def in_float64(run: Callable[[Problem], Record], module: str) -> Callable[[Problem], Record]:
    """``run`` with the casts to float32 of a package's module taken for casts to float64."""

    def lifted(problem: Problem) -> Record:
        with patch.object(importlib.import_module(module), "torch", InFloat64()):
            return run(problem)

    return lifted


def soap() -> Iterator[Check]:
    """As the package is with no QR decomposition; with many as it is, and with them in float64."""
    float32 = {"note": "its QR decompositions are in float32", "tolerance": 1e-6}
    float64 = {"note": "its QR decompositions taken in float64"}
    for decay, corrected, frequency, notes in (
        (0.0, True, 30, {}),
        (0.1, False, 30, {}),
        (0.1, True, 3, float32),
        (0.1, True, 3, float64),
    ):
        ours: dict[str, Any] = {
            "betas": (0.85, 0.96),
            "shampoo_beta": 0.9,
            "eps": 1e-3,
            "weight_decay": decay,
            "correct_bias": corrected,
            "precondition_frequency": frequency,
        }
        run = _package("pytorch_optimizer", "SOAP", ours)
        if notes is float64:
            run = in_float64(run, "pytorch_optimizer.optimizer.soap")
        yield _row("pytorch_optimizer.SOAP", "soap", ours, run, problem=mild(SQUARE), **notes)
    for settings in (
        {"weight_decay": 0.1, "precondition_frequency": 3},
        {
            "weight_decay": 0.0,
            "shampoo_beta": 0.9,
            "precondition_frequency": 1,
            "max_precond_dim": 3,
        },
        {"weight_decay": 0.1, "precondition_frequency": 4, "correct_bias": False},
    ):
        ours = {"betas": (0.85, 0.96), "eps": 1e-3, **settings}
        run = partial(derivations_matrix.soap, **ours)
        yield _row(
            "Vyas et al., Algorithm 3", "soap", ours, run, problem=mild(SQUARE), states=("exp_avg",)
        )


TABLES: tuple[Callable[[], Iterator[Check]], ...] = (shampoo, soap)


def checks() -> Iterator[Check]:
    """All of them."""
    for table in TABLES:
        yield from table()
