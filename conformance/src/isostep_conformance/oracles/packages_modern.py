"""Recent rules against their authors' packages and the collections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from .check import TOLERANCE
from .package_row import ADAM, BETAS, EPS, MOMENTS, Row, many, quiet, walk
from .problems import MIXED_SHAPES, Problem, mild, wild

LOOP = {"foreach": False}
ROOT = "pytorch_optimizer adds 1e-15 under the root"


def signs() -> Iterator[Row]:
    """Tiger without the relative step."""
    for decay in (0.0, 0.1):
        ours = {"beta": 0.85, "weight_decay": decay}
        kept = {"exp_avg": "exp_avg"}
        yield Row("tiger", "pytorch_optimizer", "Tiger", ours, {**ours, **LOOP}, kept)


def momenta() -> Iterator[Row]:
    """AggMo, PNM, Adai."""
    for decay in (0.0, 0.1):
        ours = {"betas": (0.3, 0.8, 0.95), "weight_decay": decay}
        yield Row("aggmo", "torch_optimizer", "AggMo", ours, {"lr": 1.0, **ours})
        yield Row("aggmo", "pytorch_optimizer", "AggMo", ours, {**ours, **LOOP})
        for decoupled in (False, True):
            shared = {"weight_decay": decay, "weight_decouple": decoupled, **LOOP}
            ours = {"betas": (0.85, 0.7), "weight_decay": decay, "decoupled": decoupled}
            kept = {n: n for n in ("pos_momentum", "neg_momentum")}
            theirs = {"betas": (0.85, 0.7), **shared}
            yield Row("pnm", "pytorch_optimizer", "PNM", ours, theirs, kept)
            ours = {"betas": (0.3, 0.96), "eps": 0.05, "weight_decay": decay}
            theirs = {"betas": (0.3, 0.96), "eps": 0.05, **shared}
            kept = {n: n for n in ("exp_avg", "exp_avg_sq", "beta1_prod")}
            mine = {**ours, "decoupled": decoupled}
            yield Row("adai", "pytorch_optimizer", "Adai", mine, theirs, kept, quiet)


def rates() -> Iterator[Row]:
    """AdaMod and AvaGrad."""
    for decay in (0.0, 0.1):
        ours = {**ADAM, "beta3": 0.9, "weight_decay": decay}
        kept = {**MOMENTS, "exp_avg_lr": "exp_avg_lr"}
        yield Row("adamod", "torch_optimizer", "AdaMod", ours, ours, kept)
        theirs = {"betas": (*BETAS, 0.9), "eps": EPS, "weight_decay": decay, **LOOP}
        yield Row("adamod", "pytorch_optimizer", "AdaMod", ours, theirs, kept)
        ours = {"betas": BETAS, "eps": 0.1, "weight_decay": decay}
        theirs = {**ours, "weight_decouple": False, **LOOP}
        yield Row("avagrad", "pytorch_optimizer", "AvaGrad", ours, theirs, MOMENTS, quiet)


def corrections() -> Iterator[Row]:
    """MARS in both dialects and both types."""
    for decay, kind in product((0.0, 0.1), ("adamw", "lion")):
        ours: dict[str, Any] = {**ADAM, "gamma": 0.3, "weight_decay": decay, "mars_type": kind}
        kept = {"exp_avg": "exp_avg", "last_grad": "last_grad"}
        kept |= {"exp_avg_sq": "exp_avg_sq"} if kind == "adamw" else {}
        theirs = {**ours, "optimize_1d": True}
        mine = {**ours, "dialect": "timm"}
        yield Row("mars", "timm.optim.mars", "Mars", mine, theirs, kept, quiet)
        # Its eps is inside of Adam's correction, so that only eps = 0 can agree.
        ours, theirs = ({**x, "eps": 0.0} for x in (ours, {**theirs, **LOOP}))
        note, tolerance = (ROOT, 1e-9) if kind == "adamw" else ("", TOLERANCE)
        yield Row("mars", "pytorch_optimizer", "MARS", ours, theirs, kept, quiet, note, tolerance)


def factored() -> Iterator[Row]:
    """CAME: vectors, matrices and more axes."""
    for decay in (0.0, 0.1):
        shared = {"betas": (0.85, 0.96, 0.9), "clip_threshold": 0.8, "weight_decay": decay}
        ours = {**shared, "eps": (EPS, 2 * EPS)}
        theirs = {**ours, "lr": 1.0}
        yield Row("came", "came_pytorch", "CAME", ours, theirs, {"exp_avg": "exp_avg"}, many)


def ratios() -> Iterator[Row]:
    """AdaSmooth; eps is added to its sum of moves too there, so that only a tiny one can agree."""
    for decay in (0.0, 0.1):
        ours = {"betas": (0.5, 0.9), "eps": 1e-290, "weight_decay": decay}
        kept = {"exp_avg_sq": "exp_avg_sq"}
        yield Row("adasmooth", "pytorch_optimizer", "AdaSmooth", ours, {**ours, **LOOP}, kept)


def scales() -> Iterator[Row]:
    """Amos on vectors, whose scale is 0.5 there; without extra_l2, which has another sign, nor eps."""
    for momentum in (0.0, 0.85):
        shared = {"beta": 0.9, "momentum": momentum, "c_coef": 0.3, "d_coef": 0.4, "eps": 1e-290}
        ours = {**shared, "eta": 0.5, "slots": "array"}
        kept = {n: n for n in ("exp_avg_sq", "decay")}
        row = ("amos", "pytorch_optimizer", "Amos")
        yield Row(*row, ours, {**shared, "extra_l2": 0.0, **LOOP}, kept, vectors)


def vectors() -> Problem:
    """Arrays of at most one axis, and a learning rate that the decay notices."""
    return mild(((7,), (), (12,)), lr=0.2)


def estimates() -> Iterator[Row]:
    """D-Adapt Adam and SGD with their bounds as group state."""
    group = {n: n for n in ("d", "numerator_weighted")}
    for settings in (
        {},
        {"use_bias_correction": True, "growth_rate": 1.1},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decouple": True, "use_bias_correction": True},
    ):
        ours = {**ADAM, "d0": 0.01, **settings}
        kept = {**MOMENTS, "s": "s"}
        row = ("dadapt_adam", "dadaptation", "DAdaptAdam")
        yield Row(*row, ours, ours, kept, walk, group=group)
    for settings in ({}, {"momentum": 0.85, "weight_decay": 0.1}, {"growth_rate": 1.1}):
        ours = {"d0": 0.01, **settings}
        kept = {n: n for n in ("s", "x0")}
        row = ("dadapt_sgd", "dadaptation", "DAdaptSGD")
        yield Row(*row, ours, ours, kept, walk, group={**group, "g0_norm": "g0_norm"})


def more_estimates() -> Iterator[Row]:
    """D-Adapt AdaGrad, Adan and Lion, of the authors' package and of a collection."""
    group = {n: n for n in ("d", "gsq_weighted")}
    decayed: dict[str, Any] = {"weight_decay": 0.1}
    adan: dict[str, Any] = {"betas": (0.8, 0.7, 0.9), "eps": EPS}
    gradient = {"previous_grad": "pre_grad"}
    for ours, states in (
        ({"eps": EPS}, ("alphak", "sk", "x0")),
        ({"eps": EPS, "momentum": 0.85, "growth_rate": 1.1, **decayed}, ("alphak", "sk", "x0")),
    ):
        ours = {"d0": 0.01, **ours}
        kept = {n: n for n in states}
        yield Row(
            "dadapt_adagrad", "dadaptation", "DAdaptAdaGrad", ours, ours, kept, walk, group=group
        )
        yield Row("dadapt_adagrad", "pytorch_optimizer", "DAdaptAdaGrad", ours, ours, problem=walk)
    for ours in ({}, {"growth_rate": 1.1, **decayed}, {"no_prox": True, **decayed}):
        ours = {"d0": 0.01, "weight_decay": 0.0, **adan, **ours}
        kept = {n: n for n in ("s", "exp_avg", "exp_avg_diff", "exp_avg_sq")} | gradient
        yield Row("dadapt_adan", "dadaptation", "DAdaptAdan", ours, ours, kept, walk, group=group)
    group = {n: n for n in ("d", "numerator_weighted")}
    for ours in ({}, decayed):
        ours = {"d0": 0.01, "betas": BETAS, **ours}
        kept = {n: n for n in ("s", "exp_avg")}
        yield Row("dadapt_lion", "dadaptation", "DAdaptLion", ours, ours, kept, walk, group=group)
        theirs = {**ours, "weight_decouple": True}
        yield Row("dadapt_lion", "pytorch_optimizer", "DAdaptLion", ours, theirs, problem=walk)


