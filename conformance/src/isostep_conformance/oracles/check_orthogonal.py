"""Muon's kin against loops written from their papers, and against pytorch_optimizer with its iteration in float64."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import torch

import isostep

from . import derivations_orthogonal, torch_packages
from .check import Check, words
from .problems import CONV_SHAPES, MATRIX_SHAPES, MIXED_SHAPES, Problem, Record, mild

COLLECTION = "pytorch_optimizer"
MOMENTUM: dict[str, Any] = {"momentum": 0.8, "weight_decay": 0.1}
#: What takes matrices, kernels and vectors.
SHAPES = (*MATRIX_SHAPES, *CONV_SHAPES, (2, 3, 5), ())
#: settings of NorMuon and AdaMuon
KIN: tuple[dict[str, Any], ...] = (
    {**MOMENTUM, "nesterov": True, "beta2": 0.9, "eps": 1e-3},
    {**MOMENTUM, "nesterov": False, "beta2": 0.7, "eps": 1e-3, "weight_decay": 0.0},
)


def derivations() -> Iterator[Check]:
    """Against loops of the papers' formulas."""
    problem = mild(MATRIX_SHAPES, lr=0.2)
    for settings, dialect, axis in product(KIN, ("authors", "paper"), (0, 1)):
        own = {**settings, "dialect": dialect, "unit_axis": axis}
        run = partial(derivations_orthogonal.normuon, **own)
        kept = ("second_momentum_buffer",)
        yield _check("normuon", own, "Li et al., NorMuon", problem, run, kept)
    for settings in KIN:
        run = partial(derivations_orthogonal.adamuon, **settings)
        yield _check("adamuon", settings, "Si et al., AdaMuon", problem, run)
    balls = product(("spectral", "sign", "row", "col"), (True, False), (True, False))
    for norm, normalized, free in balls:
        own = {"momentum": 0.3, "scale": 1.7, "norm": norm, "normalized": normalized, "eps": 1e-3}
        own["unconstrained"] = free
        run = partial(derivations_orthogonal.scion, **own)
        yield _check("scion", own, "Pethick et al., Scion", mild(SHAPES, lr=0.2), run)


def collections() -> Iterator[Check]:
    """Against pytorch_optimizer, whose iteration is in bfloat16 but for these checks."""
    problem = mild(MATRIX_SHAPES, lr=0.2)
    for settings, dialect in product(KIN, ("authors", "paper")):
        scale = {"authors": "preserve_norm", "paper": "match_rms"}[dialect]
        run = _package("muon.normuon", "NorMuon", {**settings, "update_scale": scale}, muon=True)
        kept = {"momentum_buffer": "momentum_buffer"}
        own = {**settings, "dialect": dialect}
        title = f"{COLLECTION}.NorMuon"
        yield _check("normuon", own, title, problem, partial(run, states=kept), (*kept,))
    for settings in KIN:
        theirs = {n: settings[n] for n in ("eps", "weight_decay")}
        theirs |= {"betas": (settings["momentum"], settings["beta2"]), "use_adjusted_lr": True}
        run = _package("muon.adamuon", "AdaMuon", theirs, muon=True)
        kept = {"momentum_buffer": "m"}
        own = {**settings, "nesterov": False}
        title = f"{COLLECTION}.AdaMuon"
        yield _check("adamuon", own, title, problem, partial(run, states=kept), (*kept,))
    for kind, free in product(("AUTO", "SIGN", "ROW", "COL"), (True, False)):
        norm = importlib.import_module(f"{COLLECTION}.optimizer.scion").LMONorm[kind]
        theirs = {"momentum": 0.3, "scale": 1.7, "norm_type": norm, "constraint": not free}
        shapes = (*MIXED_SHAPES, *CONV_SHAPES) if kind == "AUTO" else MATRIX_SHAPES
        run = _package("scion", "SCION", theirs)
        own = {"momentum": 0.3, "scale": 1.7, "unconstrained": free}
        own["norm"] = "spectral" if kind == "AUTO" else kind.lower()
        yield _check("scion", own, f"{COLLECTION}.SCION", mild(shapes, lr=0.2), run)


def _check(
    rule: str,
    settings: dict[str, Any],
    title: str,
    problem: Problem,
    run: Callable[[Problem], Record],
    states: tuple[str, ...] = (),
) -> Check:
    bound = isostep.rule(rule, **settings)
    return Check(bound, title, words(settings), problem, run, states, whole=True)


def _package(
    module: str, kind: str, settings: dict[str, Any], muon: bool = False
) -> Callable[..., Record]:
    place = f"{COLLECTION}.optimizer.{module}"
    made = partial(getattr(importlib.import_module(place), kind), foreach=False, **settings)

    def make(params: list[torch.Tensor]) -> Any:
        return made([{"params": params, "use_muon": True}] if muon else params)

    def run(problem: Problem, **options: Any) -> Record:
        own = importlib.import_module(place)
        name = "zero_power_via_newton_schulz_5"
        with patch.object(own, name, partial(getattr(own, name), dtype=torch.float64)):
            return torch_packages.run(make, problem, **options)

    return run
