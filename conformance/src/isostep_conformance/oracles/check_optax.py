"""Rules and pieces against optax with 64-bit floats."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import optax

import isostep

from . import optax_rules
from .check import Check
from .optax_rules import Make
from .problems import CONV_SHAPES, MIXED_SHAPES, Problem, Record, mild, wild

B1, B2 = BETAS = (0.85, 0.96)
EPS = 1e-3
MOMENTS = {"exp_avg": "mu", "exp_avg_sq": "nu"}


def checks() -> Iterator[Check]:
    """All of them."""
    yield from sgd()
    yield from adam()
    yield from lamb()
    yield from adafactor()
    yield from gradient_pieces()
    yield from lookahead()


def sgd() -> Iterator[Check]:
    """optax.sgd's momentum is torch's without dampening."""
    for momentum, nesterov in ((0.0, False), (0.85, False), (0.85, True)):
        kept = {"momentum_buffer": "trace"} if momentum else {}

        def make(lr: object, m: float = momentum, n: bool = nesterov) -> object:
            return optax.sgd(lr, momentum=m or None, nesterov=n)

        yield Check(
            isostep.rule("sgd", momentum=momentum, nesterov=nesterov),
            "optax.sgd",
            f"momentum={momentum:g}{' nesterov' if nesterov else ''}",
            wild(MIXED_SHAPES),
            partial(optax_rules.run, make, states=kept),
            tuple(kept),
        )


def adam() -> Iterator[Check]:
    """Adam, AdamW and the two AMSGrads that optax has: its own and the paper's."""
    problem = wild(MIXED_SHAPES)
    settings = {"b1": B1, "b2": B2, "eps": EPS}
    yield Check(
        isostep.rule("adam", betas=BETAS, eps=EPS, dialect="optax"),
        "optax.adam",
        "optax dialect",
        problem,
        partial(optax_rules.run, lambda lr: optax.adam(lr, **settings), states=MOMENTS),
        tuple(MOMENTS),
    )
    coupled = optax.add_decayed_weights(0.1)
    yield Check(
        isostep.rule("adam", betas=BETAS, eps=EPS, weight_decay=0.1, dialect="optax"),
        "optax.adam",
        "optax dialect, coupled decay 0.1",
        problem,
        partial(
            optax_rules.run,
            lambda lr: optax.chain(coupled, optax.adam(lr, **settings)),
            states=MOMENTS,
        ),
        tuple(MOMENTS),
    )
    yield Check(
        isostep.rule("adamw", betas=BETAS, eps=EPS, weight_decay=0.3, dialect="optax"),
        "optax.adamw",
        "optax dialect, decay 0.3",
        problem,
        partial(
            optax_rules.run,
            lambda lr: optax.adamw(lr, weight_decay=0.3, **settings),
            states=MOMENTS,
        ),
        tuple(MOMENTS),
    )
    largest = {**MOMENTS, "max_exp_avg_sq": "nu_max"}
    for dialect, corrected in (("optax", True), ("paper", False)):

        def amsgrad(lr: object, corrected: bool = corrected) -> object:
            return optax.amsgrad(
                lr, **settings, bias_correction_mu=corrected, bias_correction_nu=corrected
            )

        yield Check(
            isostep.rule("adam", betas=BETAS, eps=EPS, amsgrad=True, dialect=dialect),
            "optax.amsgrad",
            f"{dialect} dialect, bias correction {'on' if corrected else 'off'}",
            problem,
            partial(optax_rules.run, amsgrad, states=largest),
            tuple(largest),
        )


def lamb() -> Iterator[Check]:
    """optax.lamb, with a decay inside the trust ratio and without; one array starts at zero."""
    problem = wild(MIXED_SHAPES)
    start = (problem.start[0] * 0.0, *problem.start[1:])
    problem = Problem(start, problem.gradients, problem.lrs)
    for decay in (0.0, 0.3):
        make = partial(optax.lamb, b1=B1, b2=B2, eps=EPS, weight_decay=decay)
        yield Check(
            isostep.rule("lamb", betas=BETAS, eps=EPS, weight_decay=decay),
            "optax.lamb",
            f"decay {decay:g}, one array zero at first",
            problem,
            partial(optax_rules.run, make, states=MOMENTS),
            tuple(MOMENTS),
        )


