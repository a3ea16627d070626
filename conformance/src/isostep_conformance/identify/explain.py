"""What an optimizer does otherwise: rules with one or two slips that take its steps."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import isostep
from isostep_conformance.identify import settings
from isostep_conformance.identify.answer import ROUNDED, Answer, Finding, named_like
from isostep_conformance.identify.slips import UNFIT, Slip, right, slips
from isostep_conformance.identify.trial import Trial, steps

#: How many settings of the rule of an optimizer's own name are tried with two slips.
NAMED = 2
#: Slips are told if they bring a rule nearer by this factor.
MUCH = 100.0
#: A step that is this far off, as a part of itself, is not run to its end with slips.
TOO_FAR = 3.0
#: How many first slips are looked behind for a second one.
BEAM = 8
#: What is further off than this is not like the optimizer at all.
LIKE = 0.7


def slipped(
    answer: Answer, findings: list[Finding], trial: Trial, depth: int, rule: str | None
) -> Iterator[Finding]:
    """The nearest rules, and those asked about or of the optimizer's own name, with slips that explain what it does.

    A second slip is looked for on top of the few first ones that bring a rule nearer.
    """
    named = sorted(
        (f for f in findings if rule is not None or named_like(f.rule, answer.label)),
        key=lambda f: (f.cost, f.far),
    )
    likely = named[:NAMED]
    likely += sorted(named, key=lambda f: (f.far, f.cost))[:NAMED]
    likely = list(dict.fromkeys(likely))
    dialects = {str(f.rule.values.get("dialect")): f for f in reversed(named)}
    others = [f for f in answer.nearest if f.far <= LIKE]
    others = [f for f in dict.fromkeys([*dialects.values(), *others]) if f not in likely]
    for most in range(1, depth + 1):
        whole = False
        for finding in (*likely, *(others if most == 1 else ())):
            found = list(_exchanged(finding, trial, answer)) if most == 1 else []
            found += _explained(finding, trial, most, answer)
            yield from found
            whole = whole or any(f.off <= ROUNDED for f in found)
            if whole and most > 1:
                return  # one explanation with two slips is enough, and takes long
        if whole:
            return


def _exchanged(finding: Finding, trial: Trial, answer: Answer) -> Iterator[Finding]:
    """One rule with two of its numbers taken for each other."""
    trial = trial.taken_by(finding.rule)
    values = finding.rule.values
    flat = settings.numbers({}, values)
    flat = {n: v for n, v in flat.items() if isinstance(v, float) and v}
    for one, other in itertools.combinations(flat, 2):
        if flat[one] == flat[other]:
            continue
        changed = {**flat, one: flat[other], other: flat[one]}
        given = {
            n: tuple(changed.get(f"{n}[{i}]", x) for i, x in enumerate(v))
            if isinstance(v, tuple)
            else changed.get(n, v)
            for n, v in values.items()
        }
        answer.tried += 1
        try:
            d = trial.distance(steps(finding.rule.rule.bind(**given), trial), finding.far / MUCH)
        except (isostep.RuleError, isostep.BackendError, isostep.DomainError):
            continue
        if d.far <= finding.far / MUCH:
            slip = f"exchanged: {one} and {other}"
            yield Finding(finding.rule, d.off, d.far, d.first, slip, finding.cost)


def _explained(finding: Finding, trial: Trial, depth: int, answer: Answer) -> Iterator[Finding]:
    """One rule with the fewest slips that make it the optimizer, or bring it much nearer."""
    trial = trial.taken_by(finding.rule)
    level = [right(finding.rule, trial.shapes, len(trial.gradients))]
    for more in range(depth - 1, -1, -1):
        tries: list[tuple[float, Slip]] = []
        found = []
        for slip in (s for before in level for s in slips(before)):
            answer.tried += 1
            try:
                d = trial.distance(
                    slip.steps(trial.start, trial.gradients),
                    TOO_FAR if more else finding.far / MUCH,
                )
            except UNFIT:
                continue
            tries.append((d.far, slip))
            if d.far <= finding.far / MUCH:
                found.append(Finding(finding.rule, d.off, d.far, d.first, slip.text, finding.cost))
        yield from found
        if any(f.off <= ROUNDED for f in found):
            return
        level = _promising(tries, finding.far)


def _promising(tries: list[tuple[float, Slip]], far: float) -> list[Slip]:
    """The first slips that a second one is looked for behind.

    Those that come nearest; and of a mistake that can be made in several places all: one of them alone may lead away.
    """
    tries = sorted(tries, key=lambda x: x[0])
    kinds = Counter(slip.kinds[0] for _, slip in tries)
    nearest = [slip for off, slip in tries[:BEAM] if off < far]
    several = [s for _, s in tries if 1 < kinds[s.kinds[0]] <= BEAM and "->" in s.kinds[0]]
    return list(dict.fromkeys([*nearest, *several]))
