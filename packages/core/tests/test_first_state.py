"""State that ``init`` makes in other shapes: which ones, and that every path takes it."""

import numpy as np
import pytest

import isostep
from isostep import nm, parts
from isostep.domains import Real
from isostep.lower.layout import obstacle
from isostep.program import always_like_parameter, init_shapes
from isostep.rule import Rule

SHAPES = ((3, 4), (5,), (2, 3, 2), (), (0,), (60,))


def by_rank(p, /):
    return p * 1.0 if len(p.shape) > 1 else nm.sum(p)


def by_size(p, /):
    return p * 1.0 if nm.size(p) > 50 else nm.sum(p)


def always_one(p, /):
    return nm.sum(p)


def mine(init):
    def update(p, g, anchor, t, /, *, lr):
        return lr * (anchor - p) - lr * g, anchor * 0.5

    return Rule(
        name="mine", update=update, state=("anchor",), init=init, hyper={"lr": Real(0.1)}
    ).bind()


def steps(rule, path):
    rng = np.random.default_rng(5)
    backend = isostep.backend(path)
    params = [backend.asarray(rng.normal(size=s)) for s in SHAPES]
    state = backend.init(rule, params)
    for _ in range(3):
        grads = [backend.asarray(rng.normal(size=s)) for s in SHAPES]
        params, state = backend.step(rule, params, grads, state)
    return [backend.to_numpy(a) for a in (*params, *(own["anchor"] for own in state.arrays))]


@pytest.mark.parametrize("init", [by_rank, by_size, always_one])
def test_states_whose_shape_depends_on_rank_or_size(other_path, init):
    rule = mine(init)
    for found, wanted in zip(steps(rule, other_path), steps(rule, "numpy:reference"), strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-14, atol=1e-14)


def test_what_is_like_the_parameter_at_every_shape():
    def scaled(p, /):
        return parts.filled(p, 1.0 / (1.0 + nm.size(p)))

    for init, like in ((by_rank, False), (by_size, False), (always_one, False), (scaled, True)):
        rule = mine(init)
        assert always_like_parameter(rule, rule.components[0]) == [like]
        assert rule.like_parameter("anchor") is like
        assert (obstacle(rule) is None) is like
    adafactor = isostep.rule("adafactor")
    assert [n for n in adafactor.state_names if adafactor.like_parameter(n)] == []
    came = isostep.rule("came", lr=0.1)
    assert [n for n in came.state_names if came.like_parameter(n)] == ["exp_avg"]


@pytest.mark.parametrize("name", isostep.rules())
def test_shapes_are_known_without_arrays_of_that_size(name):
    rule = isostep.rule(name)
    for component in rule.components:
        if component.part.init is not None:  # of a number of elements that no machine holds
            found = init_shapes(rule, component, (1 << 31, 1 << 31))
            assert len(found) == len(rule.state_of(component))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
def test_factors_of_an_array_without_elements_are_numbers(shape, other_path):
    """Balancing scales by the largest number of each factor, and those of an empty axis have none."""
    backend = isostep.backend(other_path)
    rule = isostep.rule("psgd_kron", preconditioner_update_every=1, balance_every=2)
    params = [backend.asarray(np.ones(shape, np.float32))]
    state = backend.init(rule, params)
    for _ in range(4):
        params, state = backend.step(rule, params, params, state, probe=params)
    assert all(np.isfinite(backend.to_numpy(a)).all() for a in state.arrays[0].values())
