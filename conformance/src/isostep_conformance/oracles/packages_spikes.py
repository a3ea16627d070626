"""Stable-SPAM, SPAM, AdaGC, AdaGO and SPlus against pytorch_optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

import isostep

from . import torch_packages
from .check import Check, words
from .check_spikes import ADAGO, CLIPPED, SPAM, SPLUS, SQUARES, STABLE, in_front
from .package_row import ADAM, MOMENTS, Row, quiet
from .problems import MATRIX_SHAPES, MIXED_SHAPES, Problem, Record, mild

PACKAGE = "pytorch_optimizer"
LOOP = {"foreach": False}


def checks() -> Iterator[Check]:
    """All of them."""
    for row in rows():
        yield row.check()
    yield from clipped()
    yield from orthogonal()
    yield from bases()


def rows() -> Iterator[Row]:
    """Stable-SPAM, and SPAM without a warm-up, which is a step ahead there."""
    kept = {**MOMENTS, **{n: n for n in ("m_norm_t", "v_norm_t", "m_max_t")}}
    for settings in STABLE:
        theirs = {**settings, **LOOP}
        theirs["theta"] = theirs.pop("gamma3")
        yield Row("stable_spam", PACKAGE, "StableSPAM", settings, theirs, kept, quiet)
    for settings in SPAM:
        own = {**settings, "warmup_steps": 0}
        theirs = {**own, **LOOP}
        theirs["warmup_epoch"] = theirs.pop("warmup_steps")
        theirs["update_proj_gap"] = theirs.pop("delta_t")
        yield Row("spam", PACKAGE, "SPAM", own, theirs, {}, quiet)


def clipped() -> Iterator[Check]:
    """AdaGC with AdamW, which are one optimizer there: with one eps, and a warm-up of one step less."""
    for settings, decay in CLIPPED:
        own = {**settings, "eps": ADAM["eps"]}
        theirs = {**ADAM, **LOOP, "weight_decay": decay, "beta": own["beta"]}
        theirs |= {"lambda_abs": own["max_norm"], "lambda_rel": own["clip_ratio"]}
        theirs |= {"warmup_steps": own["start_clip_steps"] + 1}
        make = partial(torch_packages.optimizer_class(PACKAGE, "AdaGC"), **theirs)
        kept = {**MOMENTS, "adagc.norm_value": "gamma"}
        run = partial(torch_packages.run, make, states=kept)
        title, problem = f"{PACKAGE}.AdaGC", mild(MIXED_SHAPES)
        yield Check(
            in_front(own, decay),
            title,
            words(own),
            problem,
            run,
            (*kept,),
            tolerance=1e-6,
            note="its norm of the warm-up is in float32",
        )


def orthogonal() -> Iterator[Check]:
    """AdaGO where its step size is eps: else that package divides by the square of what it should."""
    place = torch_packages.optimizer_class(f"{PACKAGE}.optimizer.muon", "adago")
    name = "zero_power_via_newton_schulz_5"
    exact = partial(getattr(place, name), dtype=torch.float64)
    for settings in ADAGO:
        own = {**settings, "eps": 0.5}

        def make(params: list[torch.Tensor], theirs: dict[str, Any] = own) -> Any:
            groups = [{"params": params, "use_muon": True}]
            return place.AdaGO(groups, **theirs, **LOOP)

        def run(problem: Problem, make: Any = make) -> Record:
            with patch.object(place, name, exact):  # else in bfloat16
                kept = {"momentum_buffer": "momentum_buffer"}
                return torch_packages.run(make, problem, states=kept)

        rule, problem = isostep.rule("adago", **own), mild(MATRIX_SHAPES, lr=0.2)
        title, kept = f"{PACKAGE}.AdaGO", ("momentum_buffer",)
        yield Check(rule, title, words(own), problem, run, kept, whole=True)


def bases() -> Iterator[Check]:
    """SPlus, whose eigenvectors are taken in float32 but for these checks."""
    kept = {"momentum_buffer": "momentum", "ema": "ema"}
    for settings in SPLUS:
        own = {**settings, "nonstandard_constant": 0.3}
        theirs = {n: v for n, v in own.items() if n not in ("b1", "b2", "inverse_every")}
        theirs |= {"betas": (own["b1"], own["b2"]), "inverse_steps": own["inverse_every"], **LOOP}
        make = partial(torch_packages.optimizer_class(PACKAGE, "SPlus"), **theirs)

        def run(problem: Problem, make: Any = make) -> Record:
            with patch.object(torch.Tensor, "float", torch.Tensor.double):
                return torch_packages.run(make, problem, states=kept)

        rule, problem = isostep.rule("splus", **own), mild(SQUARES, lr=0.5)
        states = (*kept, "evaluation point")
        yield Check(rule, f"{PACKAGE}.SPlus", words(own), problem, run, states)
