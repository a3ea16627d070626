"""The truth: its arithmetic, its bounds and its flags."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import isostep
from isostep import nm
from isostep.domains import Real
from isostep.rule import Rule
from isostep_conformance import runner, truth
from isostep_conformance.bounds import Bounded, Num
from isostep_conformance.budget import Expected
from isostep_conformance.cases import Case, of_rule, subject_of
from isostep_conformance.formats import FORMATS, ulp
from isostep_conformance.kill import judge
from isostep_conformance.truth import Target, _stored, run

F32 = FORMATS["float32"]
ARITH = Bounded(F32)


def num(*values: float, e: float = 0.0) -> Num:
    return Num(np.array(values), np.full(len(values), e))


@pytest.mark.parametrize("name", ["float64", "float32", "float16"])
def test_ulp_is_numpys_spacing(name: str) -> None:
    form = FORMATS[name]
    x = np.array([1.0, 1.5, 2.0, 3.7e-5, 60000.0, form.tiny, 0.0], form.numpy)
    wanted = np.spacing(x)
    wanted[-1] = form.tiny
    assert np.array_equal(ulp(x.astype(form.wide), form).astype(form.numpy), wanted)


def test_bfloat16_has_eight_bits() -> None:
    assert ulp(np.array([1.0, 256.0]), FORMATS["bfloat16"]).tolist() == [2.0**-7, 2.0]


def test_a_sign_of_an_exact_zero_is_not_exempt_and_one_within_rounding_is() -> None:
    assert not np.any(ARITH.apply("sign", (num(0.0),)).f)
    assert np.all(ARITH.apply("sign", (num(1e-9, e=1e-8),)).f)
    assert not np.any(ARITH.apply("sign", (num(1.0, e=1e-8),)).f)


def test_exact_operations_have_no_error() -> None:
    product = ARITH.apply("mul", (num(0.5, 3.0), num(-0.25, 2.0)))
    assert product.e.tolist() == [0.0, 0.0]
    assert ARITH.apply("div", (num(1.0), num(3.0))).e[0] > 0


def test_a_choice_between_equal_branches_is_no_threshold() -> None:
    near = ARITH.apply("lt", (num(1.0, e=1e-7), num(1.0)))
    same = ARITH.apply("where", (near, num(2.0), num(2.0)))
    other = ARITH.apply("where", (near, num(2.0), num(3.0)))
    assert not np.any(same.f)
    assert np.all(other.f)


def test_overflow_and_underflow_are_those_of_the_compute_format() -> None:
    assert ARITH.apply("mul", (num(1e30), num(1e30))).v.tolist() == [np.inf]
    assert ARITH.apply("mul", (num(1e-30), num(-1e-30))).v.tolist() == [-0.0]


def test_a_flag_reaches_everything_a_sum_reaches() -> None:
    x = Num(np.array([1.0, 2.0]), 0.0, np.array([True, False]))
    assert ARITH.sum(x).f


def expected(truth: float, before: float, plain: float) -> Expected:
    return Expected.of(num(truth), np.array([before]), [np.array([plain])], F32)


def test_ulps_are_taken_at_the_larger_of_result_and_start() -> None:
    assert expected(1e-8, 1.0, 1e-8).unit[0] == pytest.approx(2.0**-23)


def test_nan_and_infinity_match_in_kind_and_place() -> None:
    assert expected(np.nan, 1.0, np.nan).ratios(np.array([0.0]))[0] == np.inf
    assert expected(1.0, 1.0, 1.0).ratios(np.array([np.nan]))[0] == np.inf
    assert expected(np.inf, 1.0, np.inf).ratios(np.array([-np.inf]))[0] == np.inf
    assert expected(np.nan, 1.0, np.nan).ratios(np.array([np.nan]))[0] == 0


def test_the_truth_of_one_step_is_the_formula() -> None:
    rule = isostep.rule("adamw", lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)
    case = Case(of_rule("adamw")[0], "float64")
    shot = next(s for s in run(case, "run").shots if s.before.state.t[0] == 0)
    bound = run(case, "run").rule
    assert rule.name == bound.name
    h = bound.at(1)
    g = shot.grads[0].astype(np.longdouble)
    m = shot.forced.arrays[0]["exp_avg"].v
    assert np.allclose(m.astype(float), ((1 - h["betas"][0]) * g).astype(float), rtol=1e-15)


def test_cases_hit_thresholds_exactly() -> None:
    """In the exact scenario some average is exactly zero where the gradient is not: sign(0) decides there."""
    found = run(Case(of_rule("addsign")[0], "float64"), "exact")
    hits = 0
    for shot in found.shots:
        for grads, after in zip(shot.grads, shot.after.state.arrays, strict=True):
            hits += int(np.sum((after["m"] == 0) & (grads != 0)))
        assert shot.forced.exempt == 0
    assert hits > 5


def test_what_has_shrunk_keeps_the_rounding_of_when_it_was_large() -> None:
    one = np.array([1.0], np.float32)
    peak = np.array([2.0**20])
    assert _stored(num(1.0, e=10.0), one, F32, peak).e.tolist() == [0.125]  # an ulp of the peak
    assert _stored(num(1.0, e=1e-3), one, F32, peak).e.tolist() == [1e-3]  # the rule forgot it
    assert _stored(num(1.0, e=10.0), one, F32, np.array([np.inf])).e.tolist() == [2.0**-23]


def test_the_largest_along_an_axis_has_a_truth_and_its_mutants_die() -> None:
    """``nm.max_axis``, which only rules with factored state use."""

    def update(p: Any, g: Any, v: Any, t: int, /, *, lr: Any) -> Any:
        v = v + g * g
        return -lr * g / nm.sqrt(nm.max_axis(v, axis=-1) + 0.1), v

    rule = Rule(name="toy", update=update, hyper={"lr": Real(0.1, low=0)}, state=("v",), ndim=(2,))
    subject = subject_of("toy", 0, rule.bind(lr=0.2))
    backend = isostep.backend("numpy:reference")
    for scenario in ("run", "nonfinite"):
        assert not runner.check(backend, backend.name, Case(subject, "float32"), scenario).failures
    assert [fate.mutant for fate in judge(subject) if not fate.killed] == []


def test_zero_from_zero_is_held_to_the_bound_of_what_cancelled() -> None:
    """1.68 * 0.1 - 0.168 in float32: rounded it is 0 as in the truth, contracted it is the product's rounding."""
    factor = ARITH.scalar(0.1)
    found = ARITH.apply("sub", (ARITH.apply("mul", (num(1.6796875), factor)), num(0.16796875)))
    expected = Expected.of(found, np.zeros(1), [np.zeros(1)], F32)
    contracted = float(np.float32(0.1)) * 1.6796875 - 0.16796875
    assert found.v[0] == 0 != contracted
    assert 0 < expected.ratios(np.array([contracted]))[0] < 8
    assert expected.ratios(np.array([1e-6]))[0] > 64

    exactly = Expected.of(num(0.0), np.zeros(1), [np.zeros(1)], F32)
    assert exactly.ratios(np.array([contracted]))[0] > 64

    for left, held in (
        (2**-56, True),
        (contracted, False),
    ):  # what float64 leaves is zero too; no more is
        nearly = Num(np.array([left]), found.e, found.f)
        left_over = Expected.of(nearly, np.zeros(1), [np.array([left])], F32)
        assert bool(left_over.ratios(np.zeros(1))[0] < 8) == held
        assert left_over.ratios(np.array([1e-6]))[0] > 64


