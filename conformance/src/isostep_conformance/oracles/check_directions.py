"""PID, BCOS and SGD-SaI: against loops of their formulas, and against packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import isostep

from . import derivations_directions, torch_packages
from .check import Check, words
from .package_row import EPS, Row
from .problems import MIXED_SHAPES, Problem, Record, wild

LOOP = {"foreach": False}
BCOS: tuple[dict[str, Any], ...] = tuple(
    {
        "beta": 0.8,
        "beta2": beta2,
        "eps": EPS,
        "mode": mode,
        "decouple_wd": decoupled,
        "simple_cond": simple,
        "weight_decay": 0.1,
    }
    for mode, simple in (("g", False), ("m", False), ("c", False), ("c", True))
    for beta2, decoupled in ((None, True), (0.96, False))
)
#: rule -> settings
SETTINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "pid": tuple(
        {
            "momentum": 0.8,
            "dampening": dampening,
            "integral": 3.0,
            "derivative": derivative,
            "weight_decay": 0.1,
        }
        for dampening, derivative in ((0.0, 7.0), (0.3, 7.0), (0.3, 0.0))
    ),
    "bcos": BCOS,
    "sgd_sai": tuple({"momentum": 0.8, "eps": EPS, "weight_decay": decay} for decay in (0.0, 0.1)),
}


def derivations() -> Iterator[Check]:
    """Against loops of the papers' formulas."""
    for name, every in SETTINGS.items():
        source = isostep.definition(name).paper.partition(",")[0]
        for settings in every:
            run = partial(getattr(derivations_directions, name), **settings)
            rule = isostep.rule(name, **settings)
            yield Check(rule, source, words(settings), wild(MIXED_SHAPES), run)


def rows() -> Iterator[Row]:
    """Against packages that have them."""
    for ours in SETTINGS["pid"]:
        if not ours["dampening"]:
            theirs = {**ours, "weight_decouple": False, **LOOP}
            yield Row("pid", "pytorch_optimizer", "PID", ours, theirs)
        if not ours["derivative"]:  # it has no gradient before the second
            yield Row("pid", "torch_optimizer", "PID", ours, ours)
    for ours in SETTINGS["sgd_sai"]:
        kept = {"momentum_buffer": "momentum_buffer", "gsnr": "gsnr"}
        yield Row("sgd_sai", "sgd_sai", "SGD_sai", ours, ours, kept)


def packages() -> Iterator[Check]:
    """BCOS of pytorch_optimizer, whose estimate of mode "c" is handed the momentum before the step."""
    for ours in BCOS:
        theirs = {n: v for n, v in ours.items() if n != "decouple_wd"}
        theirs |= {"weight_decouple": ours["decouple_wd"], **LOOP}
        check = Row("bcos", "pytorch_optimizer", "BCOS", ours, theirs).check()
        note = "with the momentum before the step" if ours["mode"] == "c" else ""
        yield replace(check, theirs=partial(_early, check.theirs), note=note)


def _early(run: Callable[[Problem], Record], problem: Problem) -> Record:
    kind = torch_packages.optimizer_class("pytorch_optimizer", "BCOS")
    estimate = kind.compute_v

    def before(self: Any, g: Any, m: Any, beta: float, beta2: float | None) -> Any:
        return estimate(self, g, (m - (1 - beta) * g) / beta, beta, beta2)

    with patch.object(kind, "compute_v", before):
        return run(problem)


TABLES: tuple[Callable[[], Iterator[Row]], ...] = (rows,)
