"""One check of the library table: a rule in one setting, and who else runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import drive
from .outcome import Outcome
from .problems import Problem, Record, deviation

TOLERANCE = 1e-12
"""Float64 over 24 steps: honest differences of order of operations are a hundred times smaller."""


def words(settings: Mapping[str, Any]) -> str:
    """Settings as text."""
    return " ".join(f"{name}={value}" for name, value in settings.items()) or "defaults"


@dataclass(frozen=True)
class Biased:
    """A schedule: the value times a power of the bias correction, where a package has eps in another place."""

    value: float
    beta: float
    power: float

    def __call__(self, done: int) -> float:
        """The value of the step after so many."""
        return float(self.value * (1 - self.beta ** (done + 1)) ** self.power)

    def __str__(self) -> str:
        return f"{self.value:g}*(1-{self.beta:g}**t)**{self.power:g}"


@dataclass(frozen=True)
class Check:
    """A rule of isostep, the problem, and the function that runs the oracle on the same problem.

    ``states`` are isostep's names of the state that both have. ``tolerance`` departs from 1e-12
    only where the oracle itself computes something in less than float64, and ``note`` says what.
    ``view`` and ``changes`` belong to the setting: the problem as isostep sees it where layouts
    differ, and hyperparameters that follow the learning rate.
    """

    rule: Any
    oracle: str
    setting: str
    problem: Problem
    theirs: Callable[[Problem], Record]
    states: tuple[str, ...] = ()
    tolerance: float = TOLERANCE
    note: str = ""
    whole: bool = False
    changes: Mapping[str, Callable[[float], float]] = field(default_factory=dict)

    def outcome(self, path: str) -> Outcome:
        """Run both and compare the parameters and states of every step."""
        ours = drive.run(path, self.rule, self.problem, **self.changes)
        theirs = self.theirs(self.problem)
        found = deviation(ours, theirs, self.problem, self.states, whole=self.whole)
        return Outcome(
            self.rule.name, self.oracle, self.setting, found, self.tolerance, note=self.note
        )
