"""Ranger21 against its first author's package, array by array: the package decays only the last of a list."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import isostep

from . import torch_packages
from .check import TOLERANCE, Check
from .package_row import BETAS
from .problems import Problem, Record, mild

#: More than two elements, and no array of three axes, whose units the package takes otherwise.
SHAPES = ((4, 3), (7,), (3, 2, 2, 3), (5, 4))


def checks() -> Iterator[Check]:
    """With its eps, and with none at all, so that gradients are the same once normalized and twice."""
    for shape in SHAPES:
        yield check(shape, eps=0.0, tolerance=TOLERANCE)
        yield check(shape, eps=1e-8, tolerance=1e-6, note="it normalizes its momenta's input twice")


def check(shape: tuple[int, ...], *, eps: float, tolerance: float, note: str = "") -> Check:
    """One array: clipped at some steps and not at others, decayed, pulled and merged."""
    settings: dict[str, Any] = {"betas": BETAS, "eps": eps, "weight_decay": 0.1}
    ours: dict[str, Any] = {"norm_loss": 0.2, "clipping": 0.7, "agc_eps": 0.5, "beta_softplus": 3.0}
    ours |= {"k": 4, "alpha": 0.6}
    theirs: dict[str, Any] = {
        "normloss_factor": 0.2, "agc_clipping_value": 0.7, "agc_eps": 0.5, "beta_softplus": 3.0,
        "lookahead_mergetime": 4, "lookahead_blending_alpha": 0.6, "use_warmup": False,
        "warmdown_active": False, "num_epochs": 1, "num_batches_per_epoch": 100,
        "logging_active": False,
    }  # fmt: skip
    return Check(
        isostep.rule("ranger21", **settings, **ours),
        "ranger21.Ranger21",
        f"shape {shape}, eps {eps:g}",
        mild((shape,)),
        partial(run, **settings, **theirs),
        ("exp_avg_sq",),
        tolerance=tolerance,
        note=note,
    )


def run(problem: Problem, *, eps: float, **settings: Any) -> Record:
    """The package, its own eps of the normalization set to this one."""
    module: Any = importlib.import_module("ranger21.ranger21")
    before = module.normalize_gradient
    module.normalize_gradient = partial(before, epsilon=eps)
    try:
        make = partial(module.Ranger21, lr=1.0, eps=eps, **settings)
        return torch_packages.run(make, problem, states={"exp_avg_sq": "variance_ma"})
    finally:
        module.normalize_gradient = before
