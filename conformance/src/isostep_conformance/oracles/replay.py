"""isostep's AddSign and PowerSign against trajectories of TensorFlow's, live or from the file.

Free-running in float32 and float64. In bfloat16 and float16, where TensorFlow rounds after every
operation and isostep once per store, every step restarts from TensorFlow's own state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from . import sign_formulas
from .drive import one_sign_step, run_sign
from .outcome import NOTHING, Array, Deviation, compare
from .sign_cases import Inputs, SignCase
from .sign_formulas import Trajectory

ROUNDINGS = 7
"""How many unit roundoffs apart one step may be in sixteen bits, of the running scale.

TensorFlow rounds log(base), log(base) * decay, exp, lr * factor, the product with g and the sum:
with |log(base)| < 1 that is at most (2 * 1 + 3) of the step and 1 of the result; isostep rounds the
result once. The momentum has fewer.
"""

TOLERANCES = {
    "float32": 2e-6,
    "float64": 4e-15,
    "bfloat16": ROUNDINGS * 2.0**-8,
    "float16": ROUNDINGS * 2.0**-11,
}
"""By dtype. The first two held over 2,600 trajectories (tf-sign-facts, section 8)."""


FLUSHING = ("jax:",)
"""Paths whose framework flushes denormals on the CPU, as TensorFlow does. A declared
difference (the contract keeps denormals); such a path must equal TensorFlow everywhere."""


@dataclass(frozen=True)
class Replay:
    """The worst deviation, and how many entries were compared without TensorFlow's flushing."""

    deviation: Deviation = NOTHING
    flushed: int = 0

    def __or__(self, other: Replay) -> Replay:
        return Replay(self.deviation | other.deviation, self.flushed + other.flushed)


def grain(dtype: np.dtype[Any]) -> float:
    """A few of the dtype's smallest subnormal numbers, below which rounding is not relative."""
    return 4 * float(ml_dtypes.finfo(dtype).smallest_subnormal)


def replay(
    path: str,
    rule: Any,
    case: SignCase,
    decays: Sequence[float],
    inputs: Inputs,
    theirs: Trajectory,
) -> Replay:
    """How far a path is from TensorFlow's trajectory: free-running, or forced in sixteen bits.

    Entries that TensorFlow's flushing of denormals has changed are compared with the same formulas
    in NumPy without flushing, which TensorFlow equals elsewhere; on a path that flushes too, with
    TensorFlow like all the others.
    """
    if inputs.start.dtype.itemsize == 2:
        return _forced(path, rule, case, decays, inputs, theirs)
    flushed = sign_formulas.emulate(case, list(decays), inputs, flushing=True)
    kept = sign_formulas.emulate(case, list(decays), inputs, flushing=False)
    touched = sign_formulas.touched(flushed, kept) & (not path.startswith(FLUSHING))
    ps, ms = run_sign(path, rule, inputs.start, inputs.gradients)
    fine = grain(inputs.start.dtype)
    worst = compare(ps, theirs.p, first=inputs.start, exempt=touched)
    worst |= compare(ms, theirs.m, exempt=touched)
    aside = compare(ps, kept.p, first=inputs.start, exempt=~touched, grain=fine)
    aside |= compare(ms, kept.m, exempt=~touched, grain=fine)
    # What one comparison leaves out the other takes in, so nothing is exempt.
    both = Deviation(max(worst.worst, aside.worst), worst.compared + aside.compared)
    return Replay(both, 2 * int(touched.sum()))


def _forced(
    path: str,
    rule: Any,
    case: SignCase,
    decays: Sequence[float],
    inputs: Inputs,
    theirs: Trajectory,
) -> Replay:
    """One step at a time from TensorFlow's state."""
    fine = grain(inputs.start.dtype)
    p, m = inputs.start, np.zeros_like(inputs.start)
    total = Replay()
    for done, (gradient, decay) in enumerate(zip(inputs.gradients, decays, strict=True)):
        ours_p, ours_m = one_sign_step(path, rule, p, m, gradient, done)
        kept_p, kept_m = sign_formulas.sign_step(case, decay, p, gradient, m, flushing=False)
        wiped_p, wiped_m = sign_formulas.sign_step(case, decay, p, gradient, m, flushing=True)
        touched = _differ(kept_p, wiped_p) | _differ(kept_m, wiped_m)
        touched &= not path.startswith(FLUSHING)
        next_p = np.where(touched, kept_p, theirs.p[done])
        next_m = np.where(touched, kept_m, theirs.m[done])
        unsure = _sign_is_unsure(case, m, gradient)
        worst = compare([ours_p], [next_p], first=p, exempt=unsure[None], grain=fine)
        worst |= compare([ours_m], [next_m], first=m, grain=fine)
        total |= Replay(worst, 2 * int(touched.sum()))
        p, m = theirs.p[done], theirs.m[done]
    return total


def _differ(left: Array, right: Array) -> NDArray[np.bool_]:
    return np.asarray(left, np.float64) != np.asarray(right, np.float64)


def _sign_is_unsure(case: SignCase, m: Array, gradient: Array) -> NDArray[np.bool_]:
    """Where the new momentum is within rounding of zero, so that its sign may be either."""
    roundoff = float(ml_dtypes.finfo(m.dtype).eps) / 2
    old = case.beta * np.asarray(m, np.float64)
    new = (1 - case.beta) * np.asarray(gradient, np.float64)
    slack = 4 * roundoff * (np.abs(old) + np.abs(new)) + grain(m.dtype)
    cancels = (old != 0) & (new != 0) & (np.sign(old) != np.sign(new))
    lost = np.abs(old) + np.abs(new) <= grain(m.dtype)
    return (cancels | lost) & (np.abs(old + new) <= slack) & (gradient != 0)
