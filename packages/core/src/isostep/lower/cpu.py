"""Fused steps on the CPU: core's Numba kernels on any arrays whose addresses are known.

NumPy's backend is ``isostep.backends.fused``, torch's ``isostep_torch.fused_cpu``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from isostep.lower.axes import Axes, Pass
from isostep.lower.axes_run import kernels, run
from isostep.lower.bins import Bin
from isostep.lower.fused import FusedBackend
from isostep.lower.plan import Plan
from isostep.lower.run import Step
from isostep.lower.threads import POOL, Team
from isostep.values import Value


class FusedCPU(FusedBackend):
    """One pass per stage by Numba kernels, on as many threads as pay."""

    #: who runs them
    team: Team = POOL
    blocks = True

    def passes(
        self, axes: Axes, one: Pass, dtype: str, like: Any, count: int, **given: Any
    ) -> dict[Value, Any]:
        return {
            n: self.of_host(x) for n, x in run(self.team, axes, one, dtype, count, **given).items()
        }

    def made_ready(self, axes: Axes, dtype: str, like: Any) -> None:
        kernels(axes, dtype)

    def of_host(self, array: np.ndarray) -> Any:
        """A NumPy array as one of the framework's, over the same memory."""
        return array

    def launch(
        self,
        plan: Plan,
        hypers: Sequence[tuple[int, Mapping[str, Any]]],
        group_hyper: tuple[int, Mapping[str, Any]],
        group: dict[str, Any],
    ) -> dict[str, Any]:
        typed = {n: plan.group_dtype.type(float(v)) for n, v in group.items()}
        if plan.runner is None:
            bins = [(part.bin, part.table) for part in plan.parts]
            plan.runner = Step(bins, plan.group_dtype, self.team)
        new: dict[str, Any] = plan.runner.run(hypers, group_hyper, typed)
        plan.seen = [
            partial(self._added_up, run.seen, run.bin)
            for run in plan.runner.runs
            if run.seen is not None
        ]
        return new

    def _added_up(self, seen: np.ndarray, bin: Bin) -> Any:
        """Sums of chunks as sums of arrays."""
        return self.asarray(np.add.reduceat(seen, bin.first_chunks, axis=0))
