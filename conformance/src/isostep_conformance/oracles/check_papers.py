"""Rules against loops written from their papers, where no library that is installed has them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import isostep

from . import papers
from .check import Check, words
from .problems import MIXED_SHAPES, Problem, Record, mild, wild, with_curvature

BETAS = (0.85, 0.96)
MOMENTS = ("exp_avg", "exp_avg_sq")


def checks() -> Iterator[Check]:
    """All of them."""
    yield from hypergradient()
    yield from adahessian()
    yield from lookahead()


def hypergradient() -> Iterator[Check]:
    """SGD-HD and Adam-HD: the learning rate is compared beside the parameters, every step."""
    problem = mild(MIXED_SHAPES)
    for settings in (
        {},
        {"weight_decay": 0.1},
        {"momentum": 0.85},
        {"momentum": 0.85, "dampening": 0.3, "weight_decay": 0.1},
        {"momentum": 0.85, "nesterov": True},
        {"min_lr": 0.035, "max_lr": 0.05},
        {"hypergrad_lr": 0.1, "multiplicative": True, "weight_decay": 0.1},
        {"hypergrad_lr": 0.1, "multiplicative": True, "momentum": 0.85, "max_lr": 0.05},
        {"hypergrad_lr": 0.1, "multiplicative": True, "momentum": 0.85, "nesterov": True},
    ):
        chosen: dict[str, Any] = {"hypergrad_lr": 1e-4, **settings}
        yield Check(
            isostep.rule("sgd_hd", **chosen),
            "Baydin et al., Algorithms 4 and 5",
            words(settings),
            problem,
            partial(papers.sgd_hd, **chosen),
        )
    for options in (
        {},
        {"weight_decay": 0.1},
        {"min_lr": 0.05, "max_lr": 0.2},
        {"weight_decay": 0.1, "multiplicative": True, "hypergrad_lr": 0.1},
    ):
        adam: dict[str, Any] = {"betas": BETAS, "eps": 1e-3, "hypergrad_lr": 1e-3, **options}
        for dialect, source in (("paper", "Algorithm 6"), ("original", "adam_hd.py")):
            if "multiplicative" in options and dialect == "original":
                continue  # the authors' code has no such form
            yield Check(
                isostep.rule("adam_hd", **adam, dialect=dialect),
                f"Baydin et al., {source}",
                f"{dialect} dialect, {words(options)}",
                problem,
                partial(papers.adam_hd, **adam, authors=dialect == "original"),
                MOMENTS,
            )


def adahessian() -> Iterator[Check]:
    """AdaHessian on given Hessian diagonals, negative entries and fractional powers included."""
    for power, decay in ((1.0, 0.0), (1.0, 0.3), (0.5, 0.1)):
        settings: dict[str, Any] = {
            "betas": BETAS,
            "eps": 1e-3,
            "weight_decay": decay,
            "hessian_power": power,
        }
        yield Check(
            isostep.rule("adahessian", **settings),
            "Yao et al., Algorithm 1",
            f"power {power:g}, decay {decay:g}",
            with_curvature(wild(MIXED_SHAPES)),
            partial(papers.adahessian, **settings),
            ("exp_avg", "exp_hessian_diag_sq"),
        )


def lookahead() -> Iterator[Check]:
    """Lookahead behind SGD with momentum, fast and slow weights."""
    for every, alpha in ((5, 0.5), (4, 0.8), (1, 0.3)):
        yield Check(
            isostep.compose(
                isostep.rule("sgd", momentum=0.85),
                isostep.pieces.lookahead(k=every, alpha=alpha),
            ),
            "Zhang et al., Algorithm 1",
            f"around SGD, k={every} alpha={alpha:g}",
            wild(MIXED_SHAPES),
            partial(_lookahead_run, every=every, alpha=alpha),
            ("lookahead.slow",),
        )


def _lookahead_run(problem: Problem, *, every: int, alpha: float) -> Record:
    record = papers.lookahead_sgd(problem, momentum=0.85, every=every, alpha=alpha)
    return Record(record.p, {"lookahead.slow": record.state["slow"]})
