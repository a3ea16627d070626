"""What a value's shape is, on the arrays of every path and in a program: found by rules drawn at random."""

import time

import numpy as np
import pytest

import isostep
from isostep import nm
from isostep.domains import Real
from isostep.program import trace
from isostep.rule import Rule, RuleError
from isostep.values import TraceError


def mine(update, **facts):
    return Rule(name="mine", update=update, hyper={"lr": Real(0.5)}, **facts).bind()


def stepped(rule, path, shape=(3, 2, 2), steps=1):
    """The first parameter and its state after steps with gradients 0, 1, 2, ... of two parameters of ones."""
    backend = isostep.backend(path)
    params = [backend.asarray(np.ones(shape)) for _ in range(2)]
    state = backend.init(rule, params)
    grads = [backend.asarray(np.arange(float(np.prod(shape))).reshape(shape)) for _ in range(2)]
    for _ in range(steps):
        params, state = backend.step(rule, params, grads, state)
    return backend.to_numpy(params[0]), [backend.to_numpy(a) for a in state.arrays[0].values()]


@pytest.mark.parametrize(
    ("factor", "value"),
    [
        (lambda g, t, lr: nm.sum(nm.where(t > 0, 1.0, g)), 12.0),
        (lambda g, t, lr: nm.sum(nm.where(lr > 1, g, lr)), 6.0),
        (lambda g, t, lr: nm.sum_units(nm.where(lr > 0, lr, g)), 2.0),
        (lambda g, t, lr: nm.sum(nm.where(t > 0, nm.sum(g), g)), 66.0 * 12),
        (lambda g, t, lr: nm.sum(nm.where(t > 0, 1.0, nm.sum_units(g))), 3.0),
        (lambda g, t, lr: nm.size(nm.where(t > 0, 1.0, g)), 12.0),
        (lambda g, t, lr: nm.ndim(nm.where(t > 0, nm.sum(g), g)), 3.0),
        (lambda g, t, lr: nm.where(t > 0, nm.sum(g), g).shape[0], 3.0),
        (lambda g, t, lr: 1 + nm.eps(nm.where(t > 0, 1.0, g)), 1.0),
        (lambda g, t, lr: nm.size(nm.sum(g)), 1.0),
        (lambda g, t, lr: nm.size(nm.sum_units(g)), 3.0),
        (lambda g, t, lr: nm.unit_size(nm.sum_units(g)), 1.0),
        (lambda g, t, lr: 1.0 + nm.ndim(nm.sum(g)), 1.0),
        (lambda g, t, lr: nm.size(nm.sum_axis(g, axis=0)), 4.0),
        (lambda g, t, lr: nm.sum_units(lr), 0.5),
        (lambda g, t, lr: nm.sum(nm.sum_units(g)), 66.0),
    ],
)
def test_a_choice_has_the_shape_of_both_and_facts_are_of_what_they_are_asked_of(
    each_path, factor, value
):
    found, _ = stepped(mine(lambda p, g, t, /, *, lr: -factor(g, t, lr) + 0 * p), each_path)
    np.testing.assert_allclose(found, 1 - value, rtol=1e-12, atol=1e-12)


def test_a_choice_is_summed_over_the_group_for_each_element(each_path):
    rule = mine(
        lambda p, g, t, /, *, lr, q: -q + 0 * p,
        measure=lambda p, g, t, /: {"q": nm.where(t > 0, 1.0, g)},
    )
    np.testing.assert_array_equal(stepped(rule, each_path)[0], 1 - 24.0)


@pytest.mark.parametrize("make", [nm.size, nm.ndim, nm.unit_size, nm.eps])
def test_a_number_has_no_facts(each_path, make):
    with pytest.raises(
        TraceError, match=rf"nm\.{make.__name__} asks an array, got a number; ask p"
    ):
        stepped(mine(lambda p, g, t, /, *, lr: make(lr) * g), each_path)


def test_a_number_has_no_shape(each_path):
    with pytest.raises(RuleError, match="<lr on host> is a number, which has no shape"):
        stepped(mine(lambda p, g, t, /, *, lr: len(lr.shape) * g), each_path)


