"""Rules against packages of torch optimizers: the authors' own, and the collections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import isostep

from . import torch_packages
from .check import TOLERANCE, Check
from .check_torch_more import words
from .problems import CONV_SHAPES, MIXED_SHAPES, Problem, mild, wild

BETAS = (0.85, 0.96)
EPS = 1e-3
ADAM = {"betas": BETAS, "eps": EPS}
MOMENTS = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}


@dataclass(frozen=True)
class Row:
    """A rule with settings against ``package.Class`` with its own; what is left out is the same."""

    rule: str
    package: str
    kind: str
    ours: Mapping[str, Any]
    theirs: Mapping[str, Any]
    states: Mapping[str, str] = field(default_factory=dict)
    problem: Callable[[], Problem] = lambda: wild(MIXED_SHAPES)
    note: str = ""
    tolerance: float = TOLERANCE
    changes: Mapping[str, Callable[[float], float]] = field(default_factory=dict)
    group: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> Check:
        """The check of this row."""
        make = partial(torch_packages.optimizer_class(self.package, self.kind), **self.theirs)
        return Check(
            isostep.rule(self.rule, **self.ours),
            f"{self.package.split('.')[0]}.{self.kind}",
            words(dict(self.ours)),
            self.problem(),
            partial(torch_packages.run, make, states=self.states, group=self.group),
            tuple(self.states),
            tolerance=self.tolerance,
            note=self.note,
            changes=self.changes,
        )


def constant(problem: Problem) -> Problem:
    """The same problem with one learning rate."""
    return replace(problem, lrs=(problem.lrs[0],) * len(problem.lrs))


def quiet() -> Problem:
    """Gradients of one magnitude."""
    return mild(MIXED_SHAPES)


def still() -> Problem:
    """One learning rate, for packages that sum it into their state."""
    return constant(wild(MIXED_SHAPES))


def checks() -> Iterator[Check]:
    """All of them."""
    for make in TABLES:
        for row in make():
            yield row.check()


def sign_rules() -> Iterator[Row]:
    """Lion and Signum."""
    for decay in (0.0, 0.3):
        ours = {"betas": BETAS, "weight_decay": decay}
        kept = {"exp_avg": "exp_avg"}
        yield Row("lion", "lion_pytorch", "Lion", ours, {"lr": 1.0, **ours}, kept)
        yield Row("lion", "pytorch_optimizer", "Lion", ours, {**ours, "foreach": False}, kept)
        yield Row("lion", "timm.optim.lion", "Lion", ours, {**ours, "foreach": False}, kept)
        theirs = {"momentum": 0.85, "weight_decay": decay, "weight_decouple": True}
        yield Row(
            "signum",
            "pytorch_optimizer",
            "SignSGD",
            {"momentum": 0.85, "weight_decay": decay},
            {**theirs, "foreach": False},
            {"momentum_buffer": "momentum_buffer"},
        )


def lars() -> Iterator[Row]:
    """LARS in timm's dialect, and the paper's with a constant learning rate."""
    for settings in (
        {"momentum": 0.0},
        {"momentum": 0.85, "weight_decay": 0.1},
        {"momentum": 0.85, "weight_decay": 0.1, "nesterov": True},
        {"momentum": 0.85, "weight_decay": 0.1, "dampening": 0.3},
    ):
        ours = {"trust_coefficient": 0.1, "eps": EPS, **settings}
        theirs = {"lr": 1.0, "trust_coeff": 0.1, "eps": EPS, **settings}
        kept = {"momentum_buffer": "momentum_buffer"} if settings["momentum"] else {}
        timm = {**theirs, "always_adapt": True, "foreach": False}
        for dialect, problem, states in (("timm", quiet, kept), ("paper", still, {})):
            yield Row(
                "lars", "timm.optim.lars", "Lars", {**ours, "dialect": dialect}, timm, states,
                problem,
            )  # fmt: skip
        if "weight_decay" in settings:  # without decay it has no ratio
            yield Row(
                "lars", "torch_optimizer", "LARS", {**ours, "dialect": "timm"},
                {n.replace("trust_coeff", "trust_coefficient"): x for n, x in theirs.items()}, kept,
                quiet,
            )  # fmt: skip


def beliefs() -> Iterator[Row]:
    """AdaBelief."""
    for decay in (0.0, 0.3):
        for amsgrad in (False, True):
            ours = {**ADAM, "weight_decay": decay, "amsgrad": amsgrad}
            states = {"exp_avg": "exp_avg", "exp_avg_var": "exp_avg_var"}
            states |= {"max_exp_avg_var": "max_exp_avg_var"} if amsgrad else {}
            theirs = {**ours, "rectify": False}
            yield Row("adabelief", "timm.optim.adabelief", "AdaBelief", ours, theirs, states)
            if not amsgrad:  # torch-optimizer adds eps to the maximum instead, again and again
                jettify = {**theirs, "weight_decouple": True}
                yield Row("adabelief", "torch_optimizer", "AdaBelief", ours, jettify, states)
        ours = {**ADAM, "weight_decay": decay}
        theirs = {**ours, "weight_decouple": True, "rectify": False, "foreach": False}
        kept = {n: n for n in ("exp_avg", "exp_avg_var")}
        yield Row("adabelief", "pytorch_optimizer", "AdaBelief", ours, theirs, kept)


def bounds() -> Iterator[Row]:
    """AdaBound, whose packages let final_lr follow the learning rate."""
    for amsbound in (False, True):
        for decay in (0.0, 0.1):
            ours = {**ADAM, "gamma": 0.2, "weight_decay": decay, "amsbound": amsbound}
            theirs = {**ours, "final_lr": 0.05, "lr": 0.02}
            states = {**MOMENTS, **({"max_exp_avg_sq": "max_exp_avg_sq"} if amsbound else {})}
            follow = {"final_lr": lambda lr: 0.05 * lr / 0.02}
            yield Row(
                "adabound", "torch_optimizer", "AdaBound", ours, theirs, states, changes=follow
            )
            own = {n: x for n, x in theirs.items() if n != "amsbound"}
            kozistr = {**own, "ams_bound": amsbound, "weight_decouple": False, "foreach": False}
            yield Row(
                "adabound", "pytorch_optimizer", "AdaBound", ours, kozistr, states, quiet,
                "pytorch_optimizer adds 1e-15 under the root", 1e-9, changes=follow,
            )  # fmt: skip


def quotients() -> Iterator[Row]:
    """Yogi, QHM, QHAdam, LaProp, Adan, ADOPT, AdEMAMix."""
    for decay in (0.0, 0.1):
        ours = {**ADAM, "initial_accumulator": 0.1, "weight_decay": decay}
        yield Row("yogi", "torch_optimizer", "Yogi", ours, ours, MOMENTS)
        kozistr = {"weight_decouple": False, "foreach": False}
        yield Row("yogi", "pytorch_optimizer", "Yogi", ours, {**ours, **kozistr}, MOMENTS)
        for kind, package in (("grad", "torch_optimizer"), ("direct", "torch_optimizer")):
            ours = {"momentum": 0.85, "nu": 0.7, "weight_decay": decay, "weight_decay_type": kind}
            kept = {"momentum_buffer": "momentum_buffer"}
            yield Row("qhm", package, "QHM", ours, {"lr": 1.0, **ours}, kept)
        ours = {"momentum": 0.85, "nu": 0.7, "weight_decay": decay}
        yield Row("qhm", "pytorch_optimizer", "QHM", ours, {**ours, **kozistr}, kept)
        for decoupled in (False, True):
            ours = {**ADAM, "nus": (0.7, 0.8), "weight_decay": decay}
            ours |= {"decouple_weight_decay": decoupled}
            yield Row("qhadam", "torch_optimizer", "QHAdam", ours, ours, MOMENTS)
        ours = {**ADAM, "weight_decay": 0.0}
        yield Row(
            "laprop", "timm.optim.laprop", "LaProp", ours, {**ours, "foreach": False}, {}, still,
            "the packages average lr too",
        )  # fmt: skip
        for no_prox in (False, True):
            ours = {"betas": (0.8, 0.7, 0.9), "eps": EPS, "weight_decay": 3 * decay}
            ours |= {"no_prox": no_prox}
            states = {n: n for n in ("exp_avg", "exp_avg_diff", "exp_avg_sq")}
            timm = {**ours, "foreach": False}
            yield Row("adan", "timm.optim.adan", "Adan", ours, timm, states)
            theirs = {n: x for n, x in ours.items() if n != "no_prox"}
            theirs |= {"weight_decouple": no_prox, "foreach": False}
            yield Row("adan", "pytorch_optimizer", "Adan", ours, theirs, states)
        for decouple in (False, True):
            ours = {**ADAM, "clip_exp": 0.2, "weight_decay": decay, "decouple": decouple}
            theirs = {n: x for n, x in ours.items() if n != "decouple"}
            theirs |= {"decoupled": decouple, "foreach": False}
            yield Row("adopt", "timm.optim.adopt", "Adopt", ours, theirs, MOMENTS)


def many() -> Problem:
    """Gradients of one magnitude for matrices, kernels and vectors."""
    return mild((*MIXED_SHAPES, *CONV_SHAPES))


def projections() -> Iterator[Row]:
    """AdamP and SGDP, with deltas for which some, all and none of the arrays are projected."""
    kept = {"momentum_buffer": "momentum"}
    for delta in (0.1, 1.0, 2.0, 3.0):
        for nesterov in (False, True):
            shared = {"eps": EPS, "delta": delta, "wd_ratio": 0.3, "nesterov": nesterov}
            ours = {"betas": BETAS, "weight_decay": 0.1, **shared}
            for package in ("adamp", "timm.optim.adamp", "torch_optimizer"):
                yield Row("adamp", package, "AdamP", ours, ours, MOMENTS, many)
            ours = {"momentum": 0.85, "dampening": 0.3, "weight_decay": 0.1, **shared}
            mine = {**ours, "dialect": "original"}
            for package in ("adamp", "torch_optimizer"):
                yield Row("sgdp", package, "SGDP", mine, {"lr": 1.0, **ours}, kept, many)
            theirs = {"lr": 1.0, **ours}
            yield Row("sgdp", "timm.optim.sgdp", "SGDP", ours, theirs, kept, many)


def duals() -> Iterator[Row]:
    """MADGRAD with and without momentum."""
    for momentum in (0.0, 0.85):
        for decay, decoupled in ((0.0, False), (0.1, False), (0.1, True)):
            ours = {"momentum": momentum, "eps": EPS, "weight_decay": decay}
            states = {n: n for n in ("grad_sum_sq", "s", *(("x0",) if momentum else ()))}
            for package, flag, more in (
                ("madgrad", "decouple_decay", {}),
                ("timm.optim.madgrad", "decoupled_decay", {}),
                ("pytorch_optimizer", "weight_decouple", {"foreach": False}),
            ):
                if decoupled and package.startswith("timm"):
                    continue  # its decoupled decay is not times lr + eps
                theirs = {**ours, flag: decoupled, **more}
                mine = {**ours, "decouple_decay": decoupled}
                yield Row("madgrad", package, "MADGRAD", mine, theirs, states, quiet)


def variants() -> Iterator[Row]:
    """AdEMAMix, diffGrad, Padam, StableAdamW."""
    root = "pytorch_optimizer adds 1e-15 under the root"
    for decay in (0.0, 0.1):
        ours = {"betas": (0.85, 0.96, 0.99), "alpha": 3.0, "eps": EPS, "weight_decay": decay}
        theirs = {**ours, "weight_decouple": True, "foreach": False}
        states = {
            "exp_avg_fast": "exp_avg",
            "exp_avg_slow": "exp_avg_slow",
            "exp_avg_sq": "exp_avg_sq",
        }
        yield Row("ademamix", "pytorch_optimizer", "AdEMAMix", ours, theirs, states)
        ours = {**ADAM, "weight_decay": decay}
        kept = {**MOMENTS, "previous_grad": "previous_grad"}
        yield Row("diffgrad", "torch_optimizer", "DiffGrad", ours, ours, MOMENTS)
        theirs = {**ours, "weight_decouple": False, "foreach": False}
        yield Row(
            "diffgrad", "pytorch_optimizer", "DiffGrad", ours, theirs, kept, quiet, root, 1e-9
        )
        mine = {**ours, "partial": 0.2, "amsgrad": False}
        theirs = {**ours, "partial": 0.2, "weight_decouple": False, "foreach": False}
        yield Row("padam", "pytorch_optimizer", "PAdam", mine, theirs, MOMENTS)
        off = {"kahan_sum": False, "foreach": False}
        yield Row(
            "stable_adamw",
            "optimi",
            "StableAdamW",
            ours,
            {"lr": 1.0, **ours, **off, "triton": False},
            MOMENTS,
        )
        yield Row(
            "stable_adamw", "pytorch_optimizer", "StableAdamW", ours, {**ours, **off}, MOMENTS
        )


def averages() -> Iterator[Row]:
    """Schedule-Free: the package's own two forms, and pytorch_optimizer's."""
    group = {"lr_max": "lr_max", "weight_sum": "weight_sum"}
    for decay in (0.0, 0.1):
        weights = {"r": 0.5, "weight_lr_power": 1.5, "weight_decay": decay}
        ours = {"momentum": 0.85, **weights}
        off = {"foreach": False}
        for kind in ("SGDScheduleFree", "SGDScheduleFreeReference"):
            yield Row(
                "schedule_free_sgd",
                "schedulefree",
                kind,
                ours,
                {"lr": 1.0, **ours, **off},
                {"z": "z"},
                group=group,
            )
        yield Row(
            "schedule_free_sgd",
            "pytorch_optimizer",
            "ScheduleFreeSGD",
            ours,
            {**ours, **off},
            {"z": "z"},
        )
        ours = {**ADAM, **weights}
        kept = {"z": "z", "exp_avg_sq": "exp_avg_sq"}
        for kind in ("AdamWScheduleFree", "AdamWScheduleFreeReference"):
            theirs = {"lr": 1.0, **ours, **(off if kind[-1] == "e" and "R" not in kind else {})}
            yield Row("schedule_free_adamw", "schedulefree", kind, ours, theirs, kept, group=group)
        yield Row(
            "schedule_free_adamw",
            "pytorch_optimizer",
            "ScheduleFreeAdamW",
            ours,
            {**ours, **off},
            kept,
            quiet,
            "pytorch_optimizer adds 1e-15 under the root",
            1e-9,
        )


def estimates() -> Iterator[Row]:
    """Prodigy with the estimated distance as group state."""
    states = {n: n for n in ("exp_avg", "exp_avg_sq")}
    for settings in (
        {},
        {"use_bias_correction": True, "d_coef": 1.5},
        {"growth_rate": 1.1, "weight_decay": 0.1, "beta3": 0.9},
        {"safeguard_warmup": True, "weight_decay": 0.1, "decouple": False},
    ):
        ours = {**ADAM, "d0": 0.01, **settings}
        group = {n: n for n in ("d", "d_max", "d_numerator")}
        yield Row("prodigy", "prodigyopt", "Prodigy", ours, ours, states, walk, group=group)
        names = {"use_bias_correction": "bias_correction", "decouple": "weight_decouple"}
        theirs = {"foreach": False, **{names.get(n, n): x for n, x in ours.items()}}
        if settings.get("decouple", True):  # its coupled decay comes too late to have any effect
            yield Row("prodigy", "pytorch_optimizer", "Prodigy", ours, theirs, states, walk)


def walk() -> Problem:
    """A learning rate near one, as Prodigy wants."""
    return mild(MIXED_SHAPES, lr=0.7)


TABLES = (
    sign_rules, lars, beliefs, bounds, quotients, projections, duals, variants, averages, estimates
)  # fmt: skip
