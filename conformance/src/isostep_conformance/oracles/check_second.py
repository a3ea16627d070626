"""Second packages that need more than a row: see ``second_runs``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import isostep

from . import second_runs
from .check import Check, words
from .package_row import ADAM, BETAS
from .problems import MATRIX_SHAPES, MIXED_SHAPES, mild, wild, with_curvature


def checks() -> Iterator[Check]:
    """All of them."""
    for make in (curvature, switch, blocks, averages, tapes):
        yield from make()


def curvature() -> Iterator[Check]:
    """AdaHessian on given Hessian diagonals, negative entries included."""
    for package, power in product(("pytorch_optimizer", "torch_optimizer", "timm"), (1.0, 0.5)):
        settings: dict[str, Any] = {**ADAM, "weight_decay": 0.3, "hessian_power": power}
        kind = "AdaHessian" if package == "pytorch_optimizer" else "Adahessian"
        more: dict[str, Any] = {"foreach": False} if package == "pytorch_optimizer" else {}
        yield Check(
            isostep.rule("adahessian", **settings),
            f"{package}.{kind}",
            words(settings),
            with_curvature(wild(MIXED_SHAPES)),
            partial(second_runs.adahessian, package=package, **settings, **more),
            ("exp_avg", "exp_hessian_diag_sq"),
        )


def switch() -> Iterator[Check]:
    """SWATS on one array, because the package has a rate for each; both sides switch at the same step."""
    for decay in (0.0, 0.1):
        settings: dict[str, Any] = {"betas": BETAS, "eps": 0.1, "weight_decay": decay}
        yield Check(
            isostep.rule("swats", **settings, threshold=1e-3),
            "pytorch_optimizer.SWATS",
            words(settings),
            mild(((4, 3),)),
            partial(second_runs.swats, **settings),
            note="pytorch_optimizer adds 1e-15 under the root",
        )


def blocks() -> Iterator[Check]:
    """Adam-mini with one block for each array."""
    settings: dict[str, Any] = {**ADAM, "weight_decay": 0.1}
    yield Check(
        isostep.rule("adammini", **settings, blocks="array"),
        "pytorch_optimizer.AdamMini",
        words({**settings, "blocks": "array"}),
        mild(MATRIX_SHAPES),
        partial(second_runs.adam_mini, **settings),
        ("exp_avg",),
        tolerance=1e-6,
        note="it has its averages in float32",
    )


def averages() -> Iterator[Check]:
    """ASGD of a collection for NumPy, told each learning rate early as torch is."""
    table: tuple[dict[str, Any], ...] = (
        {"lambd": 0.2, "alpha": 0.6, "t0": 0.0},
        {"lambd": 0.2, "alpha": 0.6, "t0": 5.0},
        {"lambd": 1e-4, "alpha": 0.75, "t0": 1e6},
    )
    problem = mild(MIXED_SHAPES)
    for settings in table:
        yield Check(
            isostep.rule("asgd", **settings),
            "climin.Asgd",
            words(settings),
            replace(problem, lrs=(problem.lrs[0], *problem.lrs[:-1])),
            partial(second_runs.asgd, **settings),
            ("ax",),
        )


def tapes() -> Iterator[Check]:
    """SGD-HD and Adam-HD, where autograd differentiates a step by its learning rate."""
    for decay in (0.0, 0.1):
        settings: dict[str, Any] = {"hypergrad_lr": 1e-4, "weight_decay": decay}
        yield Check(
            isostep.rule("sgd_hd", **settings),
            "gdtuo.SGD",
            words(settings),
            mild(MIXED_SHAPES),
            partial(second_runs.hypergradient, rule="SGD", **settings),
        )
        # Its squares start at its eps: both are as good as nothing here.
        shared: dict[str, Any] = {"hypergrad_lr": 1e-3, "weight_decay": decay}
        adam = {"betas": BETAS, "eps": 1e-290, **shared}
        theirs = {"beta1": BETAS[0], "beta2": BETAS[1], "log_eps": -290.0, **shared}
        yield Check(
            isostep.rule("adam_hd", **adam),
            "gdtuo.AdamBaydin",
            words(adam),
            mild(MIXED_SHAPES),
            partial(second_runs.hypergradient, rule="AdamBaydin", **theirs),
        )
