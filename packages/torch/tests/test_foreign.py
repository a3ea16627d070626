"""State dicts of other libraries: nothing of theirs is taken for what it is not."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import isostep
import isostep_torch
from isostep.domains import Real
from isostep.rule import Rule
from isostep_torch import load_optimizer
from isostep_torch.foreign import counts

SHAPE = (3, 4)


def run(optimizer, steps):
    for k in steps:
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            generator = torch.Generator().manual_seed(k)
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        optimizer.step()


def made(name, **hyper):
    p = torch.nn.Parameter(torch.ones(SHAPE, dtype=torch.float64))
    return load_optimizer(name)([p], **hyper)


def theirs(name, steps=3, **hyper):
    """A state dict as another library's class would give it: no rule is named."""
    optimizer = made(name, **hyper)
    run(optimizer, range(steps))
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        del group["rule"]
    return optimizer, saved


def assert_goes_on(old, saved, new):
    """The new one takes the saved state, and the steps of the old one."""
    p, q = (optimizer.param_groups[0]["params"][0] for optimizer in (old, new))
    with torch.no_grad():
        q.copy_(p)
    new.load_state_dict(saved)
    for optimizer in (old, new):
        run(optimizer, range(3, 6))
    assert torch.equal(p, q)


def refused(optimizer, saved, message):
    """In one line, and the optimizer is as it was."""
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message) as error:
        optimizer.load_state_dict(saved)
    assert "\n" not in str(error.value)
    assert str(optimizer.state_dict()) == str(before)


@pytest.mark.parametrize("name", ["lion", "adabelief", "prodigy", "addsign"])
def test_a_rule_that_torch_has_not_must_be_named(name):
    old, saved = theirs(name, lr=0.1)
    new = made(name, lr=0.1)
    refused(new, saved, f"{name}: a group of the state dict does not say its rule, and torch.optim")
    saved["param_groups"][0]["rule"] = name
    assert_goes_on(old, saved, new)


def test_whoever_saved_it_was_of_the_class_that_loads_it():
    """A composition around a rule of torch.optim's takes its arrays, one around another rule does not."""
    torchs = torch.optim.AdamW([torch.nn.Parameter(torch.ones(SHAPE))], lr=0.1)
    run(torchs, range(2))
    clipped = isostep.compose(isostep.pieces.clip_by_norm(1.0), isostep.rule("adamw", lr=0.1))
    around = isostep_torch.from_rule(clipped, [torch.nn.Parameter(torch.ones(SHAPE))])
    around.load_state_dict(torchs.state_dict())
    (own,), (other,) = around.state.values(), torchs.state.values()
    assert torch.equal(own["exp_avg"], other["exp_avg"])
    lion = isostep.compose(isostep.pieces.clip_by_norm(1.0), isostep.rule("lion"))
    around = isostep_torch.from_rule(lion, [torch.nn.Parameter(torch.ones(SHAPE))])
    refused(around, torchs.state_dict(), "a group of the state dict does not say its rule")


@pytest.mark.parametrize("named", [False, True])
def test_a_count_in_the_group_is_not_overlooked(named):
    _, saved = theirs("adam", lr=0.1)
    saved["param_groups"][0]["step"] = 3
    if named:
        saved["param_groups"][0]["rule"] = "adam"
    del saved["state"][0]["step"]
    refused(made("adam"), saved, "state of parameter 0 has no 'step', and the rule goes by the num")
    saved["state"][0]["step"] = torch.tensor(3.0)
    made("adam").load_state_dict(saved)


@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_a_rule_that_goes_by_no_count_needs_none(name):
    settings = {"lr": 0.1, "momentum": 0.9}
    old, saved = theirs(name, **settings)
    del saved["state"][0]["step"]
    new = made(name, **settings)
    assert_goes_on(old, saved, new)


def test_a_schedule_goes_by_the_count():
    rule = isostep.rule("lion", lr=isostep.schedules.Linear(0.1))
    optimizer = isostep_torch.from_rule(rule, [torch.nn.Parameter(torch.ones(SHAPE))])
    run(optimizer, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["state"][0]["step"]
    refused(optimizer, saved, "has no 'step'")


def test_what_a_group_shares_must_be_there():
    _, saved = theirs("prodigy")
    saved["param_groups"][0]["rule"] = "prodigy"
    shared = saved["param_groups"][0].pop("shared")
    for n in shared.keys() - {"step"}:
        saved["state"][0].pop(n, None)
    refused(made("prodigy"), saved, r"prodigy: the state dict has no 'd', which the parameters of")


def test_what_a_group_shares_may_stand_in_the_group_alone_or_be_nothing_yet():
    old, saved = theirs("prodigy")
    saved["param_groups"][0]["rule"] = "prodigy"
    for n in saved["param_groups"][0]["shared"].keys() - {"step"}:
        del saved["state"][0][n]
    new = made("prodigy")
    new.load_state_dict(saved)
    assert str(new.param_groups[0]["shared"]) == str(old.param_groups[0]["shared"])
    new.load_state_dict(made("prodigy").state_dict())
    assert not new.state


@pytest.mark.parametrize("name", isostep.rules())
def test_who_needs_no_count_takes_the_same_step_at_any(name):
    rule = isostep.rule(name)
    if counts(rule, SHAPE):
        return
    rng, backend = np.random.default_rng(0), isostep.backend("numpy:reference")
    params = [rng.standard_normal(SHAPE)]
    state = backend.init(rule, params)
    inputs = {n: [rng.random(SHAPE)] for n in rule.input_names} | dict.fromkeys(
        rule.group_input_names, 1.0
    )
    found = []
    for later in (0, 1, 7, 993):
        ours, own = copy.deepcopy((params, state))
        draw = np.random.default_rng(1)
        for k in range(3):
            if k == 1:
                own.t, own.group_t = [t + later for t in own.t], own.group_t + later
            ours, own = backend.step(rule, ours, [draw.standard_normal(SHAPE)], own, **inputs)
        found.append((ours, own.arrays))
    for ours, arrays in found[1:]:
        np.testing.assert_array_equal(ours, found[0][0])
        assert str(arrays) == str(found[0][1])


def test_most_rules_count():
    """What the test above leaves out: a rule that says it needs no count is not the usual."""
    plain = {n for n in isostep.rules() if not counts(isostep.rule(n), SHAPE)}
    assert {"lion", "sgd", "addsign", "muon", "rmsprop", "adadelta", "lars"} <= plain
    assert not {"adam", "adamw", "nadam", "asgd", "adan", "soap", "lamb"} & plain
    assert counts(isostep.compose(isostep.rule("lion"), isostep.pieces.lookahead()), SHAPE)


def test_a_group_that_counts_is_seen():
    def update(p, g, t, /, *, lr, x):
        return -lr * x * g

    def advance(sums, group, t, /):
        return {"x": group["x"] + 1 / t}

    rule = Rule(
        name="mine",
        update=update,
        advance=advance,
        group={"x": lambda h: 0.0},
        hyper={"lr": Real(0.1, low=0)},
    )
    assert counts(rule.bind(), SHAPE)