def syntheses() -> Iterator[Row]:
    """Ranger with a window short enough to be rectified within the run."""
    for decay, centralized in product((0.0, 0.1), (False, True)):
        shared = {**ADAM, "alpha": 0.7, "k": 4, "weight_decay": decay, "use_gc": centralized}
        theirs = {**shared, "degenerated_to_sgd": True, **LOOP}
        yield Row("ranger", "pytorch_optimizer", "Ranger", shared, theirs, MOMENTS, many)


def curvatures() -> Iterator[Row]:
    """Apollo with the constant rebound."""
    for decay, kind in ((0.0, "L2"), (0.1, "L2"), (0.1, "decoupled"), (0.1, "stable")):
        ours = {"beta": 0.85, "eps": EPS, "rebound": 0.01, "weight_decay": decay}
        mine = {**ours, "weight_decay_type": kind}
        theirs: dict[str, Any] = {n: x for n, x in ours.items() if n != "rebound"}
        theirs |= {"eps": EPS * 0.01, "rebound": "constant", "weight_decay_type": kind.lower()}
        theirs |= {"warmup_steps": 0, **LOOP}
        kept = {n: n for n in ("exp_avg_grad", "approx_hessian", "update")}
        yield Row("apollo", "pytorch_optimizer", "ApolloDQN", mine, theirs, kept, quiet)


