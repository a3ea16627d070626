"""Hyperparameters for cases, drawn from their domains: never neutral, every static choice at least once.

Nothing here knows a rule. A domain's ``cases`` are used where it has some; otherwise its bounds and default say
what kind of number it is. Structural alternatives (flags, choices, a zero that removes a term, None) are
enumerated: all combinations where they are few, else every pair of them.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from isostep.domains import (
    REQUIRED,
    Choice,
    Domain,
    DomainError,
    Flag,
    Integer,
    Pair,
    Real,
    Scheduled,
)
from isostep.rule import BoundRule, RuleError
from isostep.schedules import sign_decays

#: Above this many combinations of static choices, only every pair of them is covered.
MOST_COMBINATIONS = 16
#: A rate as users have them: in float32, 1 - SLOW is off by 1e-4.
SLOW = 0.9999
#: Decays are given this many steps, so that runs of twenty steps go well past their end.
DECAY_STEPS = 7


def generator(*seed: object) -> np.random.Generator:
    """A generator seeded by a text, the same on every machine."""
    return np.random.default_rng(zlib.crc32("/".join(map(str, seed)).encode()))


@dataclass(frozen=True)
class Wave:
    """A plain callable of the steps done: a value that changes at every step and stays in (low, value].

    With ``depth`` 0 it does not change, and is a schedule all the same: the rule's structure is that of one.
    """

    value: float
    depth: float = 0.25

    def __call__(self, done: int) -> float:
        """value, then less, then more again."""
        return self.value * (1 - self.depth + self.depth * math.cos(0.9 * done))


@dataclass(frozen=True)
class Kind:
    """One structural alternative of a hyperparameter; ``make(rng, index)`` gives a value of it."""

    label: str
    fixed: Any = None
    domain: Real | Integer | None = None

    def make(self, rng: np.random.Generator, index: int) -> Any:
        """A value of this kind."""
        return self.fixed if self.domain is None else number(self.domain, rng, index)


def number(domain: Real | Integer, rng: np.random.Generator, index: int) -> float | int:
    """A number of the domain that is not neutral: large enough to matter, off the default."""
    if domain.cases:
        return domain.cases[index % len(domain.cases)]
    if isinstance(domain, Integer):
        return whole_numbers(domain)[index % len(whole_numbers(domain))]
    low, high = domain.low, domain.high
    start = domain.default if isinstance(domain.default, int | float) else 0.0
    if low is not None and high is not None:
        return round(low + (high - low) * float(rng.uniform(0.55, 0.95)), 4)
    if low is None and high is None and start:
        # Tuned constants (a learning rate of either sign, a polynomial's coefficients) stay near their default.
        return (
            round(start * float(rng.uniform(0.97, 1.03)), 6)
            if abs(start) > 0.05
            else float(rng.uniform(0.05, 0.2))
        )
    sign = 1.0 if low is not None else -1.0
    base = low if low is not None else high if high is not None else 0.0
    if 0 < start - base < 1e-5:  # an epsilon: large enough to be seen
        return base + sign * round(1e-3 * float(rng.uniform(0.5, 2.0)), 6)
    size = abs(start - base)
    if size < 0.05:  # a rate or a decay
        return base + sign * round(float(rng.uniform(0.05, 0.3)), 4)
    return base + sign * round(size * float(rng.uniform(1.1, 1.7)), 4)


def whole_numbers(domain: Integer) -> tuple[int, ...]:
    """The integers worth a case: those declared, else the default and its neighbour below."""
    if domain.cases:
        return tuple(domain.cases)
    default = 2 if domain.default is REQUIRED else int(domain.default)
    near = default - 1
    allowed = (domain.low is None or near >= domain.low) and (
        domain.high is None or near <= domain.high
    )
    return (default, near) if allowed else (default,)


def kinds(domain: Domain) -> list[Any]:
    """The structural alternatives of one hyperparameter, the busiest first."""
    if isinstance(domain, Flag):
        return [Kind("on", True), Kind("off", False)]
    if isinstance(domain, Choice):
        return [Kind(repr(o), o) for o in domain.options]
    if isinstance(domain, Pair):
        return list(itertools.product(*(kinds(part) for part in domain.parts)))
    if isinstance(domain, Scheduled):
        return [Kind(type(s).__name__, s) for s in decays()] + [Kind("none", None)]
    if isinstance(domain, Integer) and domain.static:
        return [Kind(str(n), n) for n in whole_numbers(domain)]
    if not isinstance(domain, Real | Integer):
        message = f"no conformance cases for a {type(domain).__name__} domain; teach isostep_conformance.hypers"
        raise TypeError(message)
    found = [Kind("value", domain=domain)]
    if isinstance(domain, Real) and domain.zero_is_static:
        found.append(Kind("zero", 0.0))
    if isinstance(domain, Real) and domain.optional:
        found.append(Kind("none", None))
    return found


def decays() -> list[Any]:
    """Each of the library's decays, past its end within a run, a plain callable and a number."""
    made: list[Any] = [getattr(sign_decays, name)(DECAY_STEPS) for name in sign_decays.__all__]
    return [*made, Wave(0.8), 0.625]


