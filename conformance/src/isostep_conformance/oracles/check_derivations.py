"""Rules against loops written from their papers, in settings that no package has right."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from math import inf
from typing import Any

import isostep

from . import (
    check_directions,
    check_kin,
    check_orthogonal,
    check_spikes,
    derivations,
    derivations_free,
    derivations_projection,
    derivations_ranger21,
    derivations_short,
)
from .check import Check, words
from .problems import CONV_SHAPES, MIXED_SHAPES, mild, wild, with_losses

ADAM: dict[str, Any] = {"betas": (0.85, 0.96), "eps": 1e-3}


def checks() -> Iterator[Check]:
    """All of them."""
    yield from decaying()
    yield from switches()
    yield from slots()
    yield from models()
    yield from projections()
    yield from rangers()
    yield from short()
    yield from optax_alone()
    yield from check_orthogonal.derivations()
    yield from check_kin.derivations()
    yield from check_kin.sums()
    yield from check_directions.derivations()
    yield from check_spikes.checks()


def switches() -> Iterator[Check]:
    """SWATS before, at and after its switch, and never; AdaSmooth with and without windows."""
    for decay, threshold in ((0.0, 3e-4), (0.1, 1e-3), (0.1, 1e-9)):
        settings: dict[str, Any] = {**ADAM, "threshold": threshold, "weight_decay": decay}
        yield Check(
            isostep.rule("swats", **settings),
            "Keskar and Socher, Algorithm 1",
            words(settings),
            mild(MIXED_SHAPES),
            partial(derivations.swats, **settings),
            ("exp_avg",),
        )
    for decay, window in ((0.0, 0), (0.1, 0), (0.1, 5), (0.0, 1)):
        settings = {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": decay, "window": window}
        yield Check(
            isostep.rule("adasmooth", **settings),
            "Lu, effective ratio",
            words(settings),
            wild(MIXED_SHAPES),
            partial(derivations.adasmooth, **settings),
            ("exp_avg_sq",),
        )


def models() -> Iterator[Check]:
    """MoMo and MoMo-Adam: the rate of lr, of the model and of zero, the bound raised and reset."""
    problem = with_losses(mild(MIXED_SHAPES, lr=0.3))
    kept: tuple[str, ...] = ("grad_avg",)
    for correct, estimate, decay in product((False, True), (False, True), (0.0, 0.1)):
        settings: dict[str, Any] = {"beta": 0.85, "weight_decay": decay, "lb": 0.5}
        settings |= {"bias_correction": correct, "use_fstar": estimate}
        run = partial(derivations.momo, **settings)
        rule = isostep.rule("momo", **settings)
        yield Check(rule, "Schaipp et al., momo.py", words(settings), problem, run, kept)
    kept = ("grad_avg", "grad_avg_sq")
    for divide, estimate, decay in ((True, True, 0.1), (False, False, 0.1), (True, False, 0.0)):
        settings = {**ADAM, "weight_decay": decay, "lb": 0.5}
        settings |= {"divide": divide, "use_fstar": estimate}
        run = partial(derivations.momo_adam, **settings)
        rule = isostep.rule("momo_adam", **settings)
        yield Check(rule, "Schaipp et al., momo_adam.py", words(settings), problem, run, kept)


def projections() -> Iterator[Check]:
    """SGDP's paper dialect, with deltas for which some, all and none of the arrays are projected."""
    for decay, delta in product((0.0, 0.1), (0.1, 1.0, 2.0, 3.0)):
        settings: dict[str, Any] = {"momentum": 0.85, "weight_decay": decay, "delta": delta}
        settings |= {"eps": 1e-3, "wd_ratio": 0.3}
        yield Check(
            isostep.rule("sgdp", **settings),
            "Heo et al., Algorithm 1",
            words({"delta": delta, "weight_decay": decay}),
            mild((*MIXED_SHAPES, *CONV_SHAPES)),
            partial(derivations_projection.sgdp, **settings),
            ("momentum_buffer",),
        )


