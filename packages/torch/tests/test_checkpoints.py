"""State dicts between our classes and torch.optim's, with schedules, and those that must be refused."""

from __future__ import annotations

import copy
import io
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint import state_dict as sharded

import isostep
import isostep_torch
from isostep import schedules
from isostep_torch import load_optimizer

F = torch.float64
IN_TURN = schedules.sequential(
    [schedules.Linear(0.1), schedules.Step(0.1, step_size=3)], milestones=[4]
)


def gradient(k):
    return torch.tensor([1.0, -2.0, 0.1 * k], dtype=F)


def parameter():
    return torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=F))


def run(optimizer, steps):
    (p,) = optimizer.param_groups[0]["params"]
    for k in steps:
        p.grad = gradient(k)
        optimizer.step()
    return p


def on(make, optimizer, **hyper):
    """Another optimizer that goes on from this one's checkpoint, read as torch reads it by default."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    (p,) = optimizer.param_groups[0]["params"]
    other = make([torch.nn.Parameter(p.detach().clone())], **hyper)
    other.load_state_dict(torch.load(file))
    return other


@pytest.fixture
def _float64_scalars():
    """torch keeps NAdam's and ASGD's scalars in the default dtype."""
    torch.set_default_dtype(F)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("turns", [3, 4])
@pytest.mark.parametrize(
    ("kind", "hyper"),
    [
        ("NAdam", {"lr": 0.1, "momentum_decay": 0.2}),
        ("ASGD", {"lr": 0.1, "lambd": 0.2, "alpha": 0.6, "t0": 4.0}),
        ("AdamW", {"lr": 0.1, "amsgrad": True}),
        ("SGD", {"lr": 0.1, "momentum": 0.7, "dampening": 0.2}),
    ],
)
@pytest.mark.usefixtures("_float64_scalars")
def test_a_run_that_changes_hands_in_turns(kind, hyper, turns):
    classes = [getattr(isostep_torch, kind), getattr(torch.optim, kind)]
    alone = classes[1]([parameter()], **hyper)
    passed = classes[0]([parameter()], **hyper)
    for turn in range(turns):
        steps = range(5 * turn, 5 * turn + 5)
        if turn:
            passed = on(classes[turn % 2], passed, lr=0.5)
        expected, got = run(alone, steps), run(passed, steps)
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=0)


def test_what_a_group_shares_is_what_torch_has_made_of_it():
    ours = isostep_torch.NAdam([parameter()], lr=0.1)
    run(ours, range(3))
    theirs = on(torch.optim.NAdam, ours)
    run(theirs, range(3, 40))
    again = on(isostep_torch.NAdam, theirs)
    (own,) = theirs.state.values()
    assert again.param_groups[0]["shared"]["step"] == 40
    assert float(again.param_groups[0]["shared"]["mu_product"]) == float(own["mu_product"])


def test_what_a_group_shares_outlasts_our_own_state_dict_with_its_count():
    late, early = parameter(), parameter()
    ours = isostep_torch.NAdam([early, late], lr=0.1)
    for k in range(3):
        early.grad = gradient(k)
        ours.step()
    late.grad = gradient(4)
    ours.step()
    again = isostep_torch.NAdam([copy.deepcopy(p) for p in (early, late)], lr=0.1)
    again.load_state_dict(ours.state_dict())
    assert again.param_groups[0]["shared"] == ours.param_groups[0]["shared"]


@pytest.mark.parametrize(
    ("kind", "hyper"),
    [
        ("AddSign", {"lr": 0.1, "sign_internal_decay": schedules.LinearInternalDecay(10)}),
        ("AdamW", {"lr": schedules.CosineAnnealing(0.1, T_max=9)}),
        ("AdamW", {"lr": schedules.chained(schedules.Linear(0.1), schedules.Exponential(gamma=0.9))}),
        ("AdamW", {"lr": schedules.OneCycle(0.1, 12), "betas": (schedules.OneCycle(0.1, 12).momentum(), 0.9)}),
        ("SGD", {"lr": IN_TURN, "momentum": 0.5}),
    ],
)  # fmt: skip
def test_schedules_come_back_from_a_checkpoint(kind, hyper):
    make = getattr(isostep_torch, kind)
    alone, first = (make([parameter()], **hyper) for _ in range(2))
    run(first, range(4))
    expected, got = run(alone, range(9)), run(on(make, first, lr=0.5), range(4, 9))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    group = on(make, first, lr=0.5).param_groups[0]
    assert {n: group[n] for n in hyper} == hyper
    assert "schedules" not in group


@pytest.mark.parametrize(
    "numbers",
    [
        {"lr": np.float64(0.1), "initial_lr": np.float32(0.5)},
        {"lr": np.array(0.1), "betas": np.array([0.8, 0.9])},
        {"betas": (np.float64(0.8), 0.9)},
        {"lr": schedules.CosineAnnealing(np.float64(0.1), T_max=np.int64(9))},
        {"lr": lambda done: np.float64(0.1)},
    ],
)  # fmt: skip
def test_numpys_numbers_are_pythons_in_a_checkpoint(numbers):
    """``torch.load`` takes no others."""
    first = isostep_torch.AdamW([parameter()])
    first.param_groups[0].update(numbers)
    run(first, range(4))
    kept = first.param_groups[0]
    assert all(kept[n] is v for n, v in numbers.items())
    again = on(isostep_torch.AdamW, first)
    assert torch.equal(run(again, range(4, 7)), run(first, range(4, 7)))
    assert not isinstance(again.param_groups[0]["lr"], np.generic)


def test_a_function_of_the_users_is_the_loading_optimizers_own():
    slow = isostep_torch.AdamW([parameter()], lr=lambda done: 0.1 / (1 + done))
    run(slow, range(3))
    again = on(isostep_torch.AdamW, slow, lr=lambda done: 0.2)
    assert again.param_groups[0]["lr"](7) == 0.2
    fixed = on(isostep_torch.AdamW, slow, lr=0.3)
    assert fixed.param_groups[0]["lr"] == 0.1 / 4


def test_torchs_class_goes_on_with_a_schedules_next_value():
    ours = isostep_torch.AdamW([parameter()], lr=schedules.CosineAnnealing(0.1, T_max=9))
    run(ours, range(4))
    theirs = on(torch.optim.AdamW, ours)
    assert theirs.param_groups[0]["lr"] == schedules.CosineAnnealing(0.1, T_max=9)(4)
    fixed = isostep_torch.AdamW([parameter()], lr=schedules.CosineAnnealing(0.1, T_max=9))
    run(fixed, range(4))
    fixed.param_groups[0]["lr"] = schedules.CosineAnnealing(0.1, T_max=9)(4)
    torch.testing.assert_close(
        run(theirs, range(4, 7)), run(fixed, range(4, 7)), rtol=1e-11, atol=0
    )


def other_class():
    return torch.optim.SGD([parameter()], lr=0.1).state_dict()


def negative_count():
    ours = isostep_torch.AdamW([parameter()], lr=0.1)
    run(ours, range(1))
    saved = ours.state_dict()
    saved["state"][0]["step"] = torch.tensor(-3.0)
    return saved


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (other_class, r"adamw: a group of the state dict has no 'betas', which torch.optim.AdamW has"),
        (negative_count, r"adamw: step must be the number of steps done, >= 0, got -3"),
        (dict, r"adamw: a state dict must be a dict with state and param_groups, got \[\]"),
        (lambda: {"state": {}}, r"must be a dict with state and param_groups, got \['state'\]"),
        (lambda: None, r"must be a dict with state and param_groups, got NoneType"),
    ],
)  # fmt: skip
def test_what_is_no_state_dict_of_the_rule_is_one_clear_line(saved, message):
    ours = isostep_torch.AdamW([parameter()], lr=0.1)
    run(ours, range(2))
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match=message):
        ours.load_state_dict(saved())
    after = ours.state_dict()
    assert after["param_groups"] == before["param_groups"]
    torch.testing.assert_close(after["state"], before["state"], rtol=0, atol=0)


def test_torchs_sparse_adam_and_composed_rules_load_as_before():
    table = torch.nn.Embedding(5, 2, sparse=True)
    theirs = torch.optim.SparseAdam(table.parameters(), lr=0.1)
    table(torch.tensor([1, 3])).sum().backward()
    theirs.step()
    isostep_torch.SparseAdam(table.parameters()).load_state_dict(theirs.state_dict())
    rule = isostep.compose(isostep.pieces.centralize(), isostep.rule("adamw", lr=0.1))
    composed = isostep_torch.from_rule(rule, [parameter()])
    run(composed, range(2))
    again = isostep_torch.from_rule(rule, [parameter()])
    again.load_state_dict(composed.state_dict())
    run(again, range(1))


@pytest.mark.parametrize("name", ["sophia", "momo", "ftrl", "nero", "nadam"])
def test_state_made_without_a_step_is_what_a_distributed_checkpoint_fills(name):
    """torch's own way is a step with a rate of 0: it takes no inputs, and rules may refuse it or move a weight."""

    def step(model, optimizer, k):
        torch.manual_seed(k)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        each = {"hessian_diag": {p: p.grad.abs() for p in model.parameters()}}
        optimizer.step(**{"sophia": each, "momo": {"loss": 1.0 + k}}.get(name, {}))

    models = [torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)]
    first, second = (load_optimizer(name)(m.parameters()) for m in models)
    step(models[0], first, 0)
    models[1].load_state_dict(models[0].state_dict())
    second.init_state()
    assert {own["step"].item() for own in second.state.values()} == {0}
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))
    saved = copy.deepcopy(sharded.get_optimizer_state_dict(models[0], first))
    sharded.set_optimizer_state_dict(models[1], second, optim_state_dict=saved)
    step(models[0], first, 1)
    step(models[1], second, 1)
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))


