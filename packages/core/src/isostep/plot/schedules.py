"""Schedules as curves: an example of each by its name alone, and the values over the steps done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isostep import schedules as s

#: name -> an example of a run of so many steps, settings chosen so that its shape shows.
EXAMPLES: dict[str, Callable[[int], Any]] = {
    "REX": lambda n: s.REX(total_steps=n),
    "Chebyshev": lambda n: s.Chebyshev(total_steps=1 << max(n.bit_length() - 1, 0)),
    "Constant": lambda n: s.Constant(total_iters=n // 3),
    "CosineAnnealing": lambda n: s.CosineAnnealing(T_max=n),
    "CosineAnnealingWarmRestarts": lambda n: s.CosineAnnealingWarmRestarts(
        T_0=max(n // 7, 1), T_mult=2
    ),
    "CosineInternalDecay": lambda n: s.CosineInternalDecay(n),
    "Cyclic": lambda n: s.Cyclic(0.1, 1.0, step_size_up=max(n / 8, 1), mode="triangular2"),
    "Exponential": lambda n: s.Exponential(gamma=0.01 ** (1 / n)),
    "InverseSquareRoot": lambda n: s.InverseSquareRoot(warmup=max(n / 10, 1)),
    "Lambda": lambda n: s.Lambda(factor=lambda t: 1.0 / (1.0 + 10.0 * t / n)),
    "Linear": lambda n: s.Linear(start_factor=1.0, end_factor=0.0, total_iters=n),
    "LinearInternalDecay": lambda n: s.LinearInternalDecay(n),
    "LinearWarmup": lambda n: s.LinearWarmup(period=max(n / 2, 1)),
    "MultiStep": lambda n: s.MultiStep(milestones=[n // 2, n * 3 // 4], gamma=0.3),
    "Multiplicative": lambda n: s.Multiplicative(factor=lambda t: 0.01 ** (1 / n)),
    "OneCycle": lambda n: s.OneCycle(1.0, n),
    "Polynomial": lambda n: s.Polynomial(total_iters=n, power=2.0),
    "ReduceLROnPlateau": lambda n: s.ReduceLROnPlateau(factor=0.5, patience=max(n // 6, 1)),
    "RestartCosineInternalDecay": lambda n: s.RestartCosineInternalDecay(n, num_periods=4),
    "RestartCosineInternalDecayTorchPort": lambda n: s.RestartCosineInternalDecayTorchPort(
        n, num_periods=4
    ),
    "SWAAnneal": lambda n: s.SWAAnneal(swa_lr=0.2, anneal_epochs=n // 2),
    "Step": lambda n: s.Step(step_size=max(n // 4, 1), gamma=0.5),
    "UntunedLinearWarmup": lambda n: s.UntunedLinearWarmup(beta2=1.0 - min(4 / n, 1.0)),
    "WarmupStableDecay": lambda n: s.WarmupStableDecay(
        warmup=n // 10, stable=n // 2, decay=n - n // 10 - n // 2, shape="1-sqrt"
    ),
    "chained": lambda n: s.chained(
        s.Exponential(gamma=0.1 ** (1 / n)), s.Step(step_size=max(n // 3, 1), gamma=0.5)
    ),
    "knee": lambda n: s.knee(explore=n // 2, total=n, warmup=n // 10),
    "scale": lambda n: s.scale(s.CosineAnnealing(T_max=n), s.LinearWarmup(period=max(n / 5, 1))),
    "sequential": lambda n: s.sequential(
        [s.LinearWarmup(period=max(n // 10, 1)), s.CosineAnnealing(T_max=n)], milestones=[n // 10]
    ),
    "trapezoid": lambda n: s.trapezoid(warmup=n // 10, stable=n // 2, decay=n - n // 10 - n // 2),
}

# What the combinators make goes by a name of its own.
EXAMPLES |= {
    "Chained": EXAMPLES["chained"],
    "Scaled": EXAMPLES["scale"],
    "Sequential": EXAMPLES["sequential"],
}


def values(schedule: Any, steps: int) -> list[float]:
    """What a schedule gives after 0, 1, ..., ``steps`` steps; ReduceLROnPlateau for a figure that stands still."""
    if isinstance(schedule, s.ReduceLROnPlateau):
        state = schedule.update(schedule.init(1.0), 1.0)
        found = [float(state.value)]
        for _ in range(steps):
            state = schedule.update(state, 1.0)
            found.append(float(state.value))
        return found
    return [float(schedule(done)) for done in range(steps + 1)]


__all__ = ["EXAMPLES", "values"]
