"""The budget: how far a backend may be from the truth, element by element.

    error(backend) <= FACTOR * max(1 ulp, error of the plain NumPy rule in that dtype)

Both errors are against the truth from the same rounded inputs, in ulps of the case's dtype at the larger of the
result and the value it came from. The plain rule's error is the largest of its array, but never more at an
element than that element's own error bound, so one cancellation does not excuse a whole array; nor less than an
eighth of that bound, for where terms cancel the plain rule may be right by luck. Where both the result and the
value it came from are zero beside that bound, an ulp of theirs says nothing, and the bound alone says what a contracted
product may leave of terms that cancel when rounded. What depends on a sum may be off by a quarter of sqrt(n) ulp:
orders of summation differ.

FACTOR is measured: see ``margins``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from isostep_conformance.bounds import Chosen, Num
from isostep_conformance.formats import Format, ulp, widen

#: Honest backends stay below a third of it, every wrong rule is above three times it: both are measured and
#: printed, and the run fails where either does not hold.
FACTOR = 64.0
#: The distance kept on both sides of FACTOR.
MARGIN = 3.0
#: What a sum of n terms may add, in units of sqrt(n) ulp.
SUM_ULPS = 0.25
#: The part of an element's own error bound that is always allowed, and the bound (in ulps) beyond which it is none;
#: in float64 that is half of the digits, if they are more.
OWN_PART = 0.125
MOST_OWN = 1e6
#: The part of its own error bound below which a value is zero. It need not be 0.0: in float64, terms that cancel leave
#: something too.
NOTHING = 1e-3
#: The largest part of a scenario's elements that may be exempt, and that of one near underflow, where every
#: other sum of two numbers is within rounding of zero.
MOST_EXEMPT = 0.05
MOST_EXEMPT_DENORMAL = 0.15
#: And that of gradients near overflow, one of which may take a whole array along, where four draws are no better.
MOST_EXEMPT_HUGE = 0.10
#: The same for free runs: an element exempt once stays so, and drift brings more to their thresholds.
MOST_EXEMPT_FREE = 0.30
#: A free run in half precision ends before more is exempt than that, but after so many steps at the earliest.
FEWEST_FREE = 3


@dataclass(frozen=True)
class Expected:
    """The truth of one array after one step, and how far from it is how bad."""

    v: np.ndarray
    unit: np.ndarray
    exempt: np.ndarray
    edge: np.ndarray
    form: Format
    ulp: np.ndarray
    worst: float = 0.0

    @classmethod
    def of(
        cls,
        truth: Num,
        before: np.ndarray,
        plain: Sequence[np.ndarray],
        form: Format,
        sum_ulps: float = 0.0,
        *,
        bounded: bool = True,
    ) -> Expected:
        """From the truth, the wide value it came from, and the plain rule's results (widened): one, or more
        where a decomposition of a matrix decides how far off an honest one may be."""
        if isinstance(truth, Chosen):
            return Invariant.of_choice(truth, plain[0], form)
        shape = truth.v.shape
        exempt = np.broadcast_to(np.asarray(truth.f, bool), shape)
        scale = np.maximum(np.nan_to_num(np.abs(truth.v), nan=0.0, posinf=0.0), _finite(before))
        spacing = ulp(scale, form)
        with np.errstate(all="ignore"):
            off = [np.abs(x - truth.v) for x in plain]
            good = [np.isfinite(x) & ~exempt for x in off]
            worst = max(
                float((np.where(g, x, 0) / spacing).max(initial=0.0))
                for g, x in zip(good, off, strict=True)
            )
            bound = np.broadcast_to(np.asarray(truth.e), shape)
            own = bound / spacing
            allowed = np.maximum(
                np.minimum(worst, np.maximum(own, 1)) if bounded else worst, max(1.0, sum_ulps)
            )
            usable = (own <= max(MOST_OWN, form.eps**-0.5)) | (scale <= NOTHING * bound)
            allowed = np.maximum(allowed, np.where(usable, own * OWN_PART, 0))
            # Storing in half precision may overflow where the truth does not, by less than its rounding.
            edge = np.abs(np.abs(truth.v) - form.largest) <= 2 * spacing * allowed
        return cls(truth.v, spacing * allowed, exempt, edge, form, spacing, worst)

    def at_least(self, ulps: float) -> Expected:
        """The same with at least this many ulp allowed everywhere."""
        return replace(self, unit=np.maximum(self.unit, self.ulp * ulps))

    def ratios(self, got: np.ndarray) -> np.ndarray:
        """Error over allowance (without FACTOR); infinite where NaN or infinity is not matched in kind and place."""
        stored = np.where(
            np.abs(self.v) > self.form.largest * (1 + self.form.eps / 4),
            np.copysign(np.inf, self.v),
            self.v,
        )
        with np.errstate(all="ignore"):
            found = np.abs(got - self.v) / self.unit
            odd = ~np.isfinite(stored) | ~np.isfinite(got)
            same = (stored == got) | (np.isnan(stored) & np.isnan(got))
            close = self.edge & (np.signbit(stored) == np.signbit(got)) & ~np.isnan(got)
            found = np.where(odd, np.where(same | close, 0.0, np.inf), found)
        return np.where(self.exempt, 0.0, found)


@dataclass(frozen=True, kw_only=True)
class Invariant(Expected):
    """An array of which there are several right ones: not its elements are compared, but what makes it right."""

    faults: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def of_choice(cls, truth: Chosen, plain: np.ndarray, form: Format) -> Invariant:
        """The unit is honest rounding, or the plain rule's own fault where that is larger."""
        never = np.zeros(truth.v.shape, bool)
        worst = float(truth.faults(plain).max(initial=0.0)) if np.isfinite(plain).all() else 0.0
        return cls(
            truth.v,
            np.full(truth.v.shape, max(1.0, worst)),
            never | truth.f,
            never,
            form,
            np.ones(truth.v.shape),
            worst,
            faults=truth.faults,
        )

    def ratios(self, got: np.ndarray) -> np.ndarray:
        """The faults over those allowed (without FACTOR)."""
        if not np.isfinite(got).all():
            return np.where(self.exempt, 0.0, np.inf)
        return np.where(self.exempt, 0.0, self.faults(got) / self.unit)


