"""Stable-SPAM, SPAM, AdaGC, AdaGO and SPlus against loops of their formulas."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import isostep

from . import derivations_spikes
from .check import Check, words
from .package_row import ADAM, BETAS, EPS
from .problems import MATRIX_SHAPES, MIXED_SHAPES, mild

NORMS: dict[str, Any] = {**ADAM, "gamma1": 0.6, "gamma2": 0.8, "gamma3": 0.95}
STABLE: tuple[dict[str, Any], ...] = (
    {**NORMS, "weight_decay": 0.1, "update_proj_gap": 7},
    {**NORMS, "weight_decay": 0.0, "update_proj_gap": 100},
)
SPAM: tuple[dict[str, Any], ...] = (
    {**ADAM, "weight_decay": 0.1, "warmup_steps": 3, "threshold": 1.5, "delta_t": 7}
    | {"grad_accu_steps": 2},
    {**ADAM, "weight_decay": 0.0, "warmup_steps": 9, "threshold": 0.0, "delta_t": 5}
    | {"grad_accu_steps": 0},
)
#: settings of AdaGC, and the decay behind it
CLIPPED: tuple[tuple[dict[str, Any], float], ...] = (
    (
        {"max_norm": 3.0, "clip_ratio": 1.05, "beta": 0.8, "eps": EPS, "start_clip_steps": 6},
        0.1,
    ),
    (
        {"max_norm": 50.0, "clip_ratio": 0.9, "beta": 0.9, "eps": 2.0, "start_clip_steps": 1},
        0.0,
    ),
)
ADAGO: tuple[dict[str, Any], ...] = (
    {"momentum": 0.8, "nesterov": True, "gamma": 4.0, "eps": 0.01, "v": 1.5, "weight_decay": 0.1},
    {"momentum": 0.6, "nesterov": False, "gamma": 9.0, "eps": 0.06, "v": 1e-6, "weight_decay": 0.0},
)
SPLUS: tuple[dict[str, Any], ...] = (
    {"b1": 0.8, "b2": 0.9, "ema_rate": 0.85, "inverse_every": 5, "weight_decay": 0.1},
    {"b1": 0.6, "b2": 0.96, "ema_rate": 0.5, "inverse_every": 1, "weight_decay": 0.0},
)
#: Matrices whose preconditioners have inverses from the first step on, and what are no matrices.
SQUARES = ((5, 5), (3, 3), (7,), (2, 3, 5), ())


def in_front(settings: dict[str, Any], weight_decay: float) -> Any:
    """AdaGC and AdamW."""
    adamw = isostep.rule("adamw", **ADAM, weight_decay=weight_decay)
    return isostep.compose(isostep.pieces.adagc(**settings), adamw)


def checks() -> Iterator[Check]:
    """All of them."""
    problem = mild(MIXED_SHAPES)
    for name, every in (("stable_spam", STABLE), ("spam", SPAM)):
        for settings in every:
            run = partial(getattr(derivations_spikes, name), **settings)
            rule = isostep.rule(name, **settings)
            yield Check(rule, "Huang et al.", words(settings), problem, run)
    for settings, decay in CLIPPED:
        behind: dict[str, Any] = {"betas": BETAS, "adam_eps": EPS, "weight_decay": decay}
        run = partial(derivations_spikes.adagc_adamw, **settings, **behind)
        yield Check(in_front(settings, decay), "Wang et al., AdaGC", words(settings), problem, run)
    for settings in ADAGO:
        run = partial(derivations_spikes.adago, **settings)
        rule, matrices = isostep.rule("adago", **settings), mild(MATRIX_SHAPES, lr=0.2)
        title = "Zhang et al., AdaGO"
        yield Check(rule, title, words(settings), matrices, run, whole=True)
    for settings in SPLUS:
        own = {**settings, "nonstandard_constant": 0.3}
        run = partial(derivations_spikes.splus, **own)
        rule, problem = isostep.rule("splus", **own), mild(SQUARES, lr=0.5)
        title = "Frans et al., SPlus"
        yield Check(rule, title, words(own), problem, run, ("evaluation point",))
