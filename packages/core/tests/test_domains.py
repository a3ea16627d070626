"""Domains: what each accepts and rejects, in which words, and how schedules of it are evaluated."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import isostep
from isostep.domains import (
    REQUIRED,
    Choice,
    DomainError,
    Flag,
    Integer,
    Pair,
    Real,
    Scheduled,
    evaluate,
)

POSITIVE = Real(low=0, low_open=True)
UNIT = Real(low=0, high=1, high_open=True)
UNBOUNDED = Real(low=1, optional=True, none_is_infinite=True)

ACCEPTED = [
    (Real(), -1e300, -1e300),
    (Real(), 3, 3.0),
    (Real(), Fraction(1, 4), 0.25),
    (Real(low=0), 0, 0.0),
    (Real(low=0), -0.0, 0.0),
    (POSITIVE, 5e-324, 5e-324),
    (UNIT, math.nextafter(1.0, 0.0), math.nextafter(1.0, 0.0)),
    (Real(high=0), 0.0, 0.0),
    (Real(low=0, high=1), 1, 1.0),
    (Real(optional=True), None, None),
    (UNBOUNDED, None, None),
    (UNBOUNDED, math.inf, None),
    (UNBOUNDED, np.float32(math.inf), None),
    (UNBOUNDED, 2, 2.0),
    (Real(), np.float32(0.5), 0.5),
    (Real(), np.float16(0.5), 0.5),
    (Real(), np.int64(2), 2.0),
    (Real(), np.array(0.5, np.float32), 0.5),
    (Integer(low=1), 1, 1),
    (Integer(high=3), np.int32(3), 3),
    (Flag(), True, True),
    (Flag(), np.bool_(False), False),
    (Choice(options=("a", None)), "a", "a"),
    (Choice(options=("a", None)), None, None),
    (Pair(UNIT, Real(high=0)), [0.5, -1], (0.5, -1.0)),
    (Pair(UNIT, UNIT), np.array([0.25, 0.5]), (0.25, 0.5)),
    (Scheduled(), None, None),
    (Scheduled(), np.float32(0.5), 0.5),
]

REJECTED = [
    (UNIT, 1.0, "x must be in [0, 1), got 1.0"),
    (UNIT, -1e-9, "x must be in [0, 1), got -1e-09"),
    (Real(low=0, high=1), 1.5, "x must be in [0, 1], got 1.5"),
    (Real(low=0, high=1, low_open=True), 0, "x must be in (0, 1], got 0"),
    (Real(low=0), -1, "x must be >= 0, got -1"),
    (POSITIVE, 0.0, "x must be > 0, got 0.0"),
    (Real(high=0), 0.5, "x must be <= 0, got 0.5"),
    (Real(high=2, high_open=True), 2, "x must be < 2, got 2"),
    (Real(low=0, optional=True), -1, "x must be None or >= 0, got -1"),
    (UNBOUNDED, -math.inf, "x must be None or >= 1, got -inf"),
    (UNBOUNDED, math.nan, "x must be None or >= 1, got nan"),
    (Real(low=0, optional=True), math.inf, "x must be None or >= 0, got inf"),
    (Real(low=0), None, "x must be >= 0, got None"),
    (Real(), math.nan, "x must be a finite number, got nan"),
    (Real(), math.inf, "x must be a finite number, got inf"),
    (Real(), -math.inf, "x must be a finite number, got -inf"),
    (Real(), np.float64("nan"), "x must be a finite number, got np.float64(nan)"),
    (Real(), np.array(np.nan), "x must be a finite number, got nan"),
    (Real(), True, "x must be a finite number, got True"),
    (Real(), np.True_, "x must be a finite number, got np.True_"),
    (Real(), np.array(True), "x must be a finite number, got array(True)"),
    (Real(), "0.5", "x must be a finite number, got '0.5'"),
    (Real(), b"1", "x must be a finite number, got b'1'"),
    (Real(), 1 + 0j, "x must be a finite number, got (1+0j)"),
    (Real(), np.array([1.0, 2.0]), "x must be a finite number, got array([1., 2.])"),
    (Real(), 10**400, f"x must be a finite number, got {10**400}"),
    (Integer(low=1), 0, "x must be an integer >= 1, got 0"),
    (Integer(high=3), 4, "x must be an integer <= 3, got 4"),
    (Integer(low=0, high=99), 100, "x must be an integer in [0, 99], got 100"),
    (Integer(), 1.0, "x must be an integer, got 1.0"),
    (Integer(), True, "x must be an integer, got True"),
    (Integer(), "1", "x must be an integer, got '1'"),
    (Integer(), math.nan, "x must be an integer, got nan"),
    (Flag(), 1, "x must be True or False, got 1"),
    (Flag(), "True", "x must be True or False, got 'True'"),
    (Flag(), None, "x must be True or False, got None"),
    (Choice(options=("a", "b")), "c", "x must be one of 'a', 'b', got 'c'"),
    (Choice(options=(1, 2)), True, "x must be one of 1, 2, got True"),
    (Choice(options=(1, 2)), 1.0, "x must be one of 1, 2, got 1.0"),
    (Pair(UNIT, UNIT), 0.5, "x must be 2 numbers, each in [0, 1), got 0.5"),
    (Pair(UNIT, UNIT), (0.5,), "x must be 2 numbers, each in [0, 1), got (0.5,)"),
    (Pair(UNIT, UNIT), "ab", "x must be 2 numbers, each in [0, 1), got 'ab'"),
    (Pair(UNIT, UNIT), b"\0\0", r"x must be 2 numbers, each in [0, 1), got b'\x00\x00'"),
    (Pair(UNIT, POSITIVE), (0.5, 0.0), "x[1] must be > 0, got 0.0"),
    (Pair(UNIT, POSITIVE), None, "x must be 2 numbers: in [0, 1), > 0, got None"),
    (
        Scheduled(),
        "linear",
        "x must be None, a number, or a callable of the number of steps already done, got 'linear'",
    ),
    (
        Scheduled(),
        math.nan,
        "x must be None, a number, or a callable of the number of steps already done, got nan",
    ),
    (
        Scheduled(),
        True,
        "x must be None, a number, or a callable of the number of steps already done, got True",
    ),
]


@pytest.mark.parametrize(("domain", "value", "normal"), ACCEPTED)
def test_accepts_in_normal_form(domain, value, normal):
    found = domain.check("x", value)
    assert found == normal
    assert type(found) is type(normal)


@pytest.mark.parametrize(("domain", "value", "text"), REJECTED, ids=lambda v: str(v)[:40])
def test_rejects_in_one_line(domain, value, text):
    with pytest.raises(DomainError) as caught:
        domain.check("x", value)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("name", "hyper", "text"),
    [
        ("adamw", {"betas": (1.0, 0.9)}, "adamw: betas[0] must be in [0, 1), got 1.0"),
        ("adamw", {"betas": (0.9, math.nan)}, "adamw: betas[1] must be in [0, 1), got nan"),
        ("powersign", {"base": 0}, "powersign: base must be > 0, got 0"),
        (
            "adam",
            {"dialect": "tf"},
            "adam: dialect must be one of 'torch', 'paper', 'keras', 'optax', 'adamd', got 'tf'",
        ),
        ("muon", {"ns_steps": 2.5}, "muon: ns_steps must be an integer in [0, 99], got 2.5"),
        ("adafactor", {"eps": (-1.0, 0.1)}, "adafactor: eps[0] must be None or >= 0, got -1.0"),
    ],
)
def test_rules_say_which_value_of_which_rule(name, hyper, text):
    with pytest.raises(DomainError) as caught:
        isostep.rule(name, **hyper)
    assert str(caught.value) == text


def bounds(low_open, high_open):
    return Real(low=-2.0, high=3.0, low_open=low_open, high_open=high_open)


@given(st.floats(), st.booleans(), st.booleans())
def test_an_interval_accepts_exactly_its_numbers(x, low_open, high_open):
    left = x > -2.0 if low_open else x >= -2.0
    right = x < 3.0 if high_open else x <= 3.0
    domain = bounds(low_open, high_open)
    if left and right:
        assert domain.check("x", x) == x
        assert domain.check("x", domain.check("x", x)) == x
    else:
        with pytest.raises(DomainError):
            domain.check("x", x)


@given(st.integers(-10, 10) | st.floats(allow_nan=False) | st.booleans() | st.text(max_size=2))
def test_integers_are_integers_and_stay_so(x):
    domain = Integer(low=-3, high=4)
    if type(x) is int and -3 <= x <= 4:
        assert domain.check("x", domain.check("x", x)) == x
    else:
        with pytest.raises(DomainError):
            domain.check("x", x)


@given(st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)))
def test_pairs_come_back_part_by_part(betas):
    rule = isostep.rule("adam", betas=list(betas))
    assert rule.values["betas"] == betas
    assert rule.replace(betas=rule.values["betas"]).values == rule.values


def test_a_pair_s_default_is_its_parts_and_required_if_one_is():
    assert Pair(Real(0.5), Real(0.25)).default == (0.5, 0.25)
    assert Pair(Real(0.5), Real()).default is REQUIRED


def test_which_values_are_part_of_the_program():
    zero = Real(0.1, zero_is_static=True)
    assert zero.is_static(0.0)
    assert zero.is_static(-0.0)
    assert not zero.is_static(1e-300)
    assert not zero.is_static(lambda done: 0.0)
    assert not Real(0.1).is_static(0.0)
    assert Real(optional=True).is_static(None)
    assert Flag(False).is_static(False)
    assert Choice("a", options=("a",)).is_static("a")
    assert Integer(3, static=True).is_static(3)
    assert not Integer(3).is_static(3)
    assert Scheduled().is_static(None)
    assert not Scheduled().is_static(0.0)


def test_schedules_get_the_steps_already_done():
    seen = []
    rule = isostep.rule(
        "adam", lr=lambda done: seen.append(done) or 0.5 + done, betas=(lambda d: d / 8, 0.5)
    )
    assert rule.at(1)["lr"] == 0.5
    assert rule.at(4)["lr"] == 3.5
    assert rule.at(5)["betas"] == (0.5, 0.5)
    assert seen == [0, 3, 4]  # each step asks once, for t - 1


@pytest.mark.parametrize(
    ("hyper", "text"),
    [
        ({"lr": lambda done: -1.0}, "adam: lr(2) must be >= 0, got -1.0"),
        ({"lr": lambda done: math.nan}, "adam: lr(2) must be >= 0, got nan"),
        ({"lr": lambda done: "fast"}, "adam: lr(2) must be >= 0, got 'fast'"),
        ({"lr": lambda done: None}, "adam: lr(2) must be a finite number, got None"),
        ({"betas": (0.5, lambda done: 1.0)}, "adam: betas[1](2) must be in [0, 1), got 1.0"),
    ],
)
def test_what_a_schedule_returns_is_checked(hyper, text):
    rule = isostep.rule("adam", **hyper)
    with pytest.raises(DomainError) as caught:
        rule.at(3)
    assert str(caught.value) == text


def test_a_schedule_never_comes_to_no_bound():
    rule = isostep.rule("prodigy", growth_rate=lambda done: 1.5 if done < 2 else math.inf)
    assert rule.at(2)["growth_rate"] == 1.5
    with pytest.raises(DomainError) as caught:
        rule.at(3)
    assert str(caught.value) == "prodigy: growth_rate(2) must be a finite number, got inf"


def test_a_schedule_that_returns_a_schedule_is_an_error():
    # isostep.rule("sgd", lr=lambda done: LinearInternalDecay(10)) forgets a call.
    with pytest.raises(DomainError, match=r"^sgd: lr\(0\) must be a finite number, got <function"):
        isostep.rule("sgd", lr=lambda done: lambda again: 0.1).at(1)


def test_sign_decays_are_checked_when_they_are_taken():
    rule = isostep.rule("addsign", sign_internal_decay=lambda done: math.inf)
    with pytest.raises(DomainError) as caught:
        rule.at(1)
    assert str(caught.value) == "addsign: sign_internal_decay(0) must be a finite number, got inf"
    assert evaluate("x", Scheduled(), lambda done: np.float32(0.5), 0) == 0.5
    assert evaluate("x", Scheduled(), 0.25, 0) == 0.25
