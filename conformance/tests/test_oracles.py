"""The library oracles, live, and the measure that they are judged by."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

import isostep
from isostep_conformance.oracles import __main__ as command
from isostep_conformance.oracles.outcome import Deviation, Outcome, compare, running_scale

LIBRARIES = {
    "check_papers": (),
    "check_derivations": (),
    "check_torch": ("torch",),
    "check_torch_rules": ("torch",),
    "check_optax": ("jax", "optax"),
    "check_optax_rules": ("jax", "optax"),
    "check_optax_more": ("jax", "optax"),
    "check_muon": ("torch", "jax", "optax"),
    "check_pieces": ("torch", "jax", "optax"),
    "check_solvers": ("torch",),
    "packages_pieces": ("torch", "pytorch_optimizer", "torch_optimizer"),
    "check_modern": ("torch", "pytorch_optimizer", "adam_mini"),
    "check_second": (
        "torch",
        "pytorch_optimizer",
        "torch_optimizer",
        "gradient_descent_the_ultimate_optimizer",
    ),
    "packages_matrix": ("torch", "pytorch_optimizer", "torch_optimizer"),
}


@pytest.mark.sampled(2)  # `nox -s oracles` runs all of them
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.whole if needs else ()) for n, needs in LIBRARIES.items()],
)
def test_rules_agree_with(name: str) -> None:
    """Every check of one module passes on the reference path."""
    for library in LIBRARIES[name]:
        pytest.importorskip(library)
    module = importlib.import_module(f"isostep_conformance.oracles.{name}")
    outcomes = [check.outcome("numpy:reference") for check in module.checks()]
    assert outcomes
    failed = [" ".join(command.cells(each)) for each in outcomes if not each.passed]
    assert not failed, "\n".join(failed)


def test_nothing_on_file_has_failed_or_speaks_of_a_rule_that_is_gone() -> None:
    """A rule that somebody adds has no row yet; its page says so."""
    files = sorted((Path(__file__).parents[1] / "reports").glob("oracles-*.json"))
    rows = [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))]
    known = {*isostep.rules(), *isostep.pieces.registry.names(), "lbfgs"}
    known |= {f"{name} decay" for name in ("linear", "cosine", "restart")}
    parts = {part for row in rows for part in row["rule"].split("+")}
    assert parts <= known
    assert all(row["passed"] for row in rows)


def test_a_wrong_rule_fails_its_check() -> None:
    """A check is only worth something if a slightly wrong rule fails it."""
    from dataclasses import replace

    from isostep_conformance.oracles import check_papers

    seen = set()
    for check in check_papers.checks():
        if check.rule.name in seen:
            continue
        seen.add(check.rule.name)
        assert check.outcome("numpy:reference").passed
        problem = check.problem
        off = replace(problem, lrs=tuple(1.0001 * lr for lr in problem.lrs))
        wrong = replace(check, theirs=lambda _, run=check.theirs, off=off: run(off))
        assert not wrong.outcome("numpy:reference").passed
    assert seen >= {"sgd_hd", "adam_hd", "adahessian", "sgd+lookahead"}


def test_the_scale_runs_and_is_per_element() -> None:
    first = np.array([1.0, 0.0])
    later = [np.array([0.0, 1e-9]), np.array([0.5, 0.0])]
    expected = [[1.0, 1e-9], [1.0, 1e-9]]
    np.testing.assert_array_equal(running_scale(first, later), expected)


@pytest.mark.parametrize(
    ("got", "expected", "worst"),
    [
        (math.nan, math.nan, 0.0),
        (math.inf, math.inf, 0.0),
        (math.inf, -math.inf, math.inf),
        (1.0, math.nan, math.inf),
        (math.nan, 1.0, math.inf),
        (math.inf, 1.0, math.inf),
        (1e-300, 0.0, math.inf),
        (-0.0, 0.0, 0.0),
        (1.5, 1.0, 0.5),
    ],
)
def test_compare_counts_what_is_not_a_number(got: float, expected: float, worst: float) -> None:
    found = compare([np.array([got])], [np.array([expected])])
    assert found == Deviation(worst, 1)


def test_compare_leaves_out_what_is_exempt() -> None:
    got, expected = np.array([1.0, 5.0]), np.array([1.0, 1.0])
    exempt = np.array([[False, True]])
    assert compare([got], [expected], exempt=exempt) == Deviation(0.0, 1, 1)


def test_compare_refuses_different_shapes_and_lengths() -> None:
    with pytest.raises(ValueError, match="shape"):
        compare([np.zeros(2)], [np.zeros(3)])
    with pytest.raises(ValueError, match="steps"):
        compare([np.zeros(2)], [])


def outcome(worst: float, compared: int = 4, exempt: int = 0) -> Outcome:
    return Outcome("adam", "somebody", "eps 1", Deviation(worst, compared, exempt), 1e-12, 3)


@pytest.mark.parametrize(
    "failing",
    [outcome(1e-11), outcome(math.nan), outcome(math.inf), outcome(0.0, 0), outcome(0.0, 4, 4)],
)
def test_what_fails(failing: Outcome) -> None:
    """Too far, not a number, nothing compared, or too much exempt."""
    assert not failing.passed
    assert outcome(1e-13).passed


def test_the_command_reports_and_exits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    target = tmp_path / "oracles.json"
    assert command.report([outcome(0.0)], target) == 0
    shown = capsys.readouterr().out
    assert "somebody" in shown
    assert "1 of 1 checks passed" in shown
    assert "3 of them with the formulas" in shown
    assert json.loads(target.read_text())[0]["flushed"] == 3
    assert command.report([outcome(0.0), outcome(1.0)], None) == 1
    assert "FAILED adam x somebody" in capsys.readouterr().out
    assert command.report([], None) == 1
