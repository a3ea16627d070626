"""What became of mutants: which were killed, which survived, which are explained.

The same slip in several settings of a rule is one mutant, and it is killed where one of them tells it from the truth.
The same: the same change of the same expression, used in the same ones, in the same phase and rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from isostep_conformance.budget import FACTOR
from isostep_conformance.cases import subjects
from isostep_conformance.equivalents import EQUIVALENTS, Equivalent

#: The name of a rule or composition, what was done, and where.
Key = tuple[str, str, str]


@dataclass
class Fate:
    """What became of one mutant in one setting: the largest ratio on any case, and on which."""

    subject: str
    mutant: str
    place: str
    ratio: float
    where: str
    equivalent: Equivalent | None = None

    @property
    def killed(self) -> bool:
        """Whether the budget rejects it."""
        return self.ratio > FACTOR

    @property
    def id(self) -> str:
        """Subject and mutant."""
        return f"{self.subject} | {self.mutant}"

    @property
    def name(self) -> str:
        """The subject's name: its rule or composition."""
        return self.subject.rpartition(".")[0]

    @property
    def key(self) -> Key:
        """What it has in common with the same slip in the other settings of its rule."""
        return self.name, self.mutant, self.place


@dataclass
class Toll:
    """The fates of all mutants of some subjects."""

    fates: list[Fate] = field(default_factory=list)

    @property
    def mutants(self) -> list[Fate]:
        """One fate for each mutant of a rule: that in the setting that tells it from the truth most clearly."""
        best: dict[Key, Fate] = {}
        for fate in self.fates:
            if fate.key not in best or fate.ratio > best[fate.key].ratio:
                best[fate.key] = fate
        return list(best.values())

    @property
    def survivors(self) -> list[Fate]:
        """Those that nothing rejects in any setting and that no list explains."""
        return [f for f in self.mutants if not f.killed and f.equivalent is None]

    @property
    def rate(self) -> float:
        """Killed out of those that are not equivalent."""
        real = [f for f in self.mutants if f.equivalent is None]
        return sum(f.killed for f in real) / len(real) if real else 1.0

    @property
    def least(self) -> float:
        """The smallest ratio of a killed mutant at its most revealing case."""
        return min((f.ratio for f in self.mutants if f.killed), default=np.inf)

    def unused(self) -> list[Equivalent]:
        """Entries of the list of equivalents that explain no survivor of these subjects."""
        found = self.mutants
        used = {f.equivalent for f in found}  # from other processes too: equal, not the same
        names = {f.name for f in found} & {s.name for s in subjects()}  # not of a file of one's own
        return [e for e in EQUIVALENTS if e not in used and any(e.speaks_of(n) for n in names)]
