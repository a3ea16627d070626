"""What a rule is fed in a case: parameters, gradients and extra inputs, step by step.

All scenarios of a rule have the same shapes, so that a compiled path compiles once. Gradients are never
"random normal": they span ten decades, with zeros, negative zeros, sign flips and constants that flip; other
scenarios bring denormals, huge values, NaN and infinity, and numbers that hit thresholds on the nose.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isostep.rule import BoundRule
from isostep_conformance.formats import Format
from isostep_conformance.hypers import generator

#: Odd, empty, 0-d, matrices both ways, more than two axes. A rule's ``ndim`` chooses among them.
SHAPES: tuple[tuple[int, ...], ...] = (
    (67,),
    (3, 5),
    (),
    (2, 3, 4),
    (0,),
    (4, 3, 2, 2),
    (6, 4),
    (1, 7),
)
#: More than one vector register, cache line and chunk, and no multiple of any.
ODD_SIZE = 4097

Arrays = list[np.ndarray]


@dataclass
class Script:
    """A run to be made: what step k is fed. ``jumps`` sets the steps done before a step, ``resets`` the parameters."""

    name: str
    params: Arrays
    grads: list[Arrays]
    inputs: list[
        dict[str, Any]
    ]  # arrays like the parameters; one without axes where it is the group's
    jumps: dict[int, int] = field(default_factory=dict)
    resets: dict[int, Arrays] = field(default_factory=dict)


def shapes(rule: BoundRule) -> list[tuple[int, ...]]:
    """The shapes that this rule takes."""
    allowed = rule.rule.ndim
    found = [s for s in SHAPES if allowed is None or len(s) in allowed]
    if not found:
        message = (
            f"{rule.name}: no conformance shape has {allowed} axes; add one to scenarios.SHAPES"
        )
        raise ValueError(message)
    return found


def odd_shape(rule: BoundRule) -> tuple[int, ...]:
    """The shape of larger arrays, of a rank that the rule takes."""
    allowed = rule.rule.ndim
    return (ODD_SIZE,) if allowed is None or 1 in allowed else (17, 31)


def _store(values: Any, form: Format) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(np.asarray(values, np.float64).astype(form.numpy))


def _parameters(rng: np.random.Generator, sizes: list[tuple[int, ...]]) -> Arrays:
    made = []
    for shape in sizes:
        p = np.array(rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 1, shape))
        p[rng.random(shape) < 0.05] = 0.0
        made.append(p)
    return made


def _decades(form: Format) -> tuple[float, float]:
    """What sizes gradients have: squares have to be representable, or there are fewer decades of them."""
    low, high = -7.0, 3.0
    room = form.tiny <= 10.0 ** (2 * low) and 10.0 ** (2 * high) <= form.largest
    return (low, high) if room else (-4.0, 1.5)


def _gradient_paths(
    rng: np.random.Generator, shape: tuple[int, ...], steps: int, form: Format
) -> Arrays:
    """Gradients of one array over a run; each element has a habit of its own."""
    low, high = _decades(form)
    size = 10.0 ** rng.uniform(low, high, shape)
    sign = np.where(rng.random(shape) < 0.5, -1.0, 1.0)
    habit = rng.integers(0, 9, shape)
    flip = rng.integers(3, max(steps - 2, 4), shape)
    made = []
    for k in range(steps):
        fresh = 10.0 ** rng.uniform(low, high, shape) * np.where(rng.random(shape) < 0.5, -1.0, 1.0)
        mild = size * sign * rng.uniform(0.5, 2.0, shape)
        g = np.where(habit < 3, fresh, mild)
        g = np.where(
            habit == 3, sign * size * np.where(k < flip, 1, -1), g
        )  # constant, then flipped
        g = np.where(habit == 4, sign * size * (-1) ** k, g)
        g = np.where(habit == 5, sign * 0.0, g)  # zero or negative zero, always
        g = np.where((habit == 6) & (k % 3 == 1), -0.0, g)
        made.append(np.asarray(g))
    return made


def _extras(
    rule: BoundRule, rng: np.random.Generator, sizes: list[tuple[int, ...]], form: Format, k: int
) -> dict[str, Any]:
    return {
        n: [_store(rng.standard_normal(s) * 10.0 ** rng.uniform(-2, 1, s), form) for s in sizes]
        for n in rule.input_names
    } | {
        # Large and small in turn; exact in every format, so that what is exact without it stays so.
        n: _store(2.0 ** (rng.integers(-3, 3) + (0 if k % 2 else 6)), form.compute)
        for n in rule.group_input_names
    }


def _script(
    name: str,
    rule: BoundRule,
    form: Format,
    seed: str,
    params: Arrays,
    grads: list[Arrays],
    **options: Any,
) -> Script:
    rng = generator(seed, name, "inputs")
    sizes = [p.shape for p in params]
    stored = [[_store(g, form) for g in step] for step in grads]
    extra = [_extras(rule, rng, sizes, form, k) for k in range(len(grads))]
    return Script(name, [_store(p, form) for p in params], stored, extra, **options)


def long_run(rule: BoundRule, form: Format, seed: str, scale: float) -> Script:
    """Twenty-two steps over ten decades, the last two as steps 1000 and 1001."""
    rng = generator(seed, "run")
    sizes, steps = shapes(rule), 22
    params = _parameters(rng, sizes)
    paths = [_gradient_paths(rng, s, steps, form) for s in sizes]
    grads = [[scale * path[k] for path in paths] for k in range(steps)]
    return _script("run", rule, form, seed, params, grads, jumps={20: 999})


def odd(rule: BoundRule, form: Format, seed: str, scale: float) -> Script:
    """Two arrays of one odd size, three steps: some paths keep equal shapes together."""
    rng = generator(seed, "odd")
    sizes = [odd_shape(rule)] * 2
    paths = [_gradient_paths(rng, s, 3, form) for s in sizes]
    grads = [[scale * path[k] for path in paths] for k in range(3)]
    return _script("odd", rule, form, seed, _parameters(rng, sizes), grads)


def denormals(rule: BoundRule, form: Format, seed: str, scale: float) -> Script:
    """Gradients and parameters below and around the smallest normal number."""
    rng = generator(seed, "denormals")
    sizes = shapes(rule)
    low, high = math.log10(form.tiny), math.log10(form.smallest_normal) + 3

    def small(shape: tuple[int, ...]) -> np.ndarray:
        # exp2 of a power that may be below float64's own normal range
        return np.asarray(
            10.0 ** rng.uniform(low, high, shape) * np.where(rng.random(shape) < 0.5, -1.0, 1.0)
        )

    params = [np.where(rng.random(s) < 0.5, small(s), rng.standard_normal(s)) for s in sizes]
    return _script(
        "denormals", rule, form, seed, params, [[small(s) for s in sizes] for _ in range(3)]
    )


def huge(rule: BoundRule, form: Format, seed: str, scale: float) -> Script:
    """A few gradients whose squares overflow, and a few near the largest number."""
    rng = generator(seed, "huge")
    sizes = shapes(rule)
    top = math.log10(form.largest)

    def large(shape: tuple[int, ...]) -> np.ndarray:
        big = 10.0 ** rng.uniform(0.4 * top, 0.99 * top, shape) * np.where(
            rng.random(shape) < 0.5, -1.0, 1.0
        )
        return np.where(rng.random(shape) < 0.2, big, rng.standard_normal(shape))

    return _script(
        "huge",
        rule,
        form,
        seed,
        _parameters(rng, sizes),
        [[large(s) for s in sizes] for _ in range(2)],
    )


def nonfinite(rule: BoundRule, form: Format, seed: str, scale: float) -> Script:
    """NaN and infinities in the gradients of every other array, then gradients without them."""
    rng = generator(seed, "nonfinite")
    sizes = shapes(rule)
    bad = np.array([math.nan, math.inf, -math.inf])

    def gradient(i: int, shape: tuple[int, ...], first: bool) -> np.ndarray:
        g = rng.standard_normal(shape)
        chosen = (rng.random(shape) < 0.15) & (i % 2 == 0) & first
        return np.where(chosen, bad[rng.integers(0, 3, shape)], g)

    grads = [[gradient(i, s, k == 0) for i, s in enumerate(sizes)] for k in range(2)]
    return _script("nonfinite", rule, form, seed, _parameters(rng, sizes), grads)


#: Numbers whose sums, halves and products are exact in every format.
_GRID = (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -0.0, -0.125, 0.125, 4.0)
#: The next gradient as a multiple of this one: with decay rates of 1/2 an average becomes exactly zero at -1/2.
_NEXT = (-0.5, -1.0, 1.0, 0.0, -2.0)


def exact(rule: BoundRule, form: Format, seed: str, scale: float) -> Script:
    """Arithmetic without rounding: averages that cancel to zero, zero norms, equality in every comparison.

    The k-th array is the grid itself, has zero parameters, zero gradients, or both.
    """
    combos = list(itertools.product(_NEXT, _GRID, _GRID))
    rng = generator(seed, "exact")
    order = rng.permutation(len(combos))
    params, first, ratio = [], [], []
    used = 0
    for i, shape in enumerate(shapes(rule)):
        size = math.prod(shape)
        rows = [combos[order[(used + j) % len(combos)]] for j in range(size)]
        used += size
        columns = [np.array([row[c] for row in rows]).reshape(shape) for c in range(3)]
        ratio.append(columns[0])
        params.append(columns[1] * (i not in (1, 5)))
        first.append(columns[2] * (i not in (3, 5)))
    second = [g * r for g, r in zip(first, ratio, strict=True)]
    grads = [first, second, [-0.5 * g for g in second], [np.abs(g) for g in first]]
    return _script("exact", rule, form, seed, params, grads)


def corners(rule: BoundRule, form: Format, seed: str, scale: float) -> Script:
    """Zero and tiny parameters and gradients in every combination, and a gradient that suddenly grows at t = 1000."""
    rng = generator(seed, "corners")
    sizes = shapes(rule)

    def normal(size: float) -> Arrays:
        return [np.asarray(size * rng.standard_normal(s)) for s in sizes]

    # The first gradients' squares are below the machine epsilon, and no larger one came before them.
    resets = [
        normal(1.0),
        normal(1.0),
        normal(0.0),
        normal(1e-7),
        normal(1.0),
        normal(1.0),
        normal(0.0),
    ]
    grads = [
        normal(1e-9),
        normal(1e-10),
        normal(0.02),
        normal(1e-7),
        normal(0.0),
        normal(30.0),
        normal(0.0),
    ]
    kept = {k: [_store(p, form) for p in params] for k, params in enumerate(resets)}
    return _script("corners", rule, form, seed, resets[0], grads, jumps={0: 4, 5: 999}, resets=kept)


#: name -> how it is made, and whether it runs with the dyadic hyperparameters.
SCENARIOS: dict[str, tuple[Callable[[BoundRule, Format, str, float], Script], bool]] = {
    "run": (long_run, False),
    "exact": (exact, True),
    "corners": (corners, False),
    "nonfinite": (nonfinite, False),
    "huge": (huge, False),
    "denormals": (denormals, False),
    "odd": (odd, False),
}
