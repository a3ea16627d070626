"""The rules that torch.optim has too, and LAMB, against the collections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .package_row import ADAM, BETAS, EPS, MOMENTS, Row, quiet

PLAIN: dict[str, Any] = {"kahan_sum": False, "foreach": False, "triton": False}
"""optimi's own choices of speed, off."""


def descents() -> Iterator[Row]:
    """SGD; optimi's dampening is the whole momentum, and its buffer starts damped too."""
    for momentum, nesterov in ((0.0, False), (0.85, False), (0.85, True)):
        ours = {"momentum": momentum, "nesterov": nesterov}
        kept = {"momentum_buffer": "momentum_buffer"} if momentum else {}
        yield Row("sgd", "timm.optim.sgdw", "SGDW", ours, {**ours, "foreach": False}, kept)
    for decay in (0.0, 0.1):
        ours = {"momentum": 0.85, "weight_decay": decay}
        yield Row("sgd", "optimi", "SGD", ours, {"lr": 1.0, **ours, **PLAIN})


def adams() -> Iterator[Row]:
    """Adam and AdamW."""
    for decay in (0.0, 0.3):
        ours = {**ADAM, "weight_decay": decay}
        theirs = {"lr": 1.0, **ours, **PLAIN}
        yield Row("adam", "optimi", "Adam", ours, theirs)  # its averages are the corrected ones
        yield Row("adamw", "optimi", "AdamW", ours, theirs)
        for amsgrad in (False, True):
            mine = {**ours, "amsgrad": amsgrad}
            yield Row("adamw", "timm.optim.adamw", "AdamWLegacy", mine, mine, MOMENTS)


def variants() -> Iterator[Row]:
    """Adamax, RAdam, NAdam, LAMB."""
    off = {"weight_decouple": False, "foreach": False}
    for decay in (0.0, 0.1):
        ours = {**ADAM, "weight_decay": decay}
        kept = {"exp_avg": "exp_avg", "exp_inf": "exp_inf"}
        yield Row("adamax", "pytorch_optimizer", "AdaMax", ours, {**ours, **off}, kept)
        mine = {**ours, "decoupled_weight_decay": True}
        theirs = {**ours, "weight_decouple": True, "foreach": False}
        yield Row("adamax", "pytorch_optimizer", "AdaMax", mine, theirs, kept)
        ours = {"betas": (0.85, 0.99), "eps": EPS, "weight_decay": decay}
        if not decay:  # its coupled decay does not reach the averages
            theirs = {**ours, **off, "degenerated_to_sgd": True}
            yield Row("radam", "pytorch_optimizer", "RAdam", ours, theirs, MOMENTS)
            mine = {**ours, "degenerated_to_sgd": False}
            yield Row("radam", "pytorch_optimizer", "RAdam", mine, {**theirs, **mine}, MOMENTS)
        mine = {**ours, "dialect": "optax"}
        yield Row("radam", "optimi", "RAdam", mine, {"lr": 1.0, **ours, **PLAIN})
        ours = {**ADAM, "weight_decay": decay}
        yield Row(
            "nadam", "timm.optim.nadam", "NAdamLegacy", {**ours, "momentum_decay": 0.3},
            {**ours, "schedule_decay": 0.3}, MOMENTS,
        )  # fmt: skip
        # timm has no ratio without a decay unless it is told to.
        theirs = {**ours, "max_grad_norm": None, "always_adapt": True, "foreach": False}
        yield Row("lamb", "timm.optim.lamb", "Lamb", ours, theirs, MOMENTS)


def quotients() -> Iterator[Row]:
    """Adadelta, RMSprop in TensorFlow 1's dialect, Adafactor."""
    for decay in (0.0, 0.1):
        ours = {"rho": 0.8, "eps": EPS, "weight_decay": decay}
        yield Row("adadelta", "pytorch_optimizer", "AdaDelta", ours, {**ours, "foreach": False})
    for momentum in (0.0, 0.85):
        for centered in (False, True):
            ours = {"alpha": 0.9, "eps": EPS, "momentum": momentum, "centered": centered}
            states = {"square_avg": "square_avg"}
            states |= {"momentum_buffer": "momentum_buffer"} if momentum else {}
            yield Row(
                "rmsprop", "timm.optim.rmsprop_tf", "RMSpropTF", {**ours, "dialect": "tf1"},
                {**ours, "foreach": False}, states,
            )  # fmt: skip


def authors() -> Iterator[Row]:
    """AdaBound's own package, whose final_lr follows the learning rate."""
    for amsbound in (False, True):
        ours = {**ADAM, "gamma": 0.2, "weight_decay": 0.1, "amsbound": amsbound, "final_lr": 0.05}
        follow = {"final_lr": lambda lr: 0.05 * lr / 0.02}
        yield Row(
            "adabound", "adabound", "AdaBound", ours, {**ours, "lr": 0.02}, MOMENTS, quiet,
            changes=follow,
        )  # fmt: skip
    for decay in (0.0, 0.3):
        ours = {"betas": BETAS, "weight_decay": decay}
        yield Row("lion", "optimi", "Lion", ours, {"lr": 1.0, **ours, **PLAIN})


#: One function for a few rules.
TABLES: tuple[Callable[[], Iterator[Row]], ...] = (descents, adams, variants, quotients, authors)
