"""Numbers that stand in a rule: the same ones on every path, to the bit where they decide something."""

import re

import numpy as np
import pytest

import isostep
from isostep import nm
from isostep.domains import Real
from isostep.rule import Rule, RuleError
from isostep.values import TraceError

TENTHS = [0.1, -0.1, 0.3]


def step(path, update, grad=TENTHS, dtype="float64", **facts):
    """What a step from ones makes of them."""
    facts = {"hyper": {"lr": Real(0.1, low=0)}} | facts
    backend, rule = isostep.backend(path), Rule(name="mine", update=update, **facts).bind()
    params = [backend.asarray(np.ones(len(grad), dtype))]
    state = backend.init(rule, params)
    params, state = backend.step(rule, params, [backend.asarray(np.array(grad, dtype))], state)
    return backend.to_numpy(params[0])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_number_that_an_element_is_compared_with(each_path, dtype):
    def over(p, g, t, /, *, lr):
        return -lr * nm.where(nm.abs(g) >= 0.1, g, 3 * g)

    found = step(each_path, over, dtype=dtype)
    ulp = np.finfo(dtype).eps
    np.testing.assert_allclose(found, [0.99, 1.01, 0.97], rtol=ulp)
    below = np.nextafter(np.array(TENTHS, dtype), np.array(0, dtype))
    np.testing.assert_allclose(step(each_path, over, below, dtype), [0.97, 1.03, 0.97], rtol=ulp)

    def exactly(p, g, t, /, *, lr):
        return nm.where(g == 0.1, -1.0, 0.0) + nm.where(g != 0.3, 0.0, 2.0)

    np.testing.assert_array_equal(step(each_path, exactly, dtype=dtype), [0.0, 1.0, 3.0])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_number_that_a_sum_is_compared_with(each_path, dtype):
    def update(p, g, t, /, *, lr, top):
        own = nm.where(nm.sum(g) > 0.7, 1.0, 0.0)
        return own + nm.where(top <= 0.7, 2.0, 0.0) + nm.where(top == 0.7, 4.0, 0.0) + 0 * g

    near = [np.nextafter(np.array(0.7, dtype), np.array(k, dtype)) for k in (0, 1)]
    for given, wanted in ((0.7, 7.0), (near[0], 3.0), (near[1], 2.0)):
        found = step(each_path, update, [given], dtype, measure=lambda p, g, t, /: {"top": g})
        np.testing.assert_array_equal(found, [wanted])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_number_that_a_value_of_the_group_is_compared_with(each_path, dtype):
    found = step(
        each_path,
        lambda p, g, t, /, *, lr, d: (
            (nm.where(d < 0.3, 1.0, 0.0) + nm.where(d >= 0.1, 2.0, 0.0)) + 0 * g
        ),
        dtype=dtype,
        group={"d": lambda h: 0.3},
        advance=lambda sums, group, t, /, *, lr: {"d": nm.where(group["d"] >= 0.3, 0.1, 0.3)},
    )
    np.testing.assert_array_equal(found, [4.0] * 3)


def with_whole(number):
    return lambda p, g, t, /, *, lr: g * number + nm.where(g > -lr * number, g, number)


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
def test_whole_numbers_that_arrays_hold(each_path, number):
    g = np.array(TENTHS)
    expected = 1 + g * float(number) + np.where(g > -0.1 * number, g, float(number))
    np.testing.assert_allclose(step(each_path, with_whole(number)), expected, rtol=1e-15)


@pytest.mark.parametrize("number", [2**63, -(10**20), 10**400])
def test_whole_numbers_that_arrays_do_not_hold(each_path, number):
    with pytest.raises(TraceError) as caught:
        step(each_path, with_whole(number))
    assert re.fullmatch(
        r"mine: whole numbers of a rule must fit into 64 bits, "
        rf"got one of {number.bit_length()}; write a float, 1e20 \(test_numbers\.py:\d+\)",
        str(caught.value),
    )


def test_a_plain_number_that_outgrows_all_is_to_be_bounded():
    def update(p, g, t, /, *, lr):
        return g * 1e300 ** (t + 1)

    with pytest.raises(RuleError, match=r"so bound what grows, nm\.minimum\(t, 100\), and write"):
        step("numpy:reference", update)
