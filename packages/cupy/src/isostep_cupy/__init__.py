"""isostep for CuPy: every rule as an optimizer of device arrays, and the paths it runs on as backends.

>>> import cupy
>>> from isostep_cupy import AddSign
>>> params = [cupy.ones((3, 4)), cupy.zeros(4)]
>>> opt = AddSign(params, lr=1e-3)
>>> opt.step([cupy.ones((3, 4)), cupy.ones(4)])

The paths are ``cupy:raw`` (one CUDA kernel per stage over all arrays) and ``cupy:generic`` (the rule's own functions on
CuPy arrays). ``cupy:raw(host)`` is for tests: the kernels' text on the CPU.
"""

from __future__ import annotations

from typing import Any

import isostep
from isostep.naming import by_class, camel_case
from isostep.rule import BoundRule
from isostep.version import VERSION as __version__
from isostep_cupy.backend import CupyGeneric
from isostep_cupy.optimizer import Optimizer, optimizer_class

__all__ = ["CupyGeneric", "Optimizer", "__version__", "from_rule", "load_optimizer"]


def load_optimizer(name: str) -> type[Optimizer]:
    """The optimizer class of a rule, by the rule's name or its class's: ``"addsign"`` or ``"AddSign"``."""
    rule = by_class(name)
    found: type[Optimizer] = globals().setdefault(camel_case(rule), optimizer_class(rule))
    return found


def from_rule(
    rule: BoundRule, params: Any, *, path: str | None = None, **options: Any
) -> Optimizer:
    """An optimizer for any bound rule: with schedules as hyperparameters, or composed with pieces."""
    return Optimizer(params, rule, path=path, **options)


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and any(camel_case(r) == name for r in isostep.rules()):
        return load_optimizer(name)
    known = ", ".join(map(camel_case, isostep.rules()))
    message = f"module {__name__!r} has no attribute {name!r}; optimizers: {known}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*__all__, *map(camel_case, isostep.rules())})
