"""What a fused step needs beside parameters, gradients and state: next to nothing, and nothing of it for long."""

from __future__ import annotations

import tracemalloc
import weakref

import pytest
import torch

from isostep_torch import load_optimizer

pytest.importorskip("numba", reason="of the extra `fused`")


def taken(step):
    """Bytes that a step allocates: all of torch's together, and the most that Python and NumPy hold at once."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        step()
        host = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(
        activities=activities, profile_memory=True, acc_events=True
    ) as seen:
        step()
    return host + sum(max(e.cpu_memory_usage, 0) for e in seen.events())


WAYS = [
    {},
    {"maximize": True},
    *(
        {way: True, "dtype": torch.bfloat16}
        for way in ("stochastic_rounding", "kahan", "master_weights")
    ),
    {"state_dtype": torch.float32, "maximize": True, "dtype": torch.float16},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", ["adamw", "lamb", "sgd_hd"])
def test_a_step_takes_less_than_a_hundredth_of_the_parameters(name, way):
    way = dict(way)
    dtype = way.pop("dtype", torch.float32)
    params = [torch.nn.Parameter(torch.ones(1_000_000, dtype=dtype)) for _ in range(4)]
    for p in params:
        p.grad = torch.ones_like(p)
    bytes_of_parameters = sum(p.nbytes for p in params)
    # The other path takes memory, so that we know that it is seen; of noise and the like it would take long.
    for fused in (True, False) if dtype == torch.float32 else (True,):
        optimizer = load_optimizer(name)(params, lr=1e-3, fused=fused, foreach=not fused, **way)
        optimizer.step()  # makes the state
        optimizer.step()  # knows the arrays
        share = taken(optimizer.step) / bytes_of_parameters
        assert share < 0.01 if fused else share > 0.5


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {}], ids=str)
def test_gradients_are_freed_when_they_are_set_to_none(options):
    params = [torch.nn.Parameter(torch.ones(5, 3)[:, ::k]) for k in (1, 2)]
    optimizer = load_optimizer("adamw")(params, lr=1e-3, **options)
    for _ in range(2):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        held = [weakref.ref(p.grad) for p in params]
        optimizer.zero_grad()
        assert [r() for r in held] == [None, None]
