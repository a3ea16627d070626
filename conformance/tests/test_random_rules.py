"""Rules drawn at random take the same step on every path, and the suite would see it if they did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from isostep import nm
from isostep.backends.numpy import NumpyReference
from isostep_conformance import fuzz, paths, random_rules
from isostep_conformance.budget import Tally
from isostep_conformance.fuzz import Trial
from isostep_conformance.paths import Path
from isostep_conformance.random_rules import Draft, Function

#: Of which CI takes a few, always the same; `--full` takes them all.
SEEDS = range(300)
REFERENCE = NumpyReference()


@pytest.fixture(scope="module")
def running() -> Sequence[Path]:
    return [p for p in paths.installed() if not p.missing]


@pytest.mark.sampled(96)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_rule_takes_the_same_step_on_every_path(
    seed: int, running: Sequence[Path]
) -> None:
    found = fuzz.trial(seed)
    for path in running:
        lines = fuzz.check(path.backend, path.name, found)
        assert not lines, fuzz.report(found, lines)
    if seed % 20 == 0:
        for path in running:
            path.backend.forget()


@pytest.mark.parametrize("slip", random_rules.SLIPS)
def test_a_mistake_is_refused_in_the_same_words_on_every_path(
    slip: str, running: Sequence[Path]
) -> None:
    wrong = Function("update", "p, g, t, /, *, lr", (("slip", slip),), "-lr * g + 0 * slip")
    declared = "Rule(name='wrong', update=update, hyper={'lr': Real(low=0)}, ndim=(1, 2))"
    found = Trial(Draft("wrong", (wrong,), declared, "RULE.bind(lr=0.5)"), 1, "float64")
    assert found.refused
    for path in running:
        assert not fuzz.check(path.backend, path.name, found)


def test_the_reference_is_within_budget_and_hardly_any_element_is_exempt() -> None:
    tally, refused = Tally(), 0
    for seed in SEEDS[:40]:
        found = fuzz.trial(seed)
        lines = fuzz.check(REFERENCE, "numpy:reference", found, tally)
        assert not lines, fuzz.report(found, lines)
        refused += bool(found.refused)
        assert bool(found.refused) <= bool(found.draft.slip), found.refused
    assert 0 < refused < 8
    assert tally.elements > 5_000
    assert tally.exempt < 0.1 * tally.elements


class Off(NumpyReference):
    """A backend whose parameters are off by a part in 10^9, or whose first state array is not stored."""

    def __init__(self, forgets: bool) -> None:
        self.forgets = forgets

    def step(self, rule: Any, params: Any, grads: Any, state: Any, **inputs: Any) -> Any:
        before = [p.copy() for p in params]
        kept = [{n: np.array(a) for n, a in one.items()} for one in state.arrays]
        super().step(rule, params, grads, state, **inputs)
        for p, old, own, was in zip(params, before, state.arrays, kept, strict=True):
            if not self.forgets:
                p[...] += 1e-9 * (p - old)
            elif own:
                name = next(iter(own))
                own[name][...] = was[name]
        return params, state


@pytest.mark.parametrize("forgets", [False, True])
def test_a_step_that_is_off_is_seen(forgets: bool) -> None:
    seen = [
        bool(fuzz.check(Off(forgets), "off", found))
        for found in map(fuzz.trial, range(0, 40, 2))  # float64
        if not found.refused and (found.rule.state_names or not forgets)
    ]
    assert sum(seen) > 0.6 * len(seen)


def test_a_seed_is_the_same_rule_every_time_and_its_source_binds() -> None:
    for seed in SEEDS[:20]:
        assert random_rules.draft(seed).source == random_rules.draft(seed).source
        assert (
            random_rules.bind(random_rules.draft(seed).source, "again.py").rule.name
            == f"random{seed}"
        )


def test_all_that_a_rule_may_be_made_of_occurs() -> None:
    sources = "\n".join(random_rules.draft(seed).source for seed in SEEDS)
    matrices = {
        *("eigenbasis", "iterated_basis", "spectral_power", "largest_column"),
        *("over_triangle", "upper_triangle", "Overwrite"),
    }
    functions = [f"nm.{n}(" for n in nm.__all__ if n not in matrices]
    facts = [
        "init=",
        "phase=",
        "measure=",
        "advance=",
        "inputs=",
        "group_inputs=",
        "sequential=",
        "ndim=",
    ]
    facts += [
        "Flag(",
        "Choice(",
        "Integer(",
        "Scheduled(",
        "parts.betas(",
        "Wave(",
        "lambda done",
        "optional=True",
    ]
    facts += [
        "p.shape",
        "p.ndim",
        "denominator(",
        "pieces.",
        "compose(",
        " if phase ==",
        "parts.copied(p)",
    ]
    assert not [word for word in (*functions, *facts) if word not in sources]


def test_a_failure_is_shrunk_to_the_statement_that_makes_it() -> None:
    first = next(d for d in map(random_rules.draft, SEEDS) if "nm.floor" in d.functions[-1].text)

    def fails(draft: Draft) -> bool:
        return "nm.floor" in draft.functions[-1].text

    found = random_rules.shrunk(first, fails)
    assert fails(found)
    assert len(found.source) < len(first.source)
    assert replace(found, name=first.name).bind().rule.name == first.name


def test_the_command_says_what_it_ran(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--seeds", "0:3", "--path", "numpy:reference"]) == 0
    out = capsys.readouterr().out
    assert "numpy:reference" in out
    assert "3 rules, 0 of them refused, on 1 paths: 0 failures" in out