def warm_ups() -> Iterator[Row]:
    """Schedule-Free RAdam, evaluation point included, over both of its phases."""
    group = {"lr_max": "lr_max", "weight_sum": "weight_sum"}
    for decay, silent in product((0.0, 0.1), (True, False)):
        ours = {**ADAM, "r": 0.5, "weight_lr_power": 1.5, "weight_decay": decay}
        ours |= {"silent_sgd_phase": silent}
        row = ("schedule_free_radam", "schedulefree", "RAdamScheduleFree")
        kept = {n: n for n in ("z", "exp_avg_sq")}
        theirs = {"lr": 1.0, **ours, **LOOP}
        yield Row(*row, ours, theirs, kept, plain, group=group)


def plain() -> Problem:
    """Learning rates as Python's own floats, whose division by zero the package relies on."""
    problem = wild(MIXED_SHAPES)
    return replace(problem, lrs=tuple(map(float, problem.lrs)))


def second() -> Iterator[Row]:
    """Rules that one author's package has, against a collection's own code."""
    package = "pytorch_optimizer"
    still = {"momentum": 0.0, "weight_decay": 0.0}
    yield Row("signsgd", package, "SignSGD", {}, {**still, **LOOP})
    shared: dict[str, Any] = {"betas": (0.85, 0.96, 0.9), "weight_decay": 0.1}
    theirs = {**shared, "eps1": EPS, "eps2": 2 * EPS, **LOOP}
    yield Row("came", package, "CAME", {**shared, "eps": (EPS, 2 * EPS)}, theirs, problem=many)
    shared = {**ADAM, "d0": 0.01}
    yield Row("dadapt_adam", package, "DAdaptAdam", shared, {**shared, **LOOP}, problem=walk)
    shared = {**ADAM, "r": 0.5, "weight_lr_power": 1.5, "weight_decay": 0.1}
    theirs = {"lr": 1.0, **shared, **LOOP}
    yield Row("schedule_free_radam", package, "ScheduleFreeRAdam", shared, theirs, problem=plain)


TABLES: tuple[Callable[[], Iterator[Row]], ...] = (
    signs, momenta, rates, corrections, factored, ratios, scales, estimates, more_estimates,
    syntheses, curvatures, warm_ups, second
)  # fmt: skip
