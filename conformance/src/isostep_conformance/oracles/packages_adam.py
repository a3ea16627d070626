"""The Adam family against the authors' packages and the collections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

from .package_row import ADAM, EPS, MOMENTS, Row, quiet, still


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
        for how in rectified():
            mine = {**ours, **how}
            yield Row("adabelief", "timm.optim.adabelief", "AdaBelief", mine, mine, kept)
            theirs = {**mine, "weight_decouple": True, "foreach": False}
            yield Row("adabelief", "pytorch_optimizer", "AdaBelief", mine, theirs, kept)


def rectified() -> Iterator[dict[str, bool]]:
    """RAdam's factor in another rule; the settings reach it within the run."""
    for degenerated in (True, False):
        yield {"rectify": True, "degenerated_to_sgd": degenerated}


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
        for kind, package in product(("grad", "direct"), ("torch_optimizer", "qhoptim.pyt")):
            ours = {"momentum": 0.85, "nu": 0.7, "weight_decay": decay, "weight_decay_type": kind}
            kept = {"momentum_buffer": "momentum_buffer"}
            yield Row("qhm", package, "QHM", ours, {"lr": 1.0, **ours}, kept)
        ours = {"momentum": 0.85, "nu": 0.7, "weight_decay": decay}
        yield Row("qhm", "pytorch_optimizer", "QHM", ours, {**ours, **kozistr}, kept)
        for decoupled in (False, True):
            ours = {**ADAM, "nus": (0.7, 0.8), "weight_decay": decay}
            ours |= {"decouple_weight_decay": decoupled}
            for package in ("torch_optimizer", "qhoptim.pyt"):
                yield Row("qhadam", package, "QHAdam", ours, ours, MOMENTS)
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
        for how in rectified():
            row = ("diffgrad", "pytorch_optimizer", "DiffGrad", {**ours, **how})
            yield Row(*row, {**theirs, **how}, kept, quiet, root, 1e-9)
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


#: One function for each rule or two.
TABLES: tuple[Callable[[], Iterator[Row]], ...] = (
    beliefs,
    bounds,
    quotients,
    variants,
)
