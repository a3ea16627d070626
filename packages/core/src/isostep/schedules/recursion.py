"""Values that are defined step by step, for schedules that have no closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isostep.schedules.base import on_host


class Recursion:
    """Steps a value from 0 to t on the host, going on from the last call where that was earlier.

    What is remembered changes how long a call takes and nothing else: any order of calls gives the
    same values to the bit.
    """

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None

    def __call__(
        self, schedule: Any, t: Any, start: float, advance: Callable[[float, int], float]
    ) -> float:
        """The value after t steps, ``advance(value, k)`` giving that of step k from the one before.

        Raises:
            TypeError: t is not known on the host, or not whole.
        """
        name = type(schedule).__name__
        if not on_host(t) or t != int(t):
            message = (
                f"{name}: has a value only at whole steps known on the host, got {t!r}; "
                "it is defined step by step, so evaluate it outside of jit"
            )
            raise TypeError(message)
        done, value = self._last if self._last and self._last[0] <= t else (0, start)
        for k in range(done + 1, int(t) + 1):
            value = advance(value, k)
        self._last = (int(t), value)
        return float(value)

    def __reduce__(self) -> Any:
        return Recursion, ()

    def __deepcopy__(self, memo: Any) -> Recursion:
        return Recursion()
