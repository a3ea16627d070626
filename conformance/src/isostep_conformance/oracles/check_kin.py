"""Adam's kin, AccSGD, M-SVAG, KATE and Mirror MADGRAD: against loops of their formulas, and against packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import isostep

from . import derivations_kin, derivations_sums
from .check import Check, words
from .package_row import ADAM, BETAS, EPS, MOMENTS, Row, quiet
from .problems import MIXED_SHAPES, wild

LOOP = {"foreach": False}
#: rule -> what it has beside Adam's decay rates
MORE: dict[str, dict[str, Any]] = {
    "grams": {"eps": EPS},
    "adam_atan2": {"a": 1.1, "b": 1.6},
    "exadam": {"eps": EPS},
    "ano": {"eps": EPS},
    "adanorm": {"eps": EPS, "r": 0.8},
}


def derivations() -> Iterator[Check]:
    """Against loops of the papers' formulas."""
    for name, more in MORE.items():
        for decay in (0.0, 0.1):
            settings = {"betas": BETAS, "weight_decay": decay, **more}
            run = partial(getattr(derivations_kin, name), **settings)
            source = isostep.definition(name).paper.partition(",")[0]
            rule = isostep.rule(name, **settings)
            yield Check(rule, source, words(settings), wild(MIXED_SHAPES), run)


#: rule -> settings
SUMS: dict[str, tuple[dict[str, Any], ...]] = {
    "accsgd": (
        {"kappa": 30.0, "xi": 4.0, "small_const": 0.6, "weight_decay": 0.1},
        {"kappa": 100.0, "xi": 9.0, "small_const": 0.8, "weight_decay": 0.0},
    ),
    "msvag": ({"beta": 0.85}, {"beta": 0.4}),
    "kate": (
        {"eta": 0.3, "eps": 1e-3, "weight_decay": 0.1},
        {"eta": 0.0, "eps": 0.1, "weight_decay": 0.0},
    ),
    "mirror_madgrad": (
        {"momentum": 0.8, "eps": 1e-3, "weight_decay": 0.1},
        {"momentum": 0.0, "eps": 1e-3, "weight_decay": 0.0},
        {"momentum": 0.6, "eps": 0.1, "weight_decay": 0.1, "decouple_decay": True},
    ),
}


def sums() -> Iterator[Check]:
    """Against loops that sum over the steps so far."""
    for name, every in SUMS.items():
        source = isostep.definition(name).paper.partition(",")[0]
        for settings in every:
            run = partial(getattr(derivations_sums, name), **settings)
            rule = isostep.rule(name, **settings)
            yield Check(rule, source, words(settings), wild(MIXED_SHAPES), run)


def sum_rows() -> Iterator[Row]:
    """Against the packages that have them."""
    package = "pytorch_optimizer"
    for ours in SUMS["accsgd"]:
        shared = {n: v for n, v in ours.items() if n != "small_const"}
        theirs = {**shared, "constant": ours["small_const"], **LOOP}
        yield Row("accsgd", package, "AccSGD", ours, theirs)
        yield Row("accsgd", "torch_optimizer", "AccSGD", ours, ours)
    note = "pytorch_optimizer subtracts the square of one average from the other"
    for ours in SUMS["msvag"]:
        yield Row("msvag", package, "MSVAG", ours, {**ours, **LOOP}, {}, quiet, note, 1e-9)
    note = "pytorch_optimizer adds eps to the sum, in every step"
    for settings in SUMS["kate"]:
        ours = {**settings, "eps": 1e-12}
        theirs = {n: v for n, v in ours.items() if n != "eta"} | {"delta": ours["eta"], **LOOP}
        yield Row("kate", package, "Kate", ours, theirs, {}, quiet, note, 1e-9)
    for ours in SUMS["mirror_madgrad"]:
        yield Row("mirror_madgrad", "madgrad", "MirrorMADGRAD", ours, ours)


def rows() -> Iterator[Row]:
    """Against pytorch_optimizer, and the package of Adam-atan2."""
    for decay in (0.0, 0.1):
        ours = {**ADAM, "weight_decay": decay}
        yield Row("grams", "pytorch_optimizer", "Grams", ours, {**ours, **LOOP}, MOMENTS)
        yield Row("exadam", "pytorch_optimizer", "EXAdam", ours, {**ours, **LOOP}, MOMENTS)
        yield Row("ano", "pytorch_optimizer", "Ano", ours, {**ours, **LOOP}, MOMENTS)
        own = {"betas": BETAS, "weight_decay": decay, "r": 0.8, "eps": 1e-13}
        kept = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_var"}
        note = "pytorch_optimizer has eps elsewhere, and adds 1e-15 under the root"
        theirs = {**own, **LOOP}
        yield Row("adanorm", "pytorch_optimizer", "AdaNorm", own, theirs, kept, quiet, note, 1e-6)
        own = {"betas": BETAS, "weight_decay": decay, "a": 1.1, "b": 1.6}
        yield Row("adam_atan2", "adam_atan2_pytorch", "AdamAtan2", own, own, MOMENTS)


TABLES: tuple[Callable[[], Iterator[Row]], ...] = (rows, sum_rows)