def combinations(part: Any, name: str) -> list[dict[str, Any]]:
    """Which kind each hyperparameter has, combination by combination."""
    axes = [kinds(d) for d in part.hyper.values()]
    rows = [dict(zip(part.hyper, row, strict=True)) for row in itertools.product(*axes)]
    if len(rows) <= MOST_COMBINATIONS:
        return rows
    # A row that the part's check rejects covers nothing.
    return list(_pairwise(row for row in rows if _accepted(part, row, name)))


def _accepted(part: Any, row: Mapping[str, Any], name: str) -> bool:
    try:
        part.bind(**realise(row, generator(name, 0), 0, scheduled=False))
    except DomainError:
        return False
    return True


def _pairwise(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    seen: set[Any] = set()
    for row in rows:
        facts = [
            (n, id(k) if not isinstance(k, tuple) else tuple(map(id, k))) for n, k in row.items()
        ]
        pairs: set[Any] = set(itertools.combinations(facts, 2)) or set(facts)
        # The first row of all, then those with at least two pairs that no earlier one had.
        if len(pairs - seen) >= (2 if seen and len(facts) > 2 else 1):
            seen |= pairs
            yield row


def realise(
    row: Mapping[str, Any], rng: np.random.Generator, index: int, scheduled: bool
) -> dict[str, Any]:
    """Values for one combination; with ``scheduled`` the first number among them changes at every step."""
    values: dict[str, Any] = {}
    waiting = scheduled
    for name, kind in row.items():
        if isinstance(kind, tuple):
            values[name] = tuple(k.make(rng, index) for k in kind)
            continue
        value = kind.make(rng, index)
        if waiting and isinstance(kind.domain, Real):
            value, waiting = Wave(value), False
        values[name] = value
    return values


def bound(part: Any, name: str) -> list[dict[str, Any]]:
    """Hyperparameter sets of one rule or piece; what its own check rejects is left out."""
    found: list[dict[str, Any]] = []
    rows = combinations(part, name)
    if len(rows) == 1:
        rows = rows * 2  # one with a schedule, one without
    for row in rows:
        index = len(found)
        values = realise(row, generator(name, index), index, scheduled=index % 2 == 0)
        try:
            part.bind(**values)
        except DomainError:
            continue
        found.append(values)
    if not found:
        message = f"{name}: no combination of hyperparameters passes its check"
        raise RuleError(message)
    return found


def slow(rule: BoundRule) -> BoundRule | None:
    """The rule with every rate between 0 and 1 near 1; None if there is none that may be."""
    found = {n: _slow(rule.domains[n], v) for n, v in rule.values.items()}
    try:
        return None if found == dict(rule.values) else rule.replace(**found)
    except (DomainError, RuleError):
        return None


def _slow(domain: Domain, value: Any) -> Any:
    if isinstance(domain, Pair):
        return tuple(_slow(d, v) for d, v in zip(domain.parts, value, strict=True))
    rate = isinstance(domain, Real) and (domain.low, domain.high) == (0, 1)
    return SLOW if rate and isinstance(value, float) and not domain.is_static(value) else value


def dyadic(domains: Mapping[str, Domain], values: Mapping[str, Any]) -> dict[str, Any]:
    """The same structure with powers of two, so that arithmetic is exact and thresholds can be hit."""
    return {n: _dyadic(domains[n], v) for n, v in values.items()}


def _dyadic(domain: Domain, value: Any) -> Any:
    if isinstance(domain, Pair):
        return tuple(_dyadic(d, v) for d, v in zip(domain.parts, value, strict=True))
    if isinstance(value, Wave):
        return Wave(_dyadic(domain, value.value), depth=0.0)
    if not isinstance(domain, Real) or not isinstance(value, float) or value == 0:
        return value
    if domain.low is None and domain.high is None:
        return value
    if domain.low is not None and domain.high is not None:
        return 0.5 * (domain.low + domain.high)
    near = math.copysign(2.0 ** round(math.log2(abs(value))), value)
    try:
        return domain.check("", near)
    except DomainError:
        return value
