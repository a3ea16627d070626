"""Rules that one package or one loop had been the oracle of, against a second package's own code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from .check import Biased
from .package_row import ADAM, BETAS, EPS, MOMENTS, Row, constant, many, quiet, walk
from .problems import Problem

LOOP = {"foreach": False}
ROOT = "pytorch_optimizer adds 1e-15 under the root"
PACKAGE = "pytorch_optimizer"


#: eps that is added before the root is corrected, as a rule that adds it afterwards has to be told of it.
INNER = Biased(EPS, BETAS[1], -0.5)


def adams() -> Iterator[Row]:
    """AdamC, AdaPNM and LaProp, whose eps pytorch_optimizer corrects together with the root."""
    ours: dict[str, Any] = {"betas": BETAS, "eps": INNER, "weight_decay": 0.3, "max_lr": 0.05}
    theirs = {"lr": 0.05, **ADAM, "weight_decay": 0.3, "normalized": True, **LOOP}
    yield Row("adamc", PACKAGE, "AdamC", ours, theirs, MOMENTS, quiet, ROOT, 1e-9)
    for decoupled, amsgrad in product((False, True), (False, True)):
        shared = {"betas": (*BETAS, 0.7), "weight_decay": 0.1}
        ours = {**shared, "eps": INNER, "decoupled": decoupled, "amsgrad": amsgrad}
        theirs = {**shared, "eps": EPS, "weight_decouple": decoupled, "ams_bound": amsgrad, **LOOP}
        kept = {n: n for n in ("exp_avg", "neg_exp_avg", "exp_avg_sq")}
        yield Row("adapnm", PACKAGE, "AdaPNM", ours, theirs, kept, quiet, ROOT, 1e-9)
    row = ("laprop", PACKAGE, "LaProp")  # it averages lr too
    # With both it keeps the largest v of the first steps too, which the authors do not.
    for centered, amsgrad in ((False, False), (False, True), (True, False)):
        early = {"centered": centered, "steps_before_using_centered": 4}
        ours = {"betas": BETAS, "eps": INNER, **early, "amsgrad": amsgrad}
        theirs = {**ADAM, **early, "ams_bound": amsgrad, **LOOP}
        kept = {"exp_mean_avg_beta2": "exp_mean_avg_beta2"} if centered else {}
        yield Row(*row, ours, theirs, kept, steady, ROOT, 1e-9)


def steady() -> Problem:
    """Gradients of one magnitude and one learning rate."""
    return constant(quiet())


def delays() -> Iterator[Row]:
    """AdaShift, which sums its gradients anew where the package adds and subtracts."""
    for keep_num, reduce in product((1, 3, 10), ("max", "none")):
        shared = {"betas": BETAS, "eps": EPS, "keep_num": keep_num}
        theirs = {**shared, **LOOP, **({"reduce_func": None} if reduce == "none" else {})}
        ours = {**shared, "reduce": reduce}
        yield Row("adashift", PACKAGE, "AdaShift", ours, theirs, problem=many)


def layers() -> Iterator[Row]:
    """NovoGrad, SM3 and Fromage, with one number for each array, slice or array."""
    for decay, averaging in product((0.0, 0.1), (False, True)):
        ours = {**ADAM, "weight_decay": decay, "grad_averaging": averaging}
        kept = {n: n for n in ("moments", "grads_ema")}
        yield Row("novograd", PACKAGE, "NovoGrad", ours, {**ours, **LOOP}, kept, many)
        if averaging:
            continue  # the others average in the first step too
        kept = {"moments": "exp_avg", "grads_ema": "exp_avg_sq"}
        yield Row("novograd", "torch_optimizer", "NovoGrad", ours, ours, kept, many)
        yield Row("novograd", "timm.optim.nvnovograd", "NvNovoGrad", ours, ours, kept, many)
    for momentum in (0.0, 0.85):
        ours = {"momentum": momentum, "eps": EPS}
        kept = {"momentum_buffer": "momentum_buffer"} if momentum else {}
        yield Row("sm3", PACKAGE, "SM3", ours, {**ours, **LOOP}, kept, many)
        yield Row("sm3", "SM3", "SM3", ours, ours, kept, many)
    yield Row("fromage", PACKAGE, "Fromage", {}, LOOP, problem=many)


def estimates() -> Iterator[Row]:
    """D-Adapt SGD: the package sums the squares of the first gradients in float32."""
    group = {n: n for n in ("d", "numerator_weighted", "g0_norm")}
    kept = {n: n for n in ("s", "x0")}
    note = "it has the norm of the first gradients in float32"
    for settings in ({}, {"momentum": 0.85, "weight_decay": 0.1}, {"growth_rate": 1.1}):
        ours = {"d0": 0.01, **settings}
        theirs = {"momentum": 0.0, **ours, **LOOP}
        row = ("dadapt_sgd", PACKAGE, "DAdaptSGD")
        yield Row(*row, ours, theirs, kept, walk, note, 1e-6, group=group)


def curvatures() -> Iterator[Row]:
    """Apollo with the package's rebound of one, which an eighth of the curvatures is above."""
    for decay in (0.0, 0.1):
        ours = {"beta": 0.4, "eps": EPS, "weight_decay": decay}
        kept = {n: n for n in ("exp_avg_grad", "approx_hessian", "update")}
        if decay:  # its state carries autograd's graph then
            kept = {}
        yield Row("apollo", "torch_optimizer", "Apollo", ours, ours, kept, quiet)


def syntheses() -> Iterator[Row]:
    """Ranger without centralized gradients: optimi's has Adam's eps, its first package float32 alone."""
    for decay in (0.0, 0.1):
        shared: dict[str, Any] = {"alpha": 0.7, "k": 4, "weight_decay": decay}
        ours = {**shared, "betas": BETAS, "use_gc": False}
        mine = {**ours, "eps": Biased(EPS, BETAS[1], 0.5)}
        theirs = {"lr": 1.0, **ADAM, **shared, **LOOP, "kahan_sum": False, "triton": False}
        kept = {"slow_buffer": "la_param"}
        yield Row("ranger", "optimi", "Ranger", mine, theirs, kept, many)
        mine, theirs = {**ours, "eps": EPS}, {**ADAM, **shared}
        kept = {"slow_buffer": "slow_buffer"}
        note = "it computes in float32"
        yield Row("ranger", "pytorch_ranger", "Ranger", mine, theirs, kept, many, note, 1e-5)


def neurons() -> Iterator[Row]:
    """Nero from a balanced start, where the package's scale of the biases is the one given here."""
    ours = {"beta": 0.9, "bias_scale": 0.3}
    yield Row("nero", PACKAGE, "Nero", ours, {"beta": 0.9, "eps": 0.0, **LOOP}, problem=balanced)


def balanced() -> Problem:
    """Neurons of mean 0 and norm 1, the constraint that the package has kept before its first step."""
    problem = many()
    start = []
    for p in problem.start:
        rest = tuple(range(1, p.ndim))
        if rest:
            w = p - p.mean(axis=rest, keepdims=True)
            start.append(w / np.sqrt(np.sum(w * w, axis=rest, keepdims=True)))
        else:
            start.append(np.copysign(0.3, p))
    return replace(problem, start=tuple(start))


TABLES: tuple[Callable[[], Iterator[Row]], ...] = (
    adams, delays, layers, estimates, curvatures, syntheses, neurons,
)  # fmt: skip