def test_state_made_without_a_step_is_that_of_the_first_step():
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(4)]
    early, late = load_optimizer("adagrad")(params[:2]), load_optimizer("adagrad")(params[2:])
    params[1].requires_grad_(False)
    early.init_state()
    assert [*early.state] == params[:1]
    for p in (params[0], params[2]):
        p.grad = torch.full((3,), 0.5)
    early.step()
    late.step()
    assert torch.equal(params[0], params[2])


def test_a_run_that_has_diverged_can_be_saved_and_loaded():
    """What the group shares is NaN then, for all of its parameters alike."""
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = load_optimizer("avagrad")(params)
    for p in params:
        p.grad = torch.full((3,), torch.nan)
    for _ in range(3):
        optimizer.step()
    assert torch.as_tensor(optimizer.param_groups[0]["shared"]["gamma"]).isnan()
    load_optimizer("avagrad")(params).load_state_dict(optimizer.state_dict())


def test_what_users_keep_in_a_group_is_left_as_it_is():
    class Betas(NamedTuple):
        first: float
        second: float

    mask, p = np.eye(2), torch.nn.Parameter(torch.ones(3))
    group = {
        "params": [p],
        "mask": mask,
        "pair": Betas(1, np.float64(2)),
        "initial_lr": np.array(0.1),
    }
    optimizer = isostep_torch.Adam([group], betas=Betas(0.8, np.float32(0.5)))
    (found,) = optimizer.state_dict()["param_groups"]
    assert found["mask"] is mask
    assert found["pair"] == Betas(1, 2.0)
    assert found["betas"] == Betas(0.8, 0.5)
    assert [type(found[n]) for n in ("pair", "betas")] == [Betas, Betas]
    assert type(found["initial_lr"]) is float


def test_steps_of_opened_tensors_keep_their_plan():
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    optimizer = isostep_torch.Adam([p])
    seen = []
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
        (kept,) = optimizer._kept.values()
        seen.append(kept.opened_plan)
    assert seen[2] is seen[1] is not None
