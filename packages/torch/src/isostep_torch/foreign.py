"""State dicts that do not say whose they are: which are taken for a rule's, and what they must have."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch

import isostep
from isostep import scalars
from isostep.domains import Pair, Real
from isostep.naming import camel_case
from isostep.program import Program, trace
from isostep.rule import PROBED, BoundRule

#: Steps past the first, of which a rule that goes by no count has the same numbers.
_STEPS = (2, 3, 10, PROBED)


def check_owner(rule: BoundRule, kind: str, group: Mapping[str, Any]) -> None:
    """A group that does not say its rule must be of torch.optim's class, with its numbers.

    Other libraries' arrays go by the same names and are not always the same: averages that are corrected as they are
    kept, counts and estimates that stand in the group. ``kind`` is the name of the optimizer's class.

    Raises:
        ValueError: torch.optim has no class of the rule, or one with other numbers.
    """
    if "rule" in group:
        return
    known = rule.rule.name in isostep.rules()
    names = (kind, camel_case(rule.rule.name)) if known else (kind,)
    found = (getattr(torch.optim, n, None) for n in names)
    theirs = next((c for c in found if c not in (None, torch.optim.Optimizer)), None)
    if theirs is None:
        message = (
            f"{rule.name}: a group of the state dict does not say its rule, and torch.optim has no such class; "
            "isostep_conformance.identify.taken_over goes on with another library's optimizer, and "
            f"group['rule'] = {rule.name!r} says that the arrays are this rule's"
        )
        raise ValueError(message)
    for n in signature(theirs).parameters:
        if isinstance(rule.rule.hyper.get(n), Real | Pair) and n not in group:
            message = (
                f"{rule.name}: a group of the state dict has no {n!r}, which torch.optim.{theirs.__name__} has; "
                "load it with the class that saved it"
            )
            raise ValueError(message)


def check_count(
    rule: BoundRule, shape: tuple[int, ...], place: int, own: Mapping[str, Any]
) -> None:
    """A parameter's entry must have a count of its steps, where the rule goes by it.

    Raises:
        ValueError: it has arrays of the rule's and no ``step``.
    """
    if "step" not in own and counts(rule, shape):
        message = (
            f"{rule.name}: state of parameter {place} has no 'step', and the rule goes by the number of steps done; "
            "put it there (some libraries keep it in the group)"
        )
        raise ValueError(message)


def counts(rule: BoundRule, shape: tuple[int, ...]) -> bool:
    """Whether a step past the first goes by how many there were before, or is like any other."""
    if rule.scheduled or len({*map(rule.phase, range(2, PROBED))}) > 1:
        return True
    program = trace(rule, rule.phase(2), shape)
    first, *others = (_numbers(program, rule, t) for t in _STEPS)
    return any(other != first for other in others)


def _numbers(program: Program, rule: BoundRule, t: int) -> list[Any]:
    """What the step's own numbers are, of those that its arrays meet."""
    found = [scalars.evaluate(program, rule.values, t, scope=s) for s in ("array", "group")]
    return [own[n] for own in found for n in scalars.used_outside(program, own)]


def check_shared(rule: BoundRule, owns: list[Mapping[str, Any]], kept: Any) -> None:
    """Where a group shares what it has learned (Prodigy's d), a state dict must have it, in the group or with each.

    Raises:
        ValueError: there are arrays of the rule's, and nothing that the group shares.
    """
    if kept or not any(n in own for own in owns for n in rule.state_names):
        return
    lacking = [n for n in rule.group_names if not any(n in own for own in owns)]
    if lacking:
        message = (
            f"{rule.name}: the state dict has no {lacking[0]!r}, which the parameters of a group share; "
            "load it with the class that saved it"
        )
        raise ValueError(message)
