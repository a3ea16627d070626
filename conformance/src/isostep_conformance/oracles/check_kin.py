"""Adam's kin with other sizes and signs of a step: against loops of their formulas, and against packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import isostep

from . import derivations_kin
from .check import Check, words
from .package_row import ADAM, BETAS, EPS, MOMENTS, Row, quiet
from .problems import MIXED_SHAPES, wild

LOOP = {"foreach": False}
#: rule -> what it has beside Adam's settings, or None where it has no eps
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
            source = f"{isostep.definition(name).paper.partition(',')[0]}"
            rule = isostep.rule(name, **settings)
            yield Check(rule, source, words(settings), wild(MIXED_SHAPES), run)


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


TABLES: tuple[Callable[[], Iterator[Row]], ...] = (rows,)
