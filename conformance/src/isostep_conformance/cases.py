"""The cases: every rule and piece of the registry, its hyperparameters, and the dtypes.

A case is one bound rule in one dtype; its scenarios are run in one go. Nothing here names a rule, except the
two that pieces are put around, the deep compositions and the formulas: those are data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import isostep
from isostep.domains import Domain
from isostep.registry import module_of
from isostep.rule import BoundRule, Piece, RuleError
from isostep_conformance import hypers
from isostep_conformance.formats import FORMATS, Format
from isostep_conformance.scenarios import SCENARIOS, Script, shapes

#: Every piece is composed with each of these: one elementwise, one that reduces.
BASES = ("adamw", "lamb")

#: Pieces before and behind, reductions of three kinds, phases, all in one program.
DEEP: tuple[tuple[str, ...], ...] = (
    ("centralize", "adaptive_clip", "clip_by_global_norm", "adamw", "weight_decay", "lookahead"),
    ("clip_by_global_norm", "centralize", "lamb", "lookahead"),
    ("adaptive_clip", "sgd_hd", "lookahead"),
    ("clip_by_global_norm", "sgd", "weight_decay", "weight_decay"),
)

#: Rules that are made from a formula: every operand and function is in one of them.
FORMULAS = {
    "formula_sign_clip": "[e^(ld(7)*sign(g)*sign(m)) + clip(g, 0.5)] * g",
    "formula_adam_sign": "adam * e^(rd(9, 2)*sign(g)*sign(m)) - 10^-1 * w",
    "formula_powers": "m_hat * log(2 + |w|) / (v_hat^0.25 + eps) - sqrt|m| * gamma_hat / (rmsprop^2 + 1)",
}

DTYPES = tuple(FORMATS)


@dataclass(frozen=True)
class Subject:
    """A rule with hyperparameters: what is tested. ``exact`` is its twin with powers of two."""

    name: str
    index: int
    rule: BoundRule
    exact: BoundRule

    @property
    def id(self) -> str:
        """``adamw.3``."""
        return f"{self.name}.{self.index}"


@dataclass(frozen=True)
class Case:
    """A subject in a dtype."""

    subject: Subject
    dtype: str

    @property
    def id(self) -> str:
        """``adamw.3-float32``."""
        return f"{self.subject.id}-{self.dtype}"

    @property
    def form(self) -> Format:
        """The number format."""
        return FORMATS[self.dtype]

    def rule(self, scenario: str) -> BoundRule:
        """The bound rule that a scenario runs with."""
        return self.subject.exact if SCENARIOS[scenario][1] else self.subject.rule

    @property
    def scenarios(self) -> tuple[str, ...]:
        """The scenarios of this case; the large array only once per rule."""
        return tuple(s for s in SCENARIOS if s != "odd" or self.subject.index == 0)

    def script(self, scenario: str, scale: float = 1.0, draw: int = 0) -> Script:
        """What the scenario feeds; ``scale`` shrinks gradients of rules that would explode, ``draw`` seeds others."""
        make, _ = SCENARIOS[scenario]
        seed = f"{self.subject.id}/{self.dtype}" + f"/{draw}" * bool(draw)
        return make(self.rule(scenario), self.form, seed, scale)


def names() -> list[str]:
    """All subjects' names: rules, composed pieces, deep compositions, formulas."""
    return list(dict.fromkeys(s.name for s in subjects()))


@cache
def subjects() -> tuple[Subject, ...]:
    """Everything that is tested, from the registry as it is now."""
    return tuple([*_rules(), *_pieces(), *_deep(), *_formulas()])


def broken() -> dict[str, str]:
    """What is wrong with the files that declare no rule that can be bound: nothing of them is among the subjects."""
    return _read()[1]


@cache
def _read() -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """The settings of every rule in the folder, and what is wrong with the others."""
    sound: dict[str, list[dict[str, Any]]] = {}
    wrong: dict[str, str] = {}
    for name in isostep.rules():
        try:
            sound[name] = hypers.bound(isostep.definition(name), name)
        except RuleError as error:
            wrong[name] = str(error)
    return sound, wrong


def cases(dtypes: tuple[str, ...] = DTYPES) -> list[Case]:
    """Every subject in every dtype."""
    return [Case(s, d) for s in subjects() for d in dtypes]


def of_rule(name: str) -> tuple[Subject, ...]:
    """The subjects of one name."""
    found = tuple(s for s in subjects() if s.name == name)
    if not found:
        message = f"unknown rule {name!r}; known: {', '.join(names())}"
        raise KeyError(message)
    return found


def subject_of(name: str, index: int, rule: BoundRule) -> Subject:
    """A subject and its twin with powers of two."""
    exact = hypers.dyadic(rule.domains, rule.values)
    try:
        twin = rule.replace(**exact)
    except (RuleError, isostep.DomainError):
        twin = rule
    return Subject(name, index, rule, twin)


def _rules() -> Iterator[Subject]:
    for name, settings in _read()[0].items():
        for i, values in enumerate(settings):
            yield subject_of(name, i, isostep.rule(name, **values))


def composed(parts: tuple[str | Piece, ...], index: int) -> BoundRule:
    """Pieces and a rule, by name or as they are, each with its index-th hyperparameters."""
    known = isostep.pieces.registry.names()
    made = []
    for given in parts:
        part: Any = given
        if isinstance(given, str):
            part = isostep.pieces.registry[given] if given in known else isostep.definition(given)
        found = hypers.bound(part, part.name)
        made.append(part.bind(**found[index % len(found)]))
    return isostep.compose(*made)


def _pieces() -> Iterator[Subject]:
    for name in isostep.pieces.registry.names():
        yield from _around(isostep.pieces.registry[name])


def _around(piece: Piece) -> Iterator[Subject]:
    """A piece with each of two rules."""
    variants = len(hypers.bound(piece, piece.name))
    for base in BASES:
        behind = piece.before is None and piece.denominator is None
        order = (base, piece) if behind else (piece, base)
        label = f"{base}+{piece.name}" if behind else f"{piece.name}+{base}"
        for i in range(variants if base == BASES[0] else 1):
            yield subject_of(label, i, composed(order, i))


@cache
def of_file(file: str) -> tuple[Subject, ...]:
    """The subjects of a file outside of the registry, which declares a rule, or a piece to be put around two."""
    folder = isostep.pieces.registry if hasattr(module_of(file), "PIECE") else isostep._rules
    part = folder[file]
    if isinstance(part, Piece):
        return tuple(_around(part))
    found = hypers.bound(part, part.name)
    return tuple(subject_of(part.name, i, part.bind(**values)) for i, values in enumerate(found))


def _deep() -> Iterator[Subject]:
    for parts in DEEP:
        for i in range(2):
            yield subject_of("+".join(parts), i, composed(parts, i))


def _formulas() -> Iterator[Subject]:
    for name, formula in FORMULAS.items():
        definition = isostep.formulas.definition(formula)
        for i, values in enumerate(hypers.bound(definition, name)):
            yield subject_of(name, i, definition.bind(**values))


def has_shape(subject: Subject, rank: int) -> bool:
    """Whether the subject takes arrays of this rank."""
    return any(len(s) == rank for s in shapes(subject.rule))


def all_domains(subject: Subject) -> dict[str, Domain]:
    """The domains of the subject's hyperparameters."""
    return subject.rule.domains