@pytest.mark.parametrize("shape", [(), (5,), (5, 2), (5, 2, 3)])
def test_the_shape_of_units_is_that_of_their_array(shape):
    seen = []

    def update(p, g, t, /, *, lr):
        seen.append(tuple(nm.sum_units(g).shape))
        return -lr * g

    stepped(mine(update), "numpy:reference", shape)
    assert len(set(seen)) == 1  # when it was traced, and on each array


def test_shapes_of_a_long_chain_are_worked_out_once():
    def update(p, g, t, /, *, lr):
        x = g
        for _ in range(60):
            x = x * (x + 1.0)
        return -lr * x * x.shape[0]

    start = time.perf_counter()
    trace(mine(update), None, (3,))
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("ndim", [(3,), None])
def test_a_rule_need_not_take_the_shape_that_stands_for_all(each_path, ndim):
    rule = mine(lambda p, g, t, /, *, lr: -lr * (g - nm.mean(g, axis=2)), ndim=ndim)
    found, _ = stepped(rule, each_path)
    np.testing.assert_array_equal(found, np.where(np.arange(12).reshape(3, 2, 2) % 2, 0.75, 1.25))


def test_what_is_stored_has_the_shape_of_what_was_there(each_path):
    mean = mine(lambda p, g, s, t, /, *, lr: (-lr * g, nm.mean(g, axis=0)), state=("s",))
    assert stepped(mean, each_path, steps=2)[1][0].shape == (3, 2, 2)
    units = mine(
        lambda p, g, s, t, /, *, lr: (-lr * g, nm.sum_units(g, 0) * nm.sum_units(g, -1)),
        state=("s",),
    )
    assert stepped(units, each_path, steps=2)[1][0].shape == (3, 2, 2)
    over = mine(lambda p, g, t, /, *, lr: nm.overwrite(nm.mean(g, axis=0)))
    assert stepped(over, each_path, steps=2)[0].shape == (3, 2, 2)
    chosen = mine(lambda p, g, t, /, *, lr: nm.overwrite(nm.where(t > 0, 0.5, g)))
    np.testing.assert_array_equal(stepped(chosen, each_path)[0], np.full((3, 2, 2), 0.5))


def test_what_is_stored_is_not_larger(each_path):
    rule = mine(
        lambda p, g, s, t, /, *, lr: (-lr * g * s, g),
        state=("s",),
        init=lambda p, /: nm.sum_axis(p, axis=0),
    )
    with pytest.raises(
        TraceError, match=r"s has shape \(1, .*\), and its new value \(.*\); sum over"
    ):
        stepped(rule, each_path)


@pytest.mark.parametrize(
    "update",
    [
        lambda p, g, t, /, *, lr: -lr,
        lambda p, g, t, /, *, lr: -lr * nm.sum(nm.where(g > 20, 0.0, 1.0)) / 12,
        lambda p, g, t, /, *, lr: -lr * nm.sum_units(nm.where(g > 20, 0.0, 1.0)) / 4,
        lambda p, g, t, /, *, lr: -lr * nm.where(g > 20, 0.0, 1.0),
    ],
)
def test_an_update_that_is_one_number_is_one_for_each_element_behind_it(each_path, update):
    rule = isostep.compose(mine(update), isostep.pieces.trust_ratio())
    found, _ = stepped(rule, each_path)
    np.testing.assert_allclose(found, 0.5, rtol=1e-9)  # lr |p| / |u| u, and p is ones


@pytest.mark.parametrize("condition", [lambda g, lr: g, lambda g, lr: lr, lambda g, lr: nm.sum(g)])
def test_a_number_is_no_condition(each_path, condition):
    with pytest.raises(
        TraceError, match="is a number, not true or false; write what it is compared"
    ):
        stepped(mine(lambda p, g, t, /, *, lr: nm.where(condition(g, lr), g, 2.0)), each_path)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda g: nm.sum_axis(g, axis=5),
        lambda g: nm.max_axis(g, axis=-4),
        lambda g: nm.mean(g, axis=3),
        lambda g: nm.reshape(g, (7, 11)),
        lambda g: nm.matmul(g, nm.reshape(g, (-1, 1))),
        lambda g: nm.transpose(nm.sum(g)),
    ],
)
def test_what_does_not_fit_is_said_when_a_rule_is_traced(each_path, wrong):
    with pytest.raises(TraceError, match=r"mine: .* \(test_same_shapes\.py:\d+\)"):
        stepped(mine(lambda p, g, t, /, *, lr: g + 0 * wrong(g)), each_path)
