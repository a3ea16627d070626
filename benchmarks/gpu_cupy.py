"""The figures of CuPy for ``gpu.py``: our raw kernels beside the same rule in CuPy's array expressions."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np
from gpu_rows import LARGE, ROUNDS, STEPS, bound

from isostep_cupy import from_rule


def device_seconds(call: Callable[[], Any]) -> float:
    """The median time of one call on the device, many in a row."""
    for _ in range(3):
        call()
    taken = []
    for _ in range(ROUNDS):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record()
        for _ in range(STEPS):
            call()
        end.record()
        end.synchronize()
        taken.append(cupy.cuda.get_elapsed_time(begin, end) / 1e3 / STEPS)
    return statistics.median(taken)


def steps(row: dict[str, Any]) -> dict[str, Any]:
    """A step of each path on the same sizes."""
    rule, (count, size) = bound(row["rule"]), LARGE
    grads = [cupy.random.standard_normal(size, dtype=np.float32) * 1e-2 for _ in range(count)]
    inputs: dict[str, Any] = {n: [abs(g) for g in grads] for n in rule.input_names}
    inputs |= dict.fromkeys(rule.group_input_names, 0.7)
    found: dict[str, Any] = {"seconds": {}}
    for name, path in (("isostep", "raw"), ("array expressions", "generic")):
        params = [cupy.random.standard_normal(size, dtype=np.float32) for _ in range(count)]
        made = from_rule(rule, params, path=path)
        found["seconds"][name] = device_seconds(lambda made=made: made.step(grads, **inputs))
        del made, params
        cupy.get_default_memory_pool().free_all_blocks()
    return found
