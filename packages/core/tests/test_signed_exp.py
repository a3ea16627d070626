"""The exponential of a number times signs has three values, which kernels take before the loop: to the same bits."""

import numpy as np
import pytest

import isostep
from isostep import nm
from isostep.domains import Real
from isostep.lower.numba_source import show
from isostep.program import trace
from isostep.rule import Rule

pytestmark = pytest.mark.whole

ODD = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-42, -1e-42, 3.0, -2.0]


def mine(argument):
    return Rule(
        name="mine",
        update=lambda p, g, t, /, *, lr, base: -lr * nm.exp(argument(p, g, nm.log(base))),
        hyper={"lr": Real(0.1), "base": Real(2.0, low=0)},
    )


def hidden(s):
    """The same value, which is no product of signs to whoever writes the kernel."""
    return nm.maximum(s, s)


ARGUMENTS = {
    "signs": lambda p, g, c, same: same(nm.sign(p) * nm.sign(g)),
    "a number": lambda p, g, c, same: c * same(nm.sign(p) * nm.sign(g)),
    "one sign": lambda p, g, c, same: same(nm.sign(g)) * c,
    "a number between": lambda p, g, c, same: same(nm.sign(p)) * c * nm.sign(g),
    "of the array": lambda p, g, c, same: nm.ndim(g) * same(nm.sign(g)),
}


@pytest.mark.parametrize("base", [2.0, 0.3, 1.0, 1e30])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_bits_are_those_of_an_exponential_of_each_element(name, dtype, base):
    found, argument = [], ARGUMENTS[name]
    for same, seen in ((lambda s: s, True), (hidden, False)):
        rule = mine(lambda p, g, c, same=same: argument(p, g, c, same)).bind(base=base)
        assert ("by_sign(" in show(trace(rule), "float32").split("@njit")[-1]) == seen
        backend = isostep.backend("numpy:fused")
        p, g = np.meshgrid(ODD, ODD)
        params, grads = [backend.cast(p, dtype)], [backend.cast(g, dtype)]
        params, _ = backend.step(rule, params, grads, backend.init(rule, params))
        found.append(np.asarray(params[0]).tobytes())
    assert found[0] == found[1]


def test_other_exponentials_are_left_alone():
    for argument in (
        lambda p, g, c: nm.sign(g) * g,
        lambda p, g, c: nm.sum_units(g) * nm.sign(g),
        lambda p, g, c: nm.sign(g) + c,
    ):
        text = show(trace(mine(argument).bind()), "float32")
        assert "by_sign(" not in text.split("@njit")[-1]
