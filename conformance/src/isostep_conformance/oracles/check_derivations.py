"""Rules against loops written from their papers, in settings that no package has right."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import isostep

from . import derivations
from .check import Check, words
from .problems import CONV_SHAPES, MIXED_SHAPES, mild, wild

ADAM: dict[str, Any] = {"betas": (0.85, 0.96), "eps": 1e-3}


def checks() -> Iterator[Check]:
    """All of them."""
    quiet = mild((*MIXED_SHAPES, *CONV_SHAPES))
    for decay in (0.0, 0.1):
        settings: dict[str, Any] = {**ADAM, "weight_decay": decay}
        yield Check(
            isostep.rule("padam", **settings, partial=0.2),
            "Chen et al., Algorithm 1",
            f"amsgrad, decay {decay:g}",
            wild(MIXED_SHAPES),
            partial(derivations.padam, **settings, partial=0.2),
            ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
        )
        yield Check(
            isostep.rule("laprop", **settings),
            "Ziyin et al., Algorithm 1",
            f"lr changing, decay {decay:g}",
            wild(MIXED_SHAPES),
            partial(derivations.laprop, **settings),
            ("exp_avg", "exp_avg_sq"),
        )
        settings = {"momentum": 0.85, "weight_decay": decay, "eps": 1e-3}
        yield Check(
            isostep.rule("lars", **settings, trust_coefficient=0.1),
            "You et al., Algorithm 1",
            f"lr changing, decay {decay:g}",
            quiet,
            partial(derivations.lars, **settings, trust_coefficient=0.1),
            ("momentum_buffer",),
        )
    for corrected, axis in ((True, 0), (False, -1)):
        settings = {"beta": 0.9, "bias_scale": 0.3, "bias_correction": corrected, "unit_axis": axis}
        yield Check(
            isostep.rule("nero", **settings),
            "Liu et al., Algorithm 1",
            words(settings),
            quiet,
            partial(derivations.nero, **settings),
        )
