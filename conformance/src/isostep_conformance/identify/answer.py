"""What is found of an optimizer, and in which order it is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from isostep.rule import BoundRule
from isostep_conformance.identify.states import Match

#: How many of the nearest are told, and tried with slips.
NEAREST = 6
#: The same formula, of which some numbers were rounded to float32.
ROUNDED = 2e-6
#: Slips that nobody makes, though they may do the same as what somebody did: told behind others.
STRAINED = ("mul -> div", "div -> mul")


@dataclass(frozen=True, eq=False)
class Finding:
    """A rule, and how far its steps are from the optimizer's; ``cost`` counts what had to be guessed.

    ``parted`` is where it leaves the optimizer's way in the second trial, after it had gone it in the first: a step
    and an array's shape.
    """

    rule: BoundRule
    off: float
    far: float = 0.0
    first: int = 0
    slip: str = ""
    cost: int = 0
    parted: tuple[int, tuple[int, ...]] | None = None


@dataclass
class Answer:
    """What was found of an optimizer.

    ``same`` and ``rounded`` have passed both trials; ``parted`` passed the first and not the second, and are told only
    where no other rule passed both.
    """

    label: str
    settings: dict[str, Any]
    same: list[Finding] = field(default_factory=list)
    rounded: list[Finding] = field(default_factory=list)
    parted: list[Finding] = field(default_factory=list)
    slipped: list[Finding] = field(default_factory=list)
    nearest: list[Finding] = field(default_factory=list)
    tried: int = 0
    not_tried: list[str] = field(default_factory=list)
    #: of the first rule that takes its steps, where asked for
    state: list[Match] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """``same``, ``rounded``, ``slip`` or ``none``."""
        if self.same or self.rounded:
            return "same" if self.same else "rounded"
        return "slip" if any(f.off <= ROUNDED for f in self.slipped) else "none"


def named_like(rule: BoundRule, label: str) -> bool:
    """Whether a rule goes by an optimizer's name."""
    name = label.rpartition(":")[2].rpartition(".")[2]
    return rule.rule.name.replace("_", "") == name.replace("_", "").lower()


def simplest(findings: Iterable[Finding], label: str) -> list[Finding]:
    """Those with the least that is guessed or wrong, the rule of the optimizer's own name first.

    What explains most, but not all, comes behind.
    """

    def order(f: Finding) -> tuple[Any, ...]:
        whole = f.off <= ROUNDED
        likely = (
            not named_like(f.rule, label),
            f.slip.count(";"),
            sum(map(f.slip.count, STRAINED)),
            f.cost,
            f.off,
        )
        return (not whole, *(likely if whole else (f.off, f.cost)))

    found: dict[tuple[str, frozenset[str]], Finding] = {}
    for finding in sorted(findings, key=order):
        found.setdefault((repr(finding.rule), frozenset(finding.slip.split("; "))), finding)
    return list(found.values())[:NEAREST]
