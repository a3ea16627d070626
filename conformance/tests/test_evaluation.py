"""The point to evaluate at, the same on every path."""

from __future__ import annotations

import numpy as np
import pytest

import isostep
from isostep_conformance import paths

RULES = [n for n in isostep.rules() if isostep.definition(n).evaluate is not None]
SHAPES = ((3, 4), (), (5,))


def trained(path: str, rule: isostep.BoundRule, steps: int = 7) -> tuple[list, list]:
    """The point after some steps, and the parameters before and after asking for it."""
    backend = isostep.backend(path)
    rng = np.random.default_rng(4)
    params = [backend.asarray(rng.standard_normal(s)) for s in SHAPES]
    state = backend.init(rule, params)
    for _ in range(steps):
        grads = [backend.asarray(rng.standard_normal(s)) for s in SHAPES]
        params, state = backend.step(rule, params, grads, state)
    before = [backend.to_numpy(p) for p in params]
    point = [backend.to_numpy(p) for p in backend.evaluation_point(rule, params, state)]
    for p, q in zip(before, params, strict=True):
        np.testing.assert_array_equal(p, backend.to_numpy(q))
    return point, before


def test_some_rules_have_one() -> None:
    assert {"asgd", "schedule_free_adamw", "schedule_free_sgd"} <= set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_every_path_evaluates_at_the_same_point(name: str) -> None:
    """Within a few roundings of float64, and not at the parameters."""
    rule = isostep.rule(name, lr=0.1, **({"t0": 2.0} if name == "asgd" else {}))
    expected, params = trained("numpy:reference", rule)
    assert max(np.abs(x - p).max() for x, p in zip(expected, params, strict=True)) > 1e-4
    for path in paths.installed():
        if path.missing:
            continue
        for got, wanted in zip(trained(path.name, rule)[0], expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-14, atol=1e-14)
