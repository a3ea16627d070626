"""isostep: every deep-learning optimizer specified once, and proved to take the same step on every framework.

>>> import isostep, numpy as np
>>> rule = isostep.rule("addsign", lr=0.5)
>>> backend = isostep.backend("numpy:reference")
>>> params = [np.ones(2)]
>>> state = backend.init(rule, params)
>>> params, state = backend.step(rule, params, [np.array([0.25, -0.5])], state)
>>> params[0]
array([0.75, 1.5 ])
"""

from __future__ import annotations

from typing import Any

import isostep.rules as _rule_files  # first, so that the function rules() below is not shadowed later
from isostep import (
    averaging,
    curvature,
    domains,
    formulas,
    guards,
    multitask,
    nm,
    noise,
    pieces,
    plot,
    schedules,
    sharpness,
    solvers,
    telemetry,
)
from isostep.backend import Backend, BackendError, Family, Unavailable, backend
from isostep.domains import DomainError
from isostep.execute import ArrayBackend
from isostep.extras import MissingExtra
from isostep.files import FileError, load, save
from isostep.formulas import FormulaError, from_formula
from isostep.moving import move
from isostep.program import Program, trace
from isostep.registry import Folder
from isostep.rule import BoundPiece, BoundRule, Piece, Rule, RuleError, compose
from isostep.state import State, StepError, check_rule
from isostep.storage import Storage, low_precision
from isostep.telemetry import Figures, observe
from isostep.values import TraceError
from isostep.version import VERSION as __version__

__all__ = [
    "ArrayBackend",
    "Backend",
    "BackendError",
    "BoundPiece",
    "BoundRule",
    "DomainError",
    "Family",
    "Figures",
    "FileError",
    "FormulaError",
    "MissingExtra",
    "Piece",
    "Program",
    "Rule",
    "RuleError",
    "State",
    "StepError",
    "Storage",
    "TraceError",
    "Unavailable",
    "__version__",
    "averaging",
    "backend",
    "compose",
    "curvature",
    "definition",
    "domains",
    "formulas",
    "from_formula",
    "guards",
    "load",
    "low_precision",
    "move",
    "multitask",
    "nm",
    "noise",
    "observe",
    "pieces",
    "plot",
    "program",
    "rule",
    "rules",
    "save",
    "schedules",
    "sharpness",
    "solvers",
    "telemetry",
]


class _Rules(Folder[Rule]):
    """The folder of rules; a formula's rule is known by its name without a file."""

    def __getitem__(self, name: str) -> Rule:
        return formulas.named(name) or super().__getitem__(name)


_rules = _Rules(_rule_files.__name__, "RULE", "rule")


def rules() -> list[str]:
    """The names of all rules, sorted."""
    return _rules.names()


def definition(name: str) -> Rule:
    """The declaration of a rule: its hyperparameters with domains, state, sources and docstring.

    ``"formula(sign(g) * m)"`` is the rule of that formula, see ``from_formula``; ``"./grams.py"`` that of a file.

    Raises:
        RuleError: the rule is unknown, or its file cannot be read.
    """
    return _rules[name]


def rule(name: str, /, **hyper: Any) -> BoundRule:
    """A rule by name with its hyperparameters; those not given take their defaults.

    A setting that goes by a name of its own is known by it: ``rule("momentum", lr=0.1)`` is
    ``rule("sgd", lr=0.1, momentum=0.9)``. A formula or the path of a file stands for its rule, see ``definition``.

    Raises:
        RuleError: the rule or a hyperparameter is unknown, or one without a default is not given.
        DomainError: a value is outside its domain.
    """
    definition, setting = _rules.named(name)
    return definition.bind(**{**setting, **hyper})


def program(rule: BoundRule, *, t: int = 1, shape: tuple[int, ...] | None = None) -> Program:
    """The traced program of a rule for the kind of step that t is; ``print`` it for a listing.

    Args:
        rule: a bound or composed rule.
        t: the step's number, from 1 on.
        shape: that of the parameter, for rules that look at it; None for any other.

    Raises:
        TraceError: the rule does something that has no meaning on a traced value.
        StepError: this is no bound rule.
    """
    check_rule(rule)
    return trace(rule, rule.phase(t), shape)
