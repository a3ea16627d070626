"""The strong Wolfe line search: a step along which the loss falls enough and flattens out.

    f(t) <= f(0) + c1 * t * f'(0)     and     |f'(t)| <= c2 * |f'(0)|

Follows: Nocedal, Wright, "Numerical Optimization", 2nd edition, Algorithms 3.5 (a bracket) and 3.6 (zoom), with the
    cubic interpolation of equation 3.59; the safeguards are those of torch.optim.LBFGS, from minFunc.
Departs:
    - Algorithm 3.5 compares with the trial before from the second trial on; here, as in torch, from the third.
    - A trial after the first lies at most 10 times as far, and further by a hundredth of the last step at least. In a
      bracket a trial keeps a tenth of the bracket away from the ends, unless it is the first to come so near.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from isostep import nm


@dataclass(frozen=True)
class Point:
    """A trial: how far along, the loss there, its gradient, and the slope along the direction."""

    t: Any
    f: float
    g: Any
    slope: Any


def strong_wolfe(
    along: Callable[[Any], Point],
    start: Point,
    t: Any,
    size: Any,
    *,
    most: int,
    c1: float = 1e-4,
    c2: float = 0.9,
    tolerance: float = 1e-9,
) -> tuple[Point, int]:
    """The point that the search ends at, and how many were tried.

    Args:
        along: tries a step length.
        start: the point at t = 0, whose slope is negative.
        t: the first step length.
        size: the largest magnitude in the direction: ends closer than ``tolerance`` in every coordinate end the search.
        most: after so many trials beyond the first the lower end of the bracket is returned.
        c1, c2: of the two conditions.
    """

    def high(point: Point) -> bool:
        return bool(point.f > start.f + c1 * point.t * start.slope)

    def flat(point: Point) -> bool:
        return bool(abs(point.slope) <= -c2 * start.slope)

    before, point, tries = start, along(t), 0
    while tries < most:
        if high(point) or (tries > 1 and point.f >= before.f):
            break
        if flat(point):
            return point, tries + 1
        if point.slope >= 0:
            break
        bounds = point.t + 0.01 * (point.t - before.t), point.t * 10
        before, point = point, along(interpolated(before, point, bounds))
        tries += 1
    else:
        before = start

    ends, near, found = [before, point], False, False
    low = _lower(ends)
    while tries < most and not found:
        if abs(ends[1].t - ends[0].t) * size < tolerance:
            break
        left, right = min(e.t for e in ends), max(e.t for e in ends)
        t = interpolated(ends[0], ends[1], (left, right))
        margin = 0.1 * (right - left)
        close = bool(min(right - t, t - left) < margin)
        if close and (near or t >= right or t <= left):
            t = right - margin if abs(t - right) < abs(t - left) else left + margin
            close = False
        near = close
        point = along(t)
        tries += 1
        if high(point) or point.f >= ends[low].f:
            ends[1 - low] = point
            low = _lower(ends)
            continue
        found = flat(point)
        if not found and point.slope * (ends[1 - low].t - ends[low].t) >= 0:
            ends[1 - low] = ends[low]
        ends[low] = point
    return ends[low], tries + 1


def interpolated(one: Point, two: Point, bounds: tuple[Any, Any]) -> Any:
    """The minimum of the cubic through two points with their slopes, within bounds; their middle if it has none."""
    d1 = one.slope + two.slope - 3 * (one.f - two.f) / (one.t - two.t)
    square = d1**2 - one.slope * two.slope
    if not square >= 0:
        return (bounds[0] + bounds[1]) / 2.0
    d2 = nm.sqrt(square)
    a, b = (one, two) if one.t <= two.t else (two, one)
    t = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
    return min(max(t, bounds[0]), bounds[1])


def _lower(ends: list[Point]) -> int:
    return 0 if ends[0].f <= ends[1].f else 1