def test_gradients_are_drawn_again_where_a_free_run_would_tell_too_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Adafactor's fifth case in float16: squares below 6e-8 are stored as zero, and a whole array hangs on them."""
    case = Case(of_rule("adafactor")[4], "float16")
    monkeypatch.setattr(truth, "DRAWS", 1)
    first = run.__wrapped__(case, "run")
    monkeypatch.undo()
    drawn = run.__wrapped__(case, "run")
    assert truth._exempt(first.whole) > truth.MOST_EXEMPT_FREE >= truth._exempt(drawn.whole)
    assert not np.array_equal(first.shots[0].grads[0], drawn.shots[0].grads[0])
    # Where there is no other, the run is followed as far as it tells enough, and no step further.
    told = len(first.free)
    assert truth.FEWEST_FREE <= told < len(first.whole) == len(drawn.free)
    assert truth._exempt(first.whole[:told]) <= truth.MOST_EXEMPT_FREE
    assert truth._exempt(first.whole[: told + 1]) > truth.MOST_EXEMPT_FREE


def test_a_draw_that_leaves_its_format_is_the_last_to_be_kept() -> None:
    found = run.__wrapped__(Case(of_rule("adam")[0], "bfloat16"), "run")
    assert truth._untold(found) == 0
    found.shots[-1].after.params[0][0] = np.inf
    assert truth._untold(found) == np.inf


def test_two_small_errors_may_meet_in_a_product_of_matrices() -> None:
    """Beside the diagonal the roots of two matrices may both be off from zero, where first order says nothing."""
    left, right = (Num(np.zeros((1, 1)), np.full((1, 1), e)) for e in (1e-3, 1e-5))
    assert ARITH.matmul(left, right).e[0, 0] >= 1e-8


@pytest.mark.parametrize(("name", "counts"), [("float64", True), ("float32", False)])
def test_a_bound_of_two_million_ulps_tells_something_in_float64_only(name: str, counts: bool) -> None:
    form = FORMATS[name]
    spacing = float(np.finfo(form.numpy).eps)
    off = Num(np.array([1.0], form.wide), np.array([2e6 * spacing], form.wide))
    found = Expected.of(off, np.zeros(1), [np.ones(1)], form)
    assert (found.unit[0] / spacing > 1e5) == counts


def test_what_the_plain_rule_drifts_by_in_the_next_steps_counts() -> None:
    """A number that all elements share may have been nearly right by luck."""
    eps = float(np.finfo(np.float32).eps)

    def after(ulps: float) -> Target:
        off = Expected.of(num(1.0), np.zeros(1), [np.array([1 + ulps * eps])], F32, bounded=False)
        return Target([{"p": off}], {})

    units = [
        t.arrays[0]["p"].unit[0] / eps for t in truth._with_drift([*map(after, (1, 2, 5, 9, 3))])
    ]
    np.testing.assert_allclose(units, [5, 9, 9, 9, 9], rtol=1e-6)
