"""Every rule goes down Rosenbrock's valley and trains the digits network, with its recorded setting, in float32."""

import numpy as np
import pytest

import isostep
from isostep_conformance import sanity


def task(name):
    if name == "rosenbrock":
        return sanity.rosenbrock()
    pytest.importorskip("sklearn", reason="isostep[train] is not installed")
    return sanity.tasks()[name]


@pytest.mark.whole  # not for want of a package: minutes of arithmetic, and once is enough
@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", isostep.rules())
@pytest.mark.parametrize("on", ["rosenbrock", "digits"])
def test_a_rule_minimises(name, on):
    goal = task(on)
    rule = sanity.rule_for(name, goal)
    first, last = sanity.run(rule, goal)
    assert last < goal.enough < 0.3 * first, rule


def test_the_record_is_of_rules_that_there_are():
    for name, settings in sanity.record().items():
        assert set(settings) == {"rosenbrock", "digits"}, name
        for setting in settings.values():
            isostep.rule(name, **setting)


def test_what_goes_nowhere_is_not_enough():
    goal = task("rosenbrock")
    for setting in ({"lr": 0.0}, {"lr": 1e-6}, {"lr": 10.0}):
        assert sanity.run(isostep.rule("sgd", **setting), goal)[1] > goal.enough


def test_parameters_and_loss_are_those_of_the_rules_own_steps():
    goal = task("rosenbrock")
    p, seen = np.array([-1.2, 1.0], np.float32), []
    sanity.run(isostep.rule("sgd", lr=1e-3), goal, lambda params: seen.append(params[0].copy()))
    for k in range(3):
        assert np.array_equal(seen[k], p)
        p = p - np.float32(1e-3) * goal.both([p], k + 1)[1][0]
    assert len(seen) == goal.steps + 1


def test_an_estimate_of_the_hessians_diagonal():
    """The mean over many draws is the diagonal; a single one has the other entries in it."""
    goal, p = task("rosenbrock"), np.array([0.5, 0.25], np.float32)
    loss, grads = goal.both([p], 1)
    found = np.mean([sanity.hessian_diag(goal, [p], loss, grads, t)[0] for t in range(400)], axis=0)
    exact = np.array([1200 * 0.5**2 - 400 * 0.25 + 2, 200.0])
    assert np.max(np.abs(found / exact - 1)) < 0.1


def test_a_rule_without_an_entry_is_searched_for(monkeypatch):
    monkeypatch.setattr(sanity, "record", dict)
    goal = task("rosenbrock")
    quick = sanity.Task("rosenbrock", 40, goal.start, goal.both, goal.loss, goal.enough)
    found = sanity.rule_for("sgd", quick)
    for lr in sanity.GRID[::2]:
        other = sanity.run(isostep.rule("sgd", lr=lr), quick)[1]
        assert not other < sanity.run(found, quick)[1]
