"""``t % k`` in a rule: exact on every path, and for numbers of the step only."""

from dataclasses import replace

import numpy as np
import pytest

import isostep
from isostep import nm, parts
from isostep.domains import Integer, Real
from isostep.rule import Rule
from isostep.values import TraceError

#: JAX's compiler divides by a constant k by multiplying with its rounded inverse: by these, 1 / k * k is below 1.
PERIODS = (41, 55, 61)
KINDS = {
    "static": Integer(5, low=1, static=True),
    "whole": Integer(5, low=1),
    "real": Real(5, low=1),
}


def sawtooth(p, g, t, /, *, lr, k):
    return -lr * ((t - 1) % k) * g


def descent(update):
    return Rule(name="mine", update=update, hyper={"lr": parts.lr(1.0)}).bind()


@pytest.mark.parametrize("kind", KINDS)
def test_a_period_starts_again_where_it_should(each_path, kind):
    backend = isostep.backend(each_path)
    part = Rule(name="sawtooth", update=sawtooth, hyper={"lr": parts.lr(1.0), "k": KINDS[kind]})
    for k in PERIODS:
        rule = part.bind(k=k)
        for t in (1, k, k + 1, 7 * k + 1):
            params = [backend.asarray(np.zeros(2, np.float32))]
            state = replace(backend.init(rule, params), t=[t - 1], group_t=t - 1)
            params, _ = backend.step(rule, params, [backend.asarray(np.ones(2, np.float32))], state)
            assert -backend.to_numpy(params[0])[0] == (t - 1) % k


def test_it_has_the_sign_of_the_divisor(each_path):
    backend = isostep.backend(each_path)
    rule = descent(lambda p, g, t, /, *, lr: -lr * ((t - 10) % 4 + 100 * ((10 - t) % -4)) * g)
    params = [backend.asarray(np.zeros(2, np.float32))]
    state = backend.init(rule, params)
    for t in range(1, 12):
        before = backend.to_numpy(params[0]).copy()
        params, state = backend.step(rule, params, [backend.asarray(np.ones(2, np.float32))], state)
        assert before[0] - backend.to_numpy(params[0])[0] == (t - 10) % 4 + 100 * ((10 - t) % -4)


def test_arrays_have_none():
    with pytest.raises(
        TraceError, match="% is for numbers of the step, such as t, got <g on element>; write"
    ):
        isostep.program(descent(lambda p, g, t, /, *, lr: -lr * (g % 2.0)))
    with pytest.raises(TraceError, match="got <g on element>"):
        isostep.program(descent(lambda p, g, t, /, *, lr: -lr * (5 % g)))


def test_a_symbol_is_no_number_to_python():
    with pytest.raises(
        TraceError, match=r"<ndim on array> is known only when .* or len\(p.shape\)"
    ):
        isostep.program(descent(lambda p, g, t, /, *, lr: -lr * g * len(range(nm.ndim(g)))))