def _finite(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), np.abs(x), 0)


@dataclass
class Tally:
    """What comparing found so far: the worst ratio and where, and how many elements were exempt."""

    worst: float = 0.0
    where: str = ""
    elements: int = 0
    exempt: int = 0
    free_elements: int = 0
    free_exempt: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, expected: Expected, got: Any, label: str, context: str) -> None:
        """Compare one array; ``label`` names it, ``context`` the case and step."""
        array = np.asarray(got)
        if array.shape != expected.v.shape:
            self.failures.append(
                f"{context}: {label}: got shape {array.shape}, expected {expected.v.shape}"
            )
            self.worst = np.inf
            return
        if not array.size:
            return
        wide = widen(array, expected.v.dtype)
        ratios = expected.ratios(wide)
        flat = int(np.argmax(ratios))
        index = tuple(int(i) for i in np.unravel_index(flat, ratios.shape))
        ratio = float(ratios[index])
        if ratio > self.worst:
            self.worst, self.where = ratio, f"{context}: {label}{list(index) or ''}"
        if ratio > FACTOR:
            self.failures.append(self._text(expected, wide, index, ratio, label, context))

    def _text(
        self,
        expected: Expected,
        got: np.ndarray,
        index: tuple[int, ...],
        ratio: float,
        label: str,
        context: str,
    ) -> str:
        allowed = float(expected.unit[index] / expected.ulp[index])
        off = float(np.abs(got[index] - expected.v[index]) / expected.ulp[index])
        return (
            f"{context}: {label} element {index}: got {float(got[index]):.9g}, "
            f"expected {float(expected.v[index]):.9g}, off by {off:.3g} ulp; "
            f"budget {FACTOR:g} x {allowed:.3g} = {FACTOR * allowed:.3g} ulp of {expected.form.name}"
        )

    def count(self, target_elements: int, target_exempt: int, *, free: bool) -> None:
        """How many numbers a step compares, and how many of them are exempt."""
        if free:
            self.free_elements += target_elements
            self.free_exempt += target_exempt
        else:
            self.elements += target_elements
            self.exempt += target_exempt
