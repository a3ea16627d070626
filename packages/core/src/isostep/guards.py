"""What stands between gradients and a step: accumulating several, and leaving out those that are not finite.

    accumulated = isostep.guards.Accumulate("numpy", k=4)
    grads = accumulated.add(grads)             None three times, then the mean of four
    guard = isostep.guards.ApplyIfFinite("numpy")
    params, state = guard.step(rule, params, grads, state)

Neither is a piece: a piece is part of a step, and here no step is taken, so that neither the rule's state nor its count
moves.

Follows: optax.MultiSteps and optax.apply_if_finite of 0.2.8, which agree.
Departs:
    - optax.MultiSteps holds the mean in float32; here it has the gradients' dtype unless ``dtype`` says otherwise.
    - The running mean of gradients is a rule like any average, see ``isostep.averaging``.
    - Whether all gradients are finite is read on the host, once a step.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.averaging import Average, equal
from isostep.backend import backend as find_backend
from isostep.rule import BoundRule
from isostep.schedules.base import check
from isostep.state import State, StepError, arranged, as_list


class Accumulate:
    """The mean of every k gradients.

    Args:
        backend: a backend or its name.
        k: how many.
        dtype: what the mean is kept in, ``"float32"`` for narrow gradients; None for their own.
    """

    def __init__(self, backend: Any, k: int, *, dtype: str | None = None) -> None:
        check("accumulate", "k", k, at_least=1, whole=True, hint="pass how many to accumulate")
        self.k = k
        self._mean = Average(backend, equal(), dtype=dtype)

    @property
    def count(self) -> int:
        """How many have been added since the last mean."""
        return self._mean.count

    def add(self, grads: Any) -> Any:
        """Take gradients in; None, or at the k-th time the mean, in the gradients' structure and dtype.

        Raises:
            StepError: other arrays than before, or one is None.
        """
        arrays = as_list(grads)
        if any(g is None for g in arrays):
            message = (
                "accumulate: every parameter needs a gradient, got None; leave it out of the list"
            )
            raise StepError(message)
        self._mean.update(grads)
        if self._mean.count < self.k:
            return None
        backend = self._mean.backend
        means = as_list(self._mean.like(grads))
        with backend.quiet():
            found = [backend.cast(a, backend.dtype(g)) for a, g in zip(means, arrays, strict=True)]
        self.reset()
        return arranged(grads, found)

    def reset(self) -> None:
        """Forget what has been added."""
        self._mean.restore([], 0)


class ApplyIfFinite:
    """Steps only where every gradient is finite; anything else leaves parameters, state and count as they are.

    Args:
        backend: a backend or its name.
        most: after this many in a row that were left out the next one is applied all the same, so that a run that has
            gone wrong shows; None for never.
    """

    def __init__(self, backend: Any, most: int | None = None) -> None:
        hint = "pass how many in a row may be left out"
        check("apply_if_finite", "most", most, at_least=0, whole=True, optional=True, hint=hint)
        self.backend = find_backend(backend) if isinstance(backend, str) else backend
        self.most = most
        self.in_a_row = 0
        self.left_out = 0

    def step(
        self, rule: BoundRule, params: Any, grads: Any, state: State, **inputs: Any
    ) -> tuple[Any, State]:
        """As the backend's step."""
        in_a_row = 0 if self._finite(grads) else self.in_a_row + 1
        if in_a_row and (self.most is None or in_a_row <= self.most):
            self.in_a_row = in_a_row
            self.left_out += 1
            return params, state
        done: tuple[Any, State] = self.backend.step(rule, params, grads, state, **inputs)
        self.in_a_row = in_a_row
        return done

    def _finite(self, grads: Any) -> bool:
        with self.backend.quiet():
            # x - x is 0 where x is finite and NaN elsewhere: one number to read for all arrays.
            rests = [nm.sum(g - g) for g in as_list(grads) if g is not None]
            return not rests or bool(sum(rests[1:], rests[0]) == 0)


__all__ = ["Accumulate", "ApplyIfFinite"]
