"""The path that a rule takes over a surface: the reference's own steps, on a vector of two elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isostep.backend import backend
from isostep.domains import REQUIRED, DomainError
from isostep.plot.surfaces import SURFACES, Surface
from isostep.rule import BoundRule, RuleError
from isostep.schedules.base import check
from isostep.state import StepError, check_rule

#: The learning rates that ``tuned`` tries.
GRID = tuple(m * 10.0**k for k in range(-5, 1) for m in (1.0, 2.0, 5.0))


@dataclass(frozen=True)
class Path:
    """Where a rule went: ``points`` float64[steps + 1, 2], the start first, and the surface's value there."""

    rule: BoundRule
    surface: Surface
    points: np.ndarray
    losses: np.ndarray
    noise: float
    seed: int

    @property
    def title(self) -> str:
        """The rule with what differs from its defaults."""
        return title(self.rule)

    def figure(self, **options: Any) -> Any:
        """A matplotlib figure of this path alone; see ``isostep.plot.figure``."""
        from isostep.plot.figures import figure

        return figure([self], **options)


def surface_named(name: str | Surface) -> Surface:
    """A surface by name, or itself."""
    if isinstance(name, Surface):
        return name
    if name not in SURFACES:
        message = f"unknown surface {name!r}; known: {', '.join(SURFACES)}"
        raise RuleError(message)
    return SURFACES[name]


def draws(steps: int, seed: int) -> np.ndarray:
    """The noise of every step before it is scaled, float64[steps, 2]; the same for every rule."""
    return np.random.default_rng(seed).standard_normal((steps, 2))


def path(
    rule: BoundRule | str,
    surface: Surface | str = "rosenbrock",
    *,
    start: tuple[float, float] | None = None,
    steps: int = 30,
    noise: float = 0.0,
    seed: int = 0,
) -> Path:
    """The steps of a rule over a surface, in float64 by ``numpy:reference``.

    Args:
        rule: a rule, or the name of one for its defaults with a learning rate from ``tuned``.
        surface: the name of one of ``isostep.plot.SURFACES``, or a ``Surface``.
        start: the first point; by default the surface's own.
        steps: how many steps to take.
        noise: standard deviation of what is added to each gradient's element.
        seed: of the noise; the same seed adds the same noise whatever the rule.

    Raises:
        RuleError: the rule needs more than a gradient, or matrices.
        TypeError, ValueError: a number is out of its range.
    """
    found = surface_named(surface)
    check("path", "steps", steps, at_least=0, whole=True, hint="pass how many to take")
    check("path", "noise", noise, at_least=0, hint="pass a standard deviation")
    check("path", "seed", seed, at_least=0, whole=True, hint="pass a number of the noise")
    if start is not None and (isinstance(start, str) or np.shape(start) != (2,)):
        message = f"path: start must be two numbers x, y, got {start!r}"
        raise ValueError(message)
    if isinstance(rule, str):
        from isostep import _rules

        part, setting = _rules.named(rule)
        rate = part.hyper.get("lr")
        given = {"lr": GRID[0]} if rate is not None and rate.default is REQUIRED else {}
        bound = part.bind(**given, **setting)
        rule = tuned(bound, found, start=start, steps=steps, noise=noise, seed=seed)
    check_rule(rule)
    if rule.input_names:
        message = f"{rule.name} needs {', '.join(rule.input_names)} beside the gradient, which a surface does not give"
        raise RuleError(message)
    reference = backend("numpy:reference")
    p = np.array(found.start if start is None else start, np.float64)
    extra = noise * draws(steps, seed)
    points = np.empty((steps + 1, 2))
    points[0] = p
    try:
        state = reference.init(rule, [p])
    except StepError as error:
        message = f"{rule.name} cannot be drawn on a surface: {error}"
        raise RuleError(message) from None
    with np.errstate(all="ignore"):  # a path may leave for infinity
        for k in range(steps):
            g = np.array(found.gradient(p[0], p[1])) + extra[k]
            given = {n: v for n, v in loss_at(found, p).items() if n in rule.group_input_names}
            reference.step(rule, [p], [g], state, **given)
            points[k + 1] = p
        losses = np.asarray(found.value(points[:, 0], points[:, 1]))
    return Path(rule, found, points, losses, noise, seed)


def loss_at(surface: Surface, p: np.ndarray) -> dict[str, float]:
    """What a surface gives beside its gradient."""
    return {"loss": float(surface.value(p[0], p[1]))}


def tuned(rule: BoundRule, surface: Surface | str, **how: Any) -> BoundRule:
    """The rule with the learning rate of a grid (1, 2, 5 times powers of ten up to 5) that ends lowest.

    ``how`` is what ``path`` takes. A rule without a hyperparameter ``lr``, or whose lr is a schedule, is returned as
    it is, and so is one for which no learning rate ends at a finite value.
    """
    if callable(rule.values.get("lr", abs)):
        return rule
    best, lowest = rule, np.inf
    for lr in GRID:
        try:
            candidate = rule.replace(lr=lr)
        except DomainError:  # this rule's lr ends sooner
            continue
        last = path(candidate, surface, **how).losses[-1]
        if last < lowest:
            best, lowest = candidate, last
    return best


def title(rule: BoundRule) -> str:
    """``adam(lr=0.1)``: the rule with lr and what differs from its defaults."""
    defaults = {c.prefix + n: d.default for c in rule.components for n, d in c.part.hyper.items()}
    shown = [
        f"{n}={v:g}" if isinstance(v, float) else f"{n}={v!r}"
        for n, v in rule.values.items()
        if n == "lr" or v != defaults[n]
    ]
    return f"{rule.name}({', '.join(shown)})"
