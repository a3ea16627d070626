"""isostep for PyTorch: every rule as a ``torch.optim.Optimizer``, and the paths it runs on as backends.

>>> import torch
>>> from isostep_torch import AddSign
>>> model = torch.nn.Linear(3, 1)
>>> optimizer = AddSign(model.parameters(), lr=1e-3)

The paths are ``torch:fused`` (compiled passes over all CPU tensors), ``torch:fused(cuda)`` (Triton kernels),
``torch:foreach`` and ``torch:loop``; ``torch:triton(interpreter)`` is for tests: the Triton kernels on the CPU.
"""

from __future__ import annotations

import fnmatch
from typing import Any

import torch

import isostep
from isostep.naming import by_class, camel_case
from isostep.rule import BoundRule
from isostep.version import VERSION as __version__
from isostep_torch.backward import step_in_backward
from isostep_torch.classes import optimizer_class
from isostep_torch.foreach import TorchForeach
from isostep_torch.groups import param_groups
from isostep_torch.lbfgs import LBFGS
from isostep_torch.loop import TorchLoop
from isostep_torch.optimizer import Optimizer
from isostep_torch.portable import from_portable, to_portable
from isostep_torch.sparse_adam import SparseAdam

__all__ = [
    "LBFGS",
    "Optimizer",
    "SparseAdam",
    "TorchForeach",
    "TorchLoop",
    "__version__",
    "from_portable",
    "from_rule",
    "list_optimizers",
    "load_optimizer",
    "param_groups",
    "step_in_backward",
    "to_portable",
]


#: The classes of solvers, whose step needs a closure.
_SOLVERS: dict[str, type[torch.optim.Optimizer]] = {LBFGS.definition.name: LBFGS}


def list_optimizers(pattern: str = "*") -> list[str]:
    """The names of the rules and solvers that match, sorted; each is ``load_optimizer(name)``."""
    return fnmatch.filter(sorted([*isostep.rules(), *_SOLVERS]), pattern)


def load_optimizer(name: str) -> type[Any]:
    """The optimizer class of a rule or solver, by its name or its class's: ``"addsign"`` or ``"AddSign"``."""
    if not isinstance(name, str):
        message = f"load_optimizer needs a rule's name, got {name!r}; see list_optimizers()"
        raise TypeError(message)
    for solver, made in _SOLVERS.items():
        if name in (solver, made.__name__):
            return made
    rule = by_class(name)
    found: type[Optimizer] = globals().setdefault(camel_case(rule), optimizer_class(rule))
    return found


def from_rule(rule: BoundRule, params: Any, **options: Any) -> Optimizer:
    """An optimizer for any bound rule: with schedules as hyperparameters, or composed with pieces."""
    if not isinstance(rule, BoundRule):
        message = f"from_rule needs a rule such as isostep.rule('adamw'), got {rule!r}"
        raise TypeError(message)
    return Optimizer(params, rule, **options)


def __getattr__(name: str) -> Any:
    if name[:1].isupper() and any(camel_case(r) == name for r in isostep.rules()):
        return load_optimizer(name)
    known = ", ".join(map(camel_case, isostep.rules()))
    message = f"module {__name__!r} has no attribute {name!r}; optimizers: {known}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*__all__, *map(camel_case, isostep.rules())})
