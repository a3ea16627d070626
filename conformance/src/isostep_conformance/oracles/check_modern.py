"""Recent rules and pieces against loops from their papers, and packages that need more than a row."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import isostep

from . import modern_papers, modern_runs
from .check import Check, words
from .package_row import ADAM, BETAS, EPS
from .problems import CONV_SHAPES, MATRIX_SHAPES, MIXED_SHAPES, mild, wild, with_curvature

MOMENTS = ("exp_avg", "exp_avg_sq")


def checks() -> Iterator[Check]:
    """All of them."""
    for make in (derived, uncorrected, layers, curvature, corrected, blocks, pieces):
        yield from make()


def paper(
    name: str, source: str, problem: Any, settings: dict[str, Any], states: tuple[str, ...],
    **more: Any,
) -> Check:  # fmt: skip
    """A rule against the loop of its own name; ``more`` are settings that only the rule has."""
    return Check(
        isostep.rule(name, **settings, **more),
        source,
        words({**settings, **more}),
        problem,
        partial(getattr(modern_papers, name), **settings),
        states,
    )


def derived() -> Iterator[Check]:
    """Elementwise rules in settings that no package has right."""
    for decoupled, amsgrad in product((False, True), (False, True)):
        settings: dict[str, Any] = {"betas": (0.85, 0.96, 0.7), "eps": EPS, "amsgrad": amsgrad}
        settings |= {"weight_decay": 0.1, "decoupled": decoupled}
        source = "Xie et al., Algorithm 2"
        yield paper("adapnm", source, wild(MIXED_SHAPES), settings, ("exp_avg_sq",))
    for decay, decoupled in ((0.0, False), (0.1, False), (0.1, True)):
        settings = {"betas": BETAS, "eps": 0.1, "weight_decay": decay, "decoupled": decoupled}
        source = "Savarese et al., Algorithm 2"
        more: dict[str, Any] = {"dialect": "paper"}
        yield paper("avagrad", source, mild(MIXED_SHAPES), settings, MOMENTS, **more)
    for decay in (0.0, 0.1):
        settings = {"beta": 0.85, "weight_decay": decay}
        more = {"relative_lr": True}
        yield paper("tiger", "bojone/tiger", wild(MIXED_SHAPES), settings, ("exp_avg",), **more)


def uncorrected() -> Iterator[Check]:
    """Adam in AdamD's dialect."""
    for decay, amsgrad in product((0.0, 0.1), (False, True)):
        settings: dict[str, Any] = {**ADAM, "weight_decay": decay, "amsgrad": amsgrad}
        yield Check(
            isostep.rule("adam", **settings, dialect="adamd"),
            "John, AdamD",
            words(settings),
            wild(MIXED_SHAPES),
            partial(modern_papers.adamd, **settings),
            MOMENTS,
        )


def layers() -> Iterator[Check]:
    """Rules with one number for each array, slice or block."""
    problem = mild((*MIXED_SHAPES, *CONV_SHAPES))
    for momentum in (0.0, 0.85):
        settings: dict[str, Any] = {"momentum": momentum, "eps": EPS}
        states = ("momentum_buffer",) if momentum else ()
        yield paper("sm3", "Anil et al., SM3-II", problem, settings, states)
    for keep_num, reduce in product((1, 3, 10), ("max", "none")):
        settings = {"betas": BETAS, "keep_num": keep_num, "reduce": reduce, "eps": EPS}
        yield paper("adashift", "Zhou et al., Algorithm 3", problem, settings, ())
    for decay, averaging in product((0.0, 0.1), (False, True)):
        settings = {"betas": BETAS, "eps": EPS, "weight_decay": decay}
        settings |= {"grad_averaging": averaging}
        yield paper("novograd", "Ginsburg et al., Algorithm 1", problem, settings, ("moments",))


def curvature() -> Iterator[Check]:
    """Sophia on given Hessian diagonals, negative entries included."""
    for gamma, period, decay in ((1.0, 1, 0.0), (0.5, 3, 0.1), (0.05, 10, 0.1)):
        settings: dict[str, Any] = {"betas": BETAS, "eps": EPS, "weight_decay": decay}
        settings |= {"gamma": gamma, "update_period": period}
        yield Check(
            isostep.rule("sophia", **settings),
            "pytorch_optimizer.SophiaH",
            words(settings),
            with_curvature(wild(MIXED_SHAPES)),
            partial(modern_runs.sophia, **settings),
            ("exp_avg", "hessian"),
        )


def corrected() -> Iterator[Check]:
    """AdamC with a largest lr that the schedule does not reach."""
    settings: dict[str, Any] = {**ADAM, "weight_decay": 0.3}
    yield Check(
        isostep.rule("adamc", **settings, max_lr=0.05),
        "timm.AdamW",
        words(settings),
        wild(MIXED_SHAPES),
        partial(modern_runs.adamc, **settings, max_lr=0.05),
        MOMENTS,
    )


def blocks() -> Iterator[Check]:
    """Adam-mini by row and by array."""
    for kind in ("unit", "array"):
        settings: dict[str, Any] = {**ADAM, "weight_decay": 0.1, "blocks": kind}
        yield Check(
            isostep.rule("adammini", **settings),
            "adam_mini.Adam_mini",
            words(settings),
            mild(MATRIX_SHAPES),
            partial(modern_runs.adam_mini, **settings),
            ("exp_avg",),
        )


def pieces() -> Iterator[Check]:
    """Grokfast in front of SGD, and the cautious mask behind it."""
    sgd = isostep.rule("sgd", momentum=0.85)
    for alpha, lamb in ((0.9, 2.0), (0.6, 0.5)):
        yield Check(
            isostep.compose(isostep.pieces.grokfast(alpha=alpha, lamb=lamb), sgd),
            "pytorch_optimizer.gradfilter_ema",
            f"in front of SGD, alpha={alpha:g} lamb={lamb:g}",
            wild(MIXED_SHAPES),
            partial(modern_runs.grokfast, alpha=alpha, lamb=lamb, momentum=0.85),
        )
    for authors, decay in product((False, True), (0.0, 0.1)):
        dialect = "authors" if authors else "paper"
        yield Check(
            isostep.compose(
                sgd,
                isostep.pieces.cautious(eps=0.6, dialect=dialect),
                isostep.pieces.weight_decay(weight_decay=decay),
            ),
            "Liang et al., Algorithm 1",
            f"around SGD, {dialect} dialect, decay {decay:g}",
            wild(MIXED_SHAPES),
            partial(
                modern_papers.cautious_momentum,
                momentum=0.85,
                eps=0.6,
                authors=authors,
                weight_decay=decay,
            ),
            ("momentum_buffer",),
        )
