"""The fractal Chebyshev schedule.

With T steps and the curvatures of the problem between m and M, step size number s (0 to T - 1) is

    v / ((M + m) / 2 - (M - m) / 2 * cos((s + 1/2) pi / T))

and step t takes number sigma(t mod T), sigma being the fractal permutation: that of one step is (0),
that of 2n steps puts sigma(0), 2n - 1 - sigma(0), sigma(1), 2n - 1 - sigma(1), ... of n steps.

Follows: Agarwal, Goel, Zhang, "Acceleration via Fractal Learning Rate Schedules", arXiv 2103.01338:
    the Chebyshev step sizes and the fractal permutation, numbered from 0.
Departs:
    - The step sizes are multiplied by a value, 1 if it is left out.
    - After T steps it starts anew.
    - pytorch_optimizer's get_chebyshev_schedule takes the numbers of another T, and repeats the first
      for two more steps; its get_chebyshev_perm_steps equals this one where T is a power of two, from 8 on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from isostep import nm
from isostep.schedules.base import Schedule, check, check_choice, check_value, quotient


@dataclass(frozen=True)
class Chebyshev(Schedule):
    """Chebyshev's step sizes in an order that keeps the iteration stable.

    Args:
        value: what every step size is multiplied by.
        total_steps: T; a power of two in the fractal order.
        m, M: smallest and largest curvature.
        order: ``"fractal"``, ``"falling"`` (the largest first, as the formula numbers them) or
            ``"rising"``.
    """

    value: float = 1.0
    total_steps: int = field(kw_only=True)
    m: float = field(default=0.05, kw_only=True)
    M: float = field(default=1.0, kw_only=True)
    order: str = field(default="fractal", kw_only=True)

    def __post_init__(self) -> None:
        check_value(self, self.value)
        hint = "pass the number of steps"
        check(self, "total_steps", self.total_steps, at_least=1, whole=True, hint=hint)
        check_choice(self, "order", self.order, ("fractal", "falling", "rising"))
        if self.order == "fractal" and self.total_steps & (self.total_steps - 1):
            message = (
                "Chebyshev: total_steps must be a power of two in the fractal order, "
                f"got {self.total_steps!r}; take {1 << self.total_steps.bit_length()}"
            )
            raise ValueError(message)
        check(self, "m", self.m, above=0, hint="pass the smallest curvature")
        check(self, "M", self.M, at_least=self.m, hint="pass the largest curvature, at least m")

    def at(self, t: Any, /) -> Any:
        T = float(self.total_steps)
        place = 1.0 * nm.floor(t)
        place = place - T * quotient(place, T)
        middle, half = (self.M + self.m) / 2.0, (self.M - self.m) / 2.0
        return self.value / (middle - half * nm.cos((self._number(place) + 0.5) * (math.pi / T)))

    def _number(self, place: Any) -> Any:
        if self.order == "rising":
            return self.total_steps - 1.0 - place
        if self.order == "falling":
            return place
        # From the permutation of one step to that of T: the bits of the place, the highest first.
        number, size = 0.0 * place, 1
        while size < self.total_steps:
            size *= 2
            higher = nm.floor(place * (size / self.total_steps))
            odd = higher - 2.0 * nm.floor(higher / 2.0)
            number = nm.where(odd > 0, (size - 1.0) - number, number)
        return number