def rangers() -> Iterator[Check]:
    """Ranger21's dialects on several arrays at once, whose squares share a mean, with units on either axis."""
    common = {**ADAM, "beta0": 0.7, "weight_decay": 0.1, "norm_loss": 0.2, "clipping": 0.7}
    common |= {"agc_eps": 0.5, "beta_softplus": 3.0, "k": 4, "alpha": 0.6}
    for dialect, axis in product(("authors", "flax"), (0, -1)):
        settings: dict[str, Any] = {**common, "dialect": dialect, "unit_axis": axis}
        yield Check(
            isostep.rule("ranger21", **settings),
            f"Wright and Demeure, {dialect}",
            words({"unit_axis": axis}),
            mild((*MIXED_SHAPES, *CONV_SHAPES)),
            partial(derivations_ranger21.ranger21, **settings),
            ("exp_avg", "last_exp_avg", "exp_avg_sq"),
        )


def slots() -> Iterator[Check]:
    """Amos with each kind of slots."""
    constants = {"eta": 0.3, "beta": 0.9, "c_coef": 0.3, "d_coef": 0.4, "eps": 1e-3}
    for kind, momentum in (("element", 0.0), ("element", 0.85), ("unit", 0.85), ("array", 0.0)):
        settings: dict[str, Any] = {**constants, "momentum": momentum, "slots": kind}
        settings |= {"extra_l2": 0.05, "unit_axis": -1}
        yield Check(
            isostep.rule("amos", **settings),
            "Tian and Parikh, amos.py",
            words({"slots": kind, "momentum": momentum}),
            mild((*MIXED_SHAPES, *CONV_SHAPES), lr=0.2),
            partial(derivations.amos, **settings),
            ("exp_avg_sq", "decay"),
        )


