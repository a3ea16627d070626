"""Test functions of two variables: where optimizers are looked at.

Written with ``nm``, so that the same lines run on NumPy arrays and are traced for the teaching page. Gradients are
written out, and checked against finite differences.

Sources: rosenbrock: "An automatic method for finding the greatest or least value of a function" (1960); beale,
himmelblau: Jamil and Yang, arXiv 1308.4008, functions 10 and 65; rastrigin: the same, on which 2 pi is usual;
quadratic: a valley ten times steeper across than along.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from isostep import nm


@dataclass(frozen=True)
class Surface:
    """A function of (x, y) with its gradient, the window to draw, a start and its minima."""

    name: str
    value: Callable[[Any, Any], Any]
    gradient: Callable[[Any, Any], tuple[Any, Any]]
    x: tuple[float, float]
    y: tuple[float, float]
    start: tuple[float, float]
    minima: tuple[tuple[float, float], ...]


def _quadratic(x: Any, y: Any) -> Any:
    return 0.5 * (x * x + 10.0 * y * y)


def _quadratic_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    return x, 10.0 * y


def _rosenbrock(x: Any, y: Any) -> Any:
    return (1.0 - x) * (1.0 - x) + 100.0 * (y - x * x) * (y - x * x)


def _rosenbrock_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    return 2.0 * (x - 1.0) - 400.0 * x * (y - x * x), 200.0 * (y - x * x)


def _rastrigin(x: Any, y: Any) -> Any:
    tau = 2.0 * math.pi
    return 20.0 + x * x + y * y - 10.0 * (nm.cos(tau * x) + nm.cos(tau * y))


def _rastrigin_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    tau = 2.0 * math.pi
    return 2.0 * x + 10.0 * tau * nm.sin(tau * x), 2.0 * y + 10.0 * tau * nm.sin(tau * y)


def _beale_terms(x: Any, y: Any) -> list[tuple[Any, Any, Any]]:
    """Each term with its derivatives by x and y."""
    return [
        (1.5 - x + x * y, y - 1.0, x),
        (2.25 - x + x * y * y, y * y - 1.0, 2.0 * x * y),
        (2.625 - x + x * y * y * y, y * y * y - 1.0, 3.0 * x * y * y),
    ]


def _beale(x: Any, y: Any) -> Any:
    (a, _, _), (b, _, _), (c, _, _) = _beale_terms(x, y)
    return a * a + b * b + c * c


def _beale_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    (a, ax, ay), (b, bx, by), (c, cx, cy) = _beale_terms(x, y)
    return 2.0 * (a * ax + b * bx + c * cx), 2.0 * (a * ay + b * by + c * cy)


def _himmelblau(x: Any, y: Any) -> Any:
    a, b = x * x + y - 11.0, x + y * y - 7.0
    return a * a + b * b


def _himmelblau_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    a, b = x * x + y - 11.0, x + y * y - 7.0
    return 4.0 * x * a + 2.0 * b, 2.0 * a + 4.0 * y * b


SURFACES = {
    s.name: s
    for s in (
        Surface(
            "quadratic", _quadratic, _quadratic_gradient,
            (-2.0, 2.0), (-1.5, 1.5), (-1.5, 1.0), ((0.0, 0.0),),
        ),
        Surface(
            "rosenbrock", _rosenbrock, _rosenbrock_gradient,
            (-2.0, 2.0), (-1.0, 3.0), (-0.5, 1.4), ((1.0, 1.0),),
        ),
        Surface(
            "rastrigin", _rastrigin, _rastrigin_gradient,
            (-5.12, 5.12), (-5.12, 5.12), (-2.3, 3.3), ((0.0, 0.0),),
        ),
        Surface(
            "beale", _beale, _beale_gradient,
            (-4.5, 4.5), (-4.5, 4.5), (1.0, 1.5), ((3.0, 0.5),),
        ),
        Surface(
            "himmelblau", _himmelblau, _himmelblau_gradient,
            (-6.0, 6.0), (-6.0, 6.0), (0.0, -1.0),
            (
                (3.0, 2.0), (-2.805118086952745, 3.131312518250573),
                (-3.779310253377747, -3.283185991286170), (3.584428340330492, -1.848126526964404),
            ),
        ),
    )
}  # fmt: skip
