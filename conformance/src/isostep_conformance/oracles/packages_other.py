"""Everything but the Adam family against the authors' packages and the collections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .package_row import ADAM, BETAS, EPS, Row, quiet, still


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


def averages() -> Iterator[Row]:
    """Schedule-Free: the package's own two forms, and pytorch_optimizer's."""
    group = {"lr_max": "lr_max", "weight_sum": "weight_sum"}
    for decay in (0.0, 0.1):
        weights: dict[str, Any] = {"r": 0.5, "weight_lr_power": 1.5, "weight_decay": decay}
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


#: One function for each rule or two.
TABLES: tuple[Callable[[], Iterator[Row]], ...] = (sign_rules, lars, duals, averages)
