"""Parameters that lie on several processes (FSDP2's DTensors): every rule steps them as it steps whole ones."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.whole  # conformance's settings of every rule and piece

#: Two processes: an axis of 7 is cut into 4 and 3, and of an axis of 1 the second has nothing.
SCRIPT = """
import datetime, sys, traceback, zlib
import torch
from torch import distributed, nn
from torch.distributed.checkpoint import state_dict as checkpoints
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
import isostep, isostep_torch
from isostep_conformance.cases import subjects

rank, store = int(sys.argv[1]), distributed.FileStore(sys.argv[2], 2)
torch.set_num_threads(1)
patience = datetime.timedelta(seconds=60)  # with the other process, which may have failed
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=patience)
SHAPES = [(7, 5), (4, 3), (3,), (6,), (1, 4), (1,), (3, 2, 2)]


def spread(tensor, p):
    return tensor if type(p) is nn.Parameter else distribute_tensor(tensor, p.device_mesh, p.placements)


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def draws(seed):
    return torch.Generator().manual_seed(seed)


def run(rule, shard, observe=False, mixed=False, saved=False, **options):
    '''What three steps leave: parameters, their state, the group's; and the figures.

    mixed: the first parameter is not spread; saved: a whole state dict is taken and loaded in mid-run.
    '''
    rule = rule.replace(**rule.map_schedules(lambda schedule: schedule(1)))
    module, given = nn.Module(), draws(0)
    ndim = rule.rule.ndim
    for i, shape in enumerate(s for s in SHAPES if ndim is None or len(s) in ndim):
        start = torch.randn(shape, dtype=torch.float64, generator=given)
        module.register_parameter(f"p{i}", nn.Parameter(start))
    params = list(module.parameters())
    if shard:
        fully_shard(module, ignored_params={params[0]} if mixed else None)
    params = list(module.parameters())
    optimizer = isostep_torch.from_rule(rule, params, **options)
    observer = optimizer.observe() if observe else None
    rows = []
    for k in range(3):
        given = draws(k + 1)
        inputs = {n: {} for n in rule.input_names} | {n: 0.7 + k for n in rule.group_input_names}
        for p in params:
            p.grad = spread(torch.randn(p.shape, dtype=torch.float64, generator=given), p)
            for n in rule.input_names:
                inputs[n][p] = spread(torch.rand(p.shape, dtype=torch.float64, generator=given), p)
        optimizer.step(**inputs)
        if saved and shard and k == 1:
            full = checkpoints.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
            state = checkpoints.get_optimizer_state_dict(module, optimizer, options=full)
            checkpoints.set_optimizer_state_dict(module, optimizer, state, options=full)
        if observer is not None:
            rows += [list(map(float, row.values())) for row in observer.rows().values()]
    found = [torch.tensor(rows, dtype=torch.float64)]
    for p in params:
        state = optimizer.state[p].values()
        assert not any(s.is_partial() for v in state for s in getattr(v, "placements", ()))
        found += [whole(p.detach()), *map(whole, state)]
    shared = optimizer.param_groups[0].get("shared", {})
    return [*found, *(torch.as_tensor(v) for v in shared.values())]


def far(ours, theirs):
    "The largest difference, relative to what is largest in the array; NaN is equal to NaN."
    assert [v.shape for v in ours] == [v.shape for v in theirs]
    return max(
        ((a - b).nan_to_num().abs().max() / b.nan_to_num().abs().max().clamp(min=1e-300)).item()
        if b.numel() and torch.equal(a.isnan(), b.isnan()) else float(b.numel() > 0)
        for a, b in zip(ours, theirs, strict=True)
    )


def check(which, **how):
    for subject in filter(which, subjects()):
        label = f"{subject.id} {how}"
        try:
            ours = run(subject.rule, True, **how)
            theirs = run(subject.rule, False, **how | {"foreach": False, "fused": False})
            error = far(ours, theirs)
            if not error < 1e-11:
                wrong.append(f"{label}: {error:.1e}")
        except Exception:
            wrong.append(f"{label}: {traceback.format_exc()}")
            return  # the processes may have lost each other


wrong = []
rules = {*isostep.rules()}
some = {"lamb", "sgd_hd", "adafactor", "muon", "clip_by_global_norm+adamw"}


def drawn(subject, third):
    "Of what takes minutes together a third, always the same; everything with --full."
    return subject.index == 0 and (FULL or zlib.crc32(subject.id.encode()) % 3 == third)


check(lambda s: s.index == 0 and s.name in rules or drawn(s, 0))
check(lambda s: s.name in rules and drawn(s, 1), foreach=False, fused=False)
check(lambda s: s.name in rules and drawn(s, 2), capturable=True)
check(lambda s: s.name in some, observe=True)
check(lambda s: s.name in some, mixed=True)
check(lambda s: s.name in {"adammini", "lamb", "muon"} and s.index == 0, saved=True)
assert not wrong, "\\n".join(wrong)
distributed.destroy_process_group()
"""


def test_every_rule_steps_what_lies_on_several_processes(two_processes, request):
    """Three steps on shards and on whole parameters, with pieces and without, leave the same."""
    two_processes(f"FULL = {request.config.getoption('--full')}\n{SCRIPT}")
