"""Programs with axes as passes: where they are cut, what their text depends on, and what is left to the framework."""

import numpy as np
import pytest

import isostep
from isostep import nm
from isostep.lower.axes import Axes, axes, in_passes
from isostep.program import shaped, trace
from isostep.rule import Rule

numba = pytest.importorskip("numba", reason="of the extra `fused`")


def passes(name, shape, **hyper):
    rule = isostep.rule(name, **hyper)
    return axes(shaped(rule, rule.phase(2), shape))


def text(found, dtype="float32"):
    from isostep.lower.axes_source import source

    return source(found, dtype)


def made(update, **more):
    return Rule(name="made", update=update, **more).bind()


def test_a_pass_takes_all_sums_that_wait_for_the_same():
    found = passes("adafactor", (40, 25))
    assert [len(one.reduced) for one in found.passes] == [
        3,
        1,
        0,
    ]  # rows, columns and p; direction; none
    assert [one.last for one in found.passes] == [False, False, True]
    assert found.alone
    assert not found.kept
    assert list(found.stores) == ["p"]  # the factors are smaller, and the framework's


def test_a_maximum_that_only_the_state_needs_takes_no_pass_of_its_own():
    found = passes("sm3", (4, 5, 6))
    assert found.count == 1
    assert len(found.passes[0].reduced) == 3


def test_a_matrix_product_gets_what_a_pass_has_kept():
    found = passes("muon", (6, 4))
    kept = [n for one in found.passes for n in one.kept]
    assert kept
    assert not found.alone
    assert all(
        kept[0] in {*one.stacks}
        for one in found.passes
        if kept[0] in {a for n in one.nodes for a in n.args}
    )


@pytest.mark.parametrize("name", ["adafactor", "novograd", "sm3", "nero"])
def test_lengths_are_not_in_the_text(name):
    assert text(passes(name, (40, 25))) == text(passes(name, (300, 7)))
    assert text(passes(name, (40, 25)), "float64") != text(passes(name, (40, 25)))


def test_axes_that_all_arrays_have_are_one_and_those_of_length_1_none():
    assert passes("novograd", (4, 5, 6)).sizes == (120,)
    assert passes("adafactor", (2, 1, 5, 6)).sizes == (2, 5, 6)
    assert passes("adafactor", (1, 5, 6)).sizes == (5, 6)
    assert passes("sm3", (4, 5, 6)).sizes == (4, 5, 6)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (0,), (3, 0)])
def test_what_is_left_to_the_framework(shape):
    assert not passes("sm3", shape).fits


def test_more_axes_than_loops_are_left():
    def update(p, g, t, /):
        rank = len(p.shape)
        odd = nm.sum_axis(g, axis=tuple(range(1, rank, 2)))
        return -0.1 * (odd + nm.sum_axis(p, axis=tuple(range(0, rank, 2))))

    rule = made(update)
    found = [axes(shaped(rule, rule.phase(1), (2, 3, 2, 3, 2)[:rank])) for rank in (2, 3, 4, 5)]
    assert [one.fits for one in found] == [True, True, True, False]
    assert in_passes(rule)


@pytest.mark.parametrize("seen", [lambda p: p, lambda p: nm.transpose(nm.transpose(p))])
def test_what_comes_after_the_last_pass_must_not_look_at_what_that_has_written(seen):
    def update(p, g, r, t, /):
        column = nm.sum_axis(g * g, axis=0)  # of the pass that stores p
        return -0.1 * g, r + nm.matmul(seen(p), nm.transpose(column))

    rule = made(update, state=("r",), init=lambda p, /: nm.sum_axis(p, axis=-1), ndim=(2,))
    assert not in_passes(rule)


def test_a_program_for_a_shape_is_made_of_a_rule_that_does_not_look_at_it():
    rule = isostep.rule("adamw")
    assert trace(rule, None, (3, 4)).shape is None
    one = shaped(rule, rule.phase(1), (3, 4))
    assert one.shape == (3, 4)
    assert shaped(rule, rule.phase(1), (3, 4)) is one
    assert Axes(one).count == 1


def test_names_of_a_rule_do_not_meet_those_of_the_loops():
    def update(p, g, t, /):
        i0 = nm.sum_axis(g, axis=-1)
        n1 = g * i0
        chunk = n1 + nm.sum_axis(g, axis=-2)
        run = nm.sqrt(chunk * chunk + 1)
        return -0.1 * run

    rule = made(update)
    found = text(axes(shaped(rule, rule.phase(1), (3, 4))))
    compile(found, "passes", "exec")
    for name in ("i0_2", "n1_2", "chunk_2", "run_2"):
        assert f" {name} = " in found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_largest_is_nan_if_any_is_and_the_larger_of_two_zeros(dtype):
    from isostep.lower import numba_support

    place = getattr(numba_support, f"place_{dtype}")
    at_place = getattr(numba_support, f"at_place_{dtype}")

    @numba.njit
    def largest(x):
        top = place(x[0])
        for i in range(1, len(x)):
            top = max(top, place(x[i]))
        return at_place(top)

    rng = np.random.default_rng(3)
    kind = np.dtype(dtype).type
    for values in (
        rng.normal(size=70),
        -abs(rng.normal(size=70)),
        [-np.inf, -1e-44],
        [-0.0, 0.0],
        [1e-44, np.inf],
    ):
        x = np.array(values, dtype)
        found = largest(x)
        assert found == x.max()
        assert not np.signbit(largest(np.array([-0.0, 0.0], dtype)))
        for nan in (kind("nan"), -kind("nan")):
            assert np.isnan(largest(np.append(x, nan)))
            assert np.isnan(largest(np.append(nan, x)))
