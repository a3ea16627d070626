"""How far two trajectories are apart, and what one oracle check reports.

The measure is the one of the TensorFlow facts (shared anchors, section 8): the difference divided
by the *running scale*, per element the largest magnitude that the value or its step has had so far.
A plain relative tolerance would be wrong, because a parameter may cancel to almost nothing, and one
scale for a whole array would be too kind, because the large elements would hide the small ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MOST_EXEMPT = 0.05
"""The largest part of the entries of one check that may be left out of it."""


@dataclass(frozen=True)
class Deviation:
    """The worst deviation over some elements, and how many elements were looked at."""

    worst: float
    compared: int
    exempt: int = 0

    def __or__(self, other: Deviation) -> Deviation:
        """Both together: the worse of the two, the counts added. NaN stays NaN."""
        worst = self.worst if math.isnan(self.worst) else max(other.worst, self.worst)
        return Deviation(worst, self.compared + other.compared, self.exempt + other.exempt)


NOTHING = Deviation(0.0, 0)


@dataclass(frozen=True)
class Outcome:
    """One line of the report: a rule in one setting against one oracle."""

    rule: str
    oracle: str
    setting: str
    deviation: Deviation
    tolerance: float
    flushed: int = 0
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether all was close enough (NaN is not), and nearly everything was compared."""
        found = self.deviation
        enough = found.compared > 0 and found.exempt <= MOST_EXEMPT * found.compared
        return enough and found.worst <= self.tolerance

    def as_dict(self) -> dict[str, object]:
        """The same as plain data, for ``--json``."""
        return {
            "rule": self.rule,
            "oracle": self.oracle,
            "setting": self.setting,
            "worst": self.deviation.worst,
            "tolerance": self.tolerance,
            "compared": self.deviation.compared,
            "exempt": self.deviation.exempt,
            "flushed": self.flushed,
            "passed": self.passed,
            "note": self.note,
        }


def running_scale(first: Array | None, later: Sequence[Array]) -> NDArray[np.float64]:
    """Per step and element, the largest of |value| and |step| so far.

    ``first`` is the value before the first step (None where there was none, as for a state that
    starts at zero). Infinite or NaN entries do not enter the scale.
    """
    values = np.stack([np.asarray(value, np.float64) for value in later])
    start = np.zeros_like(values[0]) if first is None else np.asarray(first, np.float64)
    before = np.concatenate([start[None], values[:-1]])
    with np.errstate(invalid="ignore", over="ignore"):
        sizes = np.maximum(np.maximum(np.abs(values), np.abs(before)), np.abs(values - before))
    sizes = np.where(np.isfinite(sizes), sizes, 0.0)
    return np.maximum.accumulate(sizes, axis=0)


def compare(
    got: Sequence[Array],
    expected: Sequence[Array],
    *,
    first: Array | None = None,
    exempt: NDArray[np.bool_] | None = None,
    grain: float = 0.0,
    whole: bool = False,
) -> Deviation:
    """The worst |got - expected| / running scale of ``expected``, over all steps and elements.

    Equal entries (infinities of one sign and a pair of NaN included) count as zero; an entry that
    is finite or a number on one side only counts as infinite. Where the scale is zero, only
    equality will do. ``exempt`` marks entries (steps first) that are counted and not compared.
    Differences up to ``grain`` (a few of a dtype's smallest subnormal numbers) count as zero.
    ``whole`` takes one scale for the whole array, for arithmetic whose error is not per element.
    """
    if len(got) != len(expected):
        message = f"{len(got)} steps to compare with {len(expected)}"
        raise ValueError(message)
    ours = np.stack([np.asarray(value, np.float64) for value in got])
    theirs = np.stack([np.asarray(value, np.float64) for value in expected])
    if ours.shape != theirs.shape:
        message = f"shape {ours.shape} to compare with {theirs.shape}"
        raise ValueError(message)
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    scale = running_scale(first, expected)
    if whole:
        every_axis = tuple(range(1, scale.ndim))
        scale = np.broadcast_to(scale.max(axis=every_axis, keepdims=True), scale.shape)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        same |= np.abs(ours - theirs) <= grain
        off = np.abs(ours - theirs) / scale
    off = np.where(same, 0.0, np.where(np.isfinite(off), off, np.inf))
    skipped = np.zeros(off.shape, bool) if exempt is None else np.broadcast_to(exempt, off.shape)
    kept = off[~skipped]
    return Deviation(float(kept.max(initial=0.0)), kept.size, int(skipped.sum()))