def decaying() -> Iterator[Check]:
    """Padam, LaProp and LARS."""
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
        early = {"centered": True, "amsgrad": True, "steps_before_using_centered": 4}
        yield Check(
            isostep.rule("laprop", **settings, **early),
            "Ziyin et al., the authors' code",
            f"centered, amsgrad, lr changing, decay {decay:g}",
            wild(MIXED_SHAPES),
            partial(derivations.laprop, **settings, early=4),
            ("exp_avg", "exp_avg_sq", "exp_mean_avg_beta2", "max_exp_avg_sq"),
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
    for corrected, axis, constraints in ((True, 0, True), (False, -1, True), (True, -1, False)):
        settings = {"beta": 0.9, "bias_scale": 0.3, "bias_correction": corrected, "unit_axis": axis}
        settings["constraints"] = constraints
        yield Check(
            isostep.rule("nero", **settings),
            "Liu et al., Algorithm 1",
            words(settings),
            quiet,
            partial(derivations.nero, **settings),
        )


def short() -> Iterator[Check]:
    """Adai, PNM, Rprop and Adam-mini, which one package has; Adam-mini's blocks on both axes."""
    several = mild((*MIXED_SHAPES, *CONV_SHAPES))
    inertia: dict[str, Any] = {"betas": (0.3, 0.96), "eps": 0.05}
    moments = ("exp_avg", "exp_avg_sq")
    for decay, decoupled in ((0.0, False), (0.1, False), (0.1, True)):
        shared = {"weight_decay": decay, "decoupled": decoupled}
        settings: dict[str, Any] = {**inertia, **shared}
        run = partial(derivations_short.adai, **settings)
        rule = isostep.rule("adai", **settings)
        yield Check(rule, "Xie et al., Algorithm 2", words(settings), several, run, moments)
        settings = {"betas": (0.85, 0.7), **shared}
        run = partial(derivations_short.pnm, **settings)
        rule = isostep.rule("pnm", **settings)
        yield Check(rule, "Xie et al., Algorithm 1", words(settings), wild(MIXED_SHAPES), run)
    for etas, sizes in (((0.5, 1.2), (1e-6, 50.0)), ((0.3, 1.9), (0.01, 0.06))):
        settings = {"etas": etas, "step_sizes": sizes}
        yield Check(
            isostep.rule("rprop", **settings),
            "Igel and Huesken, iRprop-",
            words(settings),
            wild(MIXED_SHAPES),
            partial(derivations_short.rprop, **settings),
            ("step_size",),
        )
    for kind, axis in (("unit", 0), ("unit", -1), ("array", 0)):
        settings = {**ADAM, "weight_decay": 0.1, "blocks": kind, "unit_axis": axis}
        yield Check(
            isostep.rule("adammini", **settings),
            "Zhang et al., Algorithm 1",
            words(settings),
            several,
            partial(derivations_short.adammini, **settings),
            ("exp_avg",),
        )


def optax_alone() -> Iterator[Check]:
    """ACProp, Simplified AdEMAMix and the optimistic rules, which no package but optax has, or has right."""
    moments = ("exp_avg", "exp_avg_sq")
    for decay in (0.0, 0.1):
        settings: dict[str, Any] = {**ADAM, "weight_decay": decay}
        yield Check(
            isostep.rule("acprop", **settings),
            "Zhuang et al., ACProp.py",
            words(settings),
            wild(MIXED_SHAPES),
            partial(derivations_short.acprop, **settings),
            ("exp_avg", "exp_avg_var"),
        )
        settings["alpha"] = 0.7
        run = partial(derivations_short.simplified_ademamix, **settings)
        rule = isostep.rule("simplified_ademamix", **settings)
        source = "Morwani et al., simplified_AdEMAMix.py"
        yield Check(rule, source, words(settings), wild(MIXED_SHAPES), run, moments)
    for alpha, beta in ((1.0, 1.0), (0.7, 0.6)):
        settings = {"alpha": alpha, "beta": beta}
        run = partial(derivations_short.optimistic_sgd, **settings)
        rule = isostep.rule("optimistic_sgd", **settings)
        source = "Daskalakis et al., optimistic mirror descent"
        yield Check(rule, source, words(settings), wild(MIXED_SHAPES), run)
        settings |= ADAM
        run = partial(derivations_short.optimistic_adam, **settings)
        rule = isostep.rule("optimistic_adam", **settings)
        source = "Daskalakis et al., Algorithm 1"
        yield Check(rule, source, words(settings), wild(MIXED_SHAPES), run, moments)


def free() -> Iterator[Check]:
    """DoG for the group and for each array, DoWG, COCOB, D-Adapt Adan; Polyak's step size, the loss about its bound."""
    walk = mild((*MIXED_SHAPES, *CONV_SHAPES), lr=0.7)
    for layers, first, decay in product((False, True), (None, 0.02), (0.0, 0.1)):
        settings: dict[str, Any] = {"reps_rel": 0.01, "init_eta": first, "eps": 1e-3}
        settings["weight_decay"] = decay
        run = partial(derivations_free.dog, **settings, layers=layers)
        name, oracle = ("ldog", "L-DoG") if layers else ("dog", "DoG")
        yield Check(
            isostep.rule(name, **settings), f"Ivgi et al., {oracle}", words(settings), walk, run
        )
    for first, decay in ((None, 0.0), (0.02, 0.1)):
        settings = {"eps": 1e-3, "init_estim_sq_dist": first, "weight_decay": decay}
        run = partial(derivations_free.dowg, **settings)
        rule = isostep.rule("dowg", **settings)
        yield Check(rule, "Khaled et al., Algorithm 1", words(settings), walk, run)
    for alpha, eps, decay in ((100.0, 1e-3, 0.0), (3.0, 1e-8, 0.1), (3.0, 0.0, 0.0)):
        settings = {"alpha": alpha, "eps": eps, "weight_decay": decay}
        problem = wild(MIXED_SHAPES, lr=0.7) if decay == 0 else walk
        run = partial(derivations_free.cocob, **settings)
        rule = isostep.rule("cocob", **settings)
        yield Check(rule, "Orabona and Tommasi, Algorithm 2", words(settings), problem, run)
    for no_prox, growth_rate, decay in ((False, inf, 0.0), (False, 1.1, 0.1), (True, 1.1, 0.1)):
        settings = {"d0": 0.01, "betas": (0.8, 0.7, 0.9), "eps": 1e-3, "weight_decay": decay}
        settings |= {"growth_rate": growth_rate, "no_prox": no_prox}
        run = partial(derivations_free.dadapt_adan, **settings)
        rule = isostep.rule("dadapt_adan", **settings)
        yield Check(rule, "Defazio and Mishchenko's package", words(settings), walk, run)
    for variant, fstar in product(("sps", "sps+"), (0.0, 3.0)):
        settings = {"c": 0.7, "fstar": fstar, "eps": 1e-3, "variant": variant}
        run = partial(derivations_free.polyak_sgd, **settings)
        rule = isostep.rule("polyak_sgd", **settings)
        yield Check(
            rule,
            "Loizou et al., SPS_max",
            words(settings),
            with_losses(mild(MIXED_SHAPES, lr=0.3)),
            run,
        )