def adafactor() -> Iterator[Check]:
    """optax's Adafactor in isostep's paper dialect.

    lr stays below 1 / sqrt(t), a bound that optax does not have; every matrix is factored, and the
    last two axes are the largest. The paper's d is optax's clipping threshold.
    """
    problem = wild(((4, 3), (7,), (2, 3, 5), (), (5, 2)), lr=0.02)
    for eps, low, clip, exact in (
        (1e-3, 0.9, 1.3, True),
        (1e-30, 1e-3, 1.0, True),
        (1e-30, 1e-3, 1.0, False),
    ):
        settings: dict[str, Any] = {
            "decay": 0.8,
            "eps": eps,
            "clip": clip,
            "min_scale": low,
            "exact": exact,
        }
        make = partial(optax_rules.adafactor, **settings)
        yield Check(
            isostep.rule("adafactor", eps=(eps, low), d=clip, dialect="paper"),
            "optax parts of adafactor" if exact else "optax.adafactor",
            f"paper dialect, eps {eps:g} {low:g}, d {clip:g}",
            problem,
            partial(optax_rules.run, make),
            tolerance=1e-12 if exact else 1e-6,
            note="" if exact else "optax has the decay rate of the second moment in float32",
        )


def gradient_pieces() -> Iterator[Check]:
    """centralize, adaptive_clip and clip_by_global_norm in front of SGD with momentum."""
    conv = mild(CONV_SHAPES)
    rule = isostep.rule("sgd", momentum=0.85)
    pieces = isostep.pieces

    def behind(piece: optax.GradientTransformation) -> Make:
        return lambda lr: optax.chain(piece, optax.sgd(lr, momentum=0.85))

    yield Check(
        isostep.compose(pieces.centralize(), rule),
        "optax.centralize",
        "units on axis 0, as optax always has them",
        conv,
        partial(optax_rules.run, behind(optax.centralize())),
    )
    for clipping, eps in ((0.1, 1e-3), (0.4, 2.5)):
        make = behind(optax.adaptive_grad_clip(clipping, eps=eps))
        yield Check(
            isostep.compose(pieces.adaptive_clip(clipping=clipping, eps=eps, unit_axis=-1), rule),
            "optax.adaptive_grad_clip",
            f"clipping {clipping:g}, units on the last axis",
            conv,
            partial(optax_rules.run, make),
        )
        yield Check(
            isostep.compose(pieces.adaptive_clip(clipping=clipping, eps=eps), rule),
            "optax.adaptive_grad_clip",
            f"clipping {clipping:g}, units on axis 0, optax transposed",
            conv,
            partial(optax_rules.run_transposed, make),
        )
    for bound in (0.5, 9.0):
        yield Check(
            isostep.compose(pieces.clip_by_global_norm(max_norm=bound, dialect="optax"), rule),
            "optax.clip_by_global_norm",
            f"optax dialect, bound {bound:g}",
            conv,
            partial(optax_rules.run, behind(optax.clip_by_global_norm(bound))),
        )


def lookahead() -> Iterator[Check]:
    """Lookahead behind Adam, fast and slow weights."""
    make = partial(optax.adam, b1=B1, b2=B2, eps=EPS)
    for every, alpha in ((5, 0.5), (3, 0.8)):
        yield Check(
            isostep.compose(
                isostep.rule("adam", betas=BETAS, eps=EPS),
                isostep.pieces.lookahead(k=every, alpha=alpha),
            ),
            "optax.lookahead",
            f"around Adam, k={every} alpha={alpha:g}",
            wild(MIXED_SHAPES),
            partial(_lookahead_run, make, every=every, alpha=alpha),
            ("lookahead.slow",),
        )


def _lookahead_run(make: Make, problem: Problem, *, every: int, alpha: float) -> Record:
    record = optax_rules.run_lookahead(make, problem, every=every, alpha=alpha)
    return Record(record.p, {"lookahead.slow": record.state["slow"]})
