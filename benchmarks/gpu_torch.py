"""The figures of torch on a CUDA device, for ``gpu.py``: a copy, steps beside torch.optim's, and replayed graphs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from gpu_rows import LARGE, MATRICES, ROUNDS, SMALL, STEPS, bound
from ways import options_of


def tensors(
    count: int, size: int | tuple[int, ...], dtype: torch.dtype = torch.float32
) -> list[Any]:
    """Parameters with gradients, small enough that no rule runs off."""
    kind = {"device": "cuda", "dtype": dtype}
    made = [torch.nn.Parameter(torch.randn(size, **kind)) for _ in range(count)]
    for p in made:
        p.grad = torch.randn(size, **kind) * 1e-2
    return made


def device_seconds(call: Callable[[], Any]) -> float:
    """The median time of one call on the device, many in a row."""
    for _ in range(3):
        call()
    taken = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(STEPS):
            call()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / 1e3 / STEPS)
    return statistics.median(taken)


def clock_seconds(call: Callable[[], Any]) -> float:
    """The median time of one call by the clock, the host's work included, many in a row."""
    for _ in range(3):
        call()
    taken = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(STEPS):
            call()
        torch.cuda.synchronize()
        taken.append((time.perf_counter() - begin) / STEPS)
    return statistics.median(taken)


def ours(name: str, params: list[Any], **options: Any) -> tuple[Any, Callable[[], Any]]:
    """Our optimizer, on its fused path unless ``options`` name another, and its step."""
    import isostep_torch

    rule = bound(name)
    made = isostep_torch.from_rule(rule, params, **{"fused": True, **options})
    inputs = {n: {p: p.grad.abs() for p in params} for n in rule.input_names}
    inputs |= dict.fromkeys(rule.group_input_names, params[0].new_tensor(0.7))
    return made, lambda: made.step(**inputs)


def peers(name: str, params: list[Any]) -> dict[str, Callable[[], Any]]:
    """torch.optim's class of the same name in the forms that it has."""
    import isostep_torch

    title = isostep_torch.load_optimizer(name).__name__
    found: dict[str, Callable[[], Any]] = {}
    for form in ("fused", "foreach"):
        try:
            found[f"torch {form}"] = getattr(torch.optim, title)(
                params, lr=1e-3, **{form: True}
            ).step
        except (AttributeError, TypeError, RuntimeError):
            continue  # torch has no such class, or not in this form
    return found


def copy(row: dict[str, Any]) -> dict[str, Any]:
    """The bandwidth of a copy of the same size, read and write counted."""
    source = torch.randn(LARGE[0] * LARGE[1], device="cuda")
    target = torch.empty_like(source)
    seconds = device_seconds(lambda: target.copy_(source))
    return {"seconds": seconds, "bytes_per_second": 2 * source.nbytes / seconds}


def steps(row: dict[str, Any]) -> dict[str, Any]:
    """Ours and torch's on the same sizes."""
    large = row["what"] != "small"
    count, size = {"large": LARGE, "matrices": (MATRICES[0], (MATRICES[1],) * 2)}.get(
        row["what"], SMALL
    )
    measure = device_seconds if large else clock_seconds
    params = tensors(count, size)
    optimizer, step = ours(row["rule"], params)
    found = {"path": optimizer.path, "seconds": {"isostep": measure(step)}}
    del optimizer, step
    others = peers(row["rule"], params)
    if not others and large:
        others["isostep foreach"] = ours(row["rule"], params, fused=None, foreach=True)[1]
    for name in list(others):
        found["seconds"][name] = measure(others.pop(name))
    return found


def low(row: dict[str, Any]) -> dict[str, Any]:
    """A step on bfloat16 weights with one of the ways to keep them learning; torch's has none."""
    params = tensors(*LARGE, torch.bfloat16)
    optimizer, step = ours(row["rule"], params, **options_of(row["way"]))
    found = {"path": optimizer.path, "seconds": {"isostep": device_seconds(step)}}
    del optimizer, step
    if row["way"] == "plain":
        for name, peer in peers(row["rule"], params).items():
            found["seconds"][name] = device_seconds(peer)
            del peer
    return found


def captured(row: dict[str, Any]) -> dict[str, Any]:
    """Whether steps replayed from a graph leave the very bits of steps taken one by one."""
    results = []
    for graph in (False, True):
        torch.manual_seed(0)
        params = tensors(5, 100_003)
        optimizer, step = ours(row["rule"], params, capturable=True)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        if graph:
            held = torch.cuda.CUDAGraph()
            with torch.cuda.graph(held):
                step()  # captured, not taken
            step = held.replay
        for _ in range(5):
            step()
        torch.cuda.synchronize()
        own = [v for s in optimizer.state.values() for v in s.values()]
        results.append([t.detach().clone() for t in [*params, *own]])
    same = all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    return {"same_bits": same}
