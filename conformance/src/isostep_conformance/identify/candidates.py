"""What an optimizer may be: every rule, with every static choice, given the numbers that the optimizer was given."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import isostep
from isostep.domains import (
    REQUIRED,
    Choice,
    Domain,
    DomainError,
    Flag,
    Integer,
    Pair,
    Real,
)
from isostep.rule import BoundPiece, BoundRule, Piece, Rule, RuleError
from isostep_conformance.identify.settings import resolved

#: Settings of one part at most: static choices first, then numbers that go by other names; fewer behind a piece, and
#: fewer still of both where the piece is a guess.
MOST, MOST_COMPOSED, MOST_INSTEAD = 64, 12, 4


@dataclass(frozen=True)
class Candidate:
    """A rule that may be the optimizer's; ``cost`` counts pieces and numbers that were given by guess."""

    rule: BoundRule
    cost: int


@dataclass(frozen=True)
class _Option:
    """A value of a hyperparameter, and what it costs to believe in it."""

    value: Any
    cost: int = 0


def _tried(only: str | None) -> Iterator[Rule]:
    """The rules that need gradients alone; ``only`` names one."""
    for rule in map(isostep.definition, [only] if only is not None else isostep.rules()):
        if not (rule.inputs or rule.group_inputs):
            yield rule


def _pieces() -> list[Piece]:
    every = (isostep.pieces.registry[n] for n in isostep.pieces.registry.names())
    return [p for p in every if not p.inputs]


def candidates(numbers: Mapping[str, Any], only: str | None = None) -> Iterator[Candidate]:
    """Rules alone, and with each piece whose own number is one that the rule does not know; ``only`` names a rule."""
    pieces = _pieces()
    for rule in _tried(only):
        unknown = _unknown(rule, numbers)
        fitting = [p for p in pieces if unknown & _needed(p)]
        for k, (bound, cost) in enumerate(settings(rule, numbers)):
            yield Candidate(bound, cost)
            for piece in fitting if k < MOST_COMPOSED else ():
                for around, extra in settings(piece, numbers):
                    composed = _composed(piece, around, bound)
                    if composed is not None:
                        yield Candidate(composed, cost + extra + 2)


def instead(numbers: Mapping[str, Any], only: str | None = None) -> Iterator[Candidate]:
    """Rules whose own number is off, with a piece that has it instead: it may decay other arrays, or otherwise."""
    pieces = _pieces()
    for rule in _tried(only):
        own = resolved(rule, numbers)
        for piece in pieces:
            needed = _needed(piece)
            names = needed & rule.hyper.keys() if needed <= own.keys() else set()
            off = own | dict.fromkeys(names, 0.0)
            for bound, cost in itertools.islice(settings(rule, off), MOST_INSTEAD if names else 0):
                if any(bound.values[n] != 0 for n in names):
                    continue  # it cannot be switched off there
                for around, extra in itertools.islice(settings(piece, numbers), MOST_INSTEAD):
                    composed = _composed(piece, around, bound)
                    if composed is not None:
                        yield Candidate(composed, cost + extra + 2)


def left_out() -> list[str]:
    """The rules that need more than gradients, which are not tried."""
    every = ((n, isostep.definition(n)) for n in isostep.rules())
    return [n for n, rule in every if rule.inputs or rule.group_inputs]


def _unknown(part: Rule | Piece, numbers: Mapping[str, Any]) -> set[str]:
    """The names of numbers that a part has no hyperparameter for."""
    return {n for n in resolved(part, numbers) if n.partition("[")[0] not in part.hyper}


def _needed(piece: Piece) -> set[str]:
    """The hyperparameters that a piece cannot be without: an optimizer that has them may have the piece."""
    return {n for n, d in piece.hyper.items() if d.default is REQUIRED}


def _composed(piece: Piece, around: BoundPiece, rule: BoundRule) -> BoundRule | None:
    order = (rule, around) if piece.before is None and piece.denominator is None else (around, rule)
    try:
        return isostep.compose(*order)
    except RuleError:
        return None


def settings(part: Any, numbers: Mapping[str, Any]) -> Iterator[tuple[Any, int]]:
    """A part bound to the numbers that go by its names, and to what may be meant where none does."""
    unknown = _unknown(part, numbers)
    numbers = resolved(part, numbers)
    spare = [v for n, v in numbers.items() if n in unknown and _is_number(v) and v != 0]
    axes = [list(_options(n, d, numbers, spare)) for n, d in part.hyper.items()]
    for row in itertools.islice(sorted_product(axes), MOST):
        try:
            values = {n: o.value for n, o in zip(part.hyper, row, strict=True)}
            yield part.bind(**values), sum(o.cost for o in row)
        except (DomainError, RuleError):
            continue


def sorted_product(axes: list[list[_Option]]) -> list[tuple[_Option, ...]]:
    """Every combination, those that are believed most readily first; few of axes that are far too many."""
    while len(axes) and _size(axes) > 4096:
        longest = max(axes, key=len)
        longest.pop()
    return sorted(itertools.product(*axes), key=lambda row: sum(o.cost for o in row))


def _size(axes: list[list[_Option]]) -> int:
    size = 1
    for axis in axes:
        size *= len(axis)
    return size


def _options(
    name: str, domain: Domain, numbers: Mapping[str, Any], spare: list[Any]
) -> Iterator[_Option]:
    if isinstance(domain, Pair):
        parts = [
            list(_options(f"{name}[{i}]", part, numbers, spare))
            for i, part in enumerate(domain.parts)
        ]
        for row in sorted_product(parts):
            yield _Option(tuple(o.value for o in row), sum(o.cost for o in row))
        return
    if name in numbers and domain.allows(numbers[name]):
        yield _Option(numbers[name])
        return
    yield from _unnamed(domain, spare)


def _unnamed(domain: Domain, spare: list[Any]) -> Iterator[_Option]:
    """What a hyperparameter may be that the optimizer has no name for."""
    if isinstance(domain, Flag):
        yield from (
            _Option(v, int(v != domain.default)) for v in (domain.default, not domain.default)
        )
        return
    if isinstance(domain, Choice):
        yield from (_Option(v, int(v != domain.default)) for v in domain.options)
        return
    if domain.default is not REQUIRED:
        yield _Option(domain.default, 1)
    if isinstance(domain, Integer) and domain.static:  # which arrays, which axes
        yield from (_Option(v, 2) for v in domain.cases if v != domain.default)
    if isinstance(domain, Real):
        if domain.zero_is_static and domain.default != 0:
            yield _Option(0.0, 1)
        if domain.optional and domain.default is not None:
            yield _Option(None, 1)
        for value in spare:
            if domain.allows(value) and _alike(domain, value):
                yield _Option(value, 1)


def _alike(domain: Real, value: float) -> bool:
    """Whether a number is of the kind that a domain is of: a part of one, or not."""
    part_of_one = 0.5 <= value < 1
    return (domain.high == 1) == part_of_one or (
        part_of_one and any(c is not None and 0.5 <= c < 1 for c in domain.cases)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
