"""A rule against a package of torch optimizers: one row of the catalogue's tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import isostep

from . import torch_packages
from .check import TOLERANCE, Check, words
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
        rule = isostep.rule(self.rule, **self.ours)
        # ``eval`` of the package against ``evaluation_point`` of the backend.
        point = ("evaluation point",) if rule.rule.evaluate is not None else ()
        make = partial(torch_packages.optimizer_class(self.package, self.kind), **self.theirs)
        return Check(
            rule,
            f"{self.package.split('.')[0]}.{self.kind}",
            words(dict(self.ours)),
            self.problem(),
            partial(torch_packages.run, make, states=self.states, group=self.group),
            (*self.states, *point),
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


def many() -> Problem:
    """Gradients of one magnitude for matrices, kernels and vectors."""
    return mild((*MIXED_SHAPES, *CONV_SHAPES))


def walk() -> Problem:
    """A learning rate near one, as Prodigy wants."""
    return mild(MIXED_SHAPES, lr=0.7)
