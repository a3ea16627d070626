"""``optimizer.state`` notices what is written to it, and is else the dict that torch's is."""

from __future__ import annotations

import copy
import io
import pickle
from collections import defaultdict

import pytest
import torch

import isostep_torch
from isostep_torch.entries import Entries, Entry


def stepped(**options):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(3, dtype=torch.float64)) for _ in range(3)]
    optimizer = isostep_torch.AdamW(params, lr=0.1, **options)
    step(optimizer)
    return optimizer, params


def step(optimizer, scale=1.0):
    for group in optimizer.param_groups:
        for i, p in enumerate(group["params"]):
            p.grad = torch.full_like(p, scale * (i + 1.0))
    optimizer.step()


def set_average(optimizer, p):
    optimizer.state[p]["exp_avg"] = torch.full_like(p, 5.0)


def update(optimizer, p):
    optimizer.state[p].update(exp_avg=torch.full_like(p, 5.0))


def merge(optimizer, p):
    own = optimizer.state[p]
    own |= {"exp_avg": torch.full_like(p, 5.0)}


def drop_and_default(optimizer, p):
    optimizer.state[p].pop("exp_avg")
    optimizer.state[p].setdefault("exp_avg", torch.full_like(p, 5.0))


def delete_and_set(optimizer, p):
    own = optimizer.state[p]
    del own["exp_avg"]
    own["exp_avg"] = torch.full_like(p, 5.0)


def another_entry(optimizer, p):
    optimizer.state[p] = {**optimizer.state[p], "exp_avg": torch.full_like(p, 5.0)}


def updated_state(optimizer, p):
    optimizer.state.update({p: {**optimizer.state[p], "exp_avg": torch.full_like(p, 5.0)}})


def merged_state(optimizer, p):
    optimizer.state |= {p: {**optimizer.state[p], "exp_avg": torch.full_like(p, 5.0)}}


def taken_out_and_put_back(optimizer, p):
    own = optimizer.state.pop(p)
    optimizer.state.setdefault(p, {**own, "exp_avg": torch.full_like(p, 5.0)})


def another_state(optimizer, p):
    state = defaultdict(dict, optimizer.state)
    state[p] = {**state[p], "exp_avg": torch.full_like(p, 5.0)}
    optimizer.state = state


WRITES = [
    set_average, update, merge, drop_and_default, delete_and_set, another_entry, updated_state, merged_state,
    taken_out_and_put_back, another_state,
]  # fmt: skip


@pytest.mark.parametrize(
    "path", [{"fused": True}, {"foreach": True}, {"foreach": False, "fused": False}]
)
@pytest.mark.parametrize("write", WRITES)
def test_what_is_written_is_what_the_next_step_takes(write, path):
    optimizer, params = stepped(**path)
    expected = torch.optim.AdamW([p.detach().clone().requires_grad_() for p in params], lr=0.1)
    expected.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(optimizer, 2.0)
    step(expected, 2.0)
    write(optimizer, params[1])
    set_average(expected, expected.param_groups[0]["params"][1])
    for _ in range(2):
        step(optimizer, 3.0)
        step(expected, 3.0)
    torch.testing.assert_close(params, expected.param_groups[0]["params"], rtol=1e-11, atol=0)
    averages = [
        [o.state[p]["exp_avg"] for p in o.param_groups[0]["params"]] for o in (optimizer, expected)
    ]
    torch.testing.assert_close(*averages, rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    "clear", [lambda s: s.clear(), lambda s: [s.popitem() for _ in range(len(s))]]
)
def test_cleared_state_begins_anew(clear):
    optimizer, params = stepped()
    step(optimizer)
    clear(optimizer.state)
    fresh = isostep_torch.AdamW([torch.nn.Parameter(p.detach().clone()) for p in params], lr=0.1)
    step(optimizer)
    step(fresh)
    torch.testing.assert_close(params, fresh.param_groups[0]["params"], rtol=0, atol=0)


def test_a_step_looks_at_entries_only_when_somebody_has_written_to_one():
    optimizer, params = stepped()
    step(optimizer)
    step(optimizer)
    count = optimizer.state.writes.count
    step(optimizer)
    (kept,) = optimizer._kept.values()
    assert optimizer.state.writes.count == count == kept.looked_at
    optimizer.state[params[0]]["mine"] = 1
    assert optimizer.state.writes.count > count


def test_it_is_torchs_dict_to_its_users():
    optimizer, params = stepped()
    state = optimizer.state
    assert isinstance(state, defaultdict)
    assert isinstance(state[params[0]], dict)
    other = torch.nn.Parameter(torch.ones(2))
    assert state[other] == {}
    assert other in state
    state[other]["mine"] = 3
    assert state.pop(other) == {"mine": 3}
    state["of all"] = 7
    assert state.pop("of all") == 7
    with pytest.raises(KeyError):
        del state[other]


def kinds(value):
    found = {type(value)}
    for v in value.values() if isinstance(value, dict) else ():
        found |= kinds(v)
    return found


def test_copies_pickles_and_state_dicts_hold_ordinary_dicts():
    optimizer, params = stepped()
    own = {Entry, Entries}
    assert own <= kinds({"state": optimizer.state})
    for made in (
        optimizer.state_dict(), copy.copy(optimizer.state), copy.deepcopy(optimizer.state), optimizer.state.copy(),
        pickle.loads(pickle.dumps(optimizer.state)), {**optimizer.state[params[0]]}, optimizer.state[params[0]].copy(),
        copy.copy(optimizer.state[params[0]]), optimizer.state | {},
    ):  # fmt: skip
        assert not ({Entries} if Entry in kinds(made) else own) & kinds(made), made
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    torch.load(file, weights_only=True)
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert type(again.state) is Entries
        step(again)


def test_an_optimizer_that_nobody_uses_is_freed_at_once():
    import weakref

    optimizer, params = stepped()
    gone = weakref.ref(optimizer.state)
    entry = optimizer.state[params[0]]
    del optimizer
    assert gone() is None
    assert entry["step"] == 1
