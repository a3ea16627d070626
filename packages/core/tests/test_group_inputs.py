"""Values that a step is given once for the whole group, such as the loss."""

from importlib.util import find_spec

import numpy as np
import pytest

import isostep
from isostep import RuleError, StepError
from isostep.rule import Rule

FUSED = pytest.param(
    "numpy:fused",
    marks=pytest.mark.skipif(find_spec("numba") is None, reason="needs the extra `fused`"),
)

REFERENCE = isostep.backend("numpy:reference")


def scaled_update(p, g, t, /, *, lr, loss):
    return -lr * loss * g


SCALED = Rule(
    name="scaled",
    update=scaled_update,
    group_inputs=("loss",),
    hyper={"lr": isostep.domains.Real(0.5)},
)


def start(rule):
    params = [np.array([1.0, 2.0]), np.array(3.0)]
    return params, [np.ones(2), np.array(2.0)], REFERENCE.init(rule, params)


@pytest.mark.parametrize("loss", [4, 4.0, np.array(4.0), np.float32(4.0)])
def test_update_sees_it_as_group_state(loss):
    rule = SCALED.bind()
    params, grads, state = start(rule)
    REFERENCE.step(rule, params, grads, state, loss=loss)
    np.testing.assert_array_equal(params[0], [-1.0, 0.0])
    assert params[1] == -1.0
    assert state.group == {"loss": 4.0}
    assert state.group["loss"].dtype == np.float64


def test_it_is_copied_and_comes_anew_with_every_step():
    rule = SCALED.bind()
    params, grads, state = start(rule)
    loss = np.array(1.0)
    REFERENCE.step(rule, params, grads, state, loss=loss)
    loss[...] = 7.0
    assert state.group["loss"] == 1.0
    with pytest.raises(StepError, match=r"scaled needs the input 'loss' .*loss=0-d value"):
        REFERENCE.step(rule, params, grads, state)


@pytest.mark.parametrize(
    ("loss", "got"), [([1.0], "list"), (True, "bool"), (np.ones(1), r"shape \(1,\)")]
)
@pytest.mark.parametrize("backend", ["numpy:reference", FUSED])
def test_anything_else_is_refused_and_changes_nothing(backend, loss, got):
    backend = isostep.backend(backend)
    rule = SCALED.bind()
    params, grads, state = start(rule)
    with pytest.raises(StepError, match=f"loss must be a number or a 0-d array, got {got}"):
        backend.step(rule, params, grads, state, loss=loss)
    assert (params[1], state.t, state.group_t, float(state.group["loss"])) == (3.0, [0, 0], 0, 0.0)


def test_without_a_gradient_it_is_not_kept():
    rule = SCALED.bind()
    params, _, state = start(rule)
    REFERENCE.step(rule, params, [None, None], state, loss=2.0)
    assert (state.group["loss"], state.group_t) == (0.0, 0)


def test_advance_must_leave_it_alone():
    rule = Rule(
        name="greedy",
        update=scaled_update,
        advance=lambda sums, group, t, /: {"loss": group["loss"]},
        group_inputs=("loss",),
        hyper=SCALED.hyper,
    ).bind()
    params, grads, state = start(rule)
    with pytest.raises(RuleError, match=r"advance returned \['loss'\], expected \[\]"):
        REFERENCE.step(rule, params, grads, state, loss=1.0)
