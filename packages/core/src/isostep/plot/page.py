"""The teaching page: one HTML file that recomputes the paths in the reader's browser.

The rules' steps and the surface in it are JavaScript written from their programs (``lower.js_source``); the page has no
arithmetic of its own but the loop over steps. It loads nothing: a content security policy forbids it to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from isostep import scalars
from isostep.backend import backend
from isostep.domains import DomainError, Pair, Real
from isostep.lower.js_source import expression, group_start, state_start, step_function
from isostep.plot.figures import STYLES, contour_levels, lowest
from isostep.plot.paths import Path, draws
from isostep.plot.surfaces import Surface
from isostep.program import trace
from isostep.rule import BoundRule, RuleError
from isostep.values import Domain, Graph

#: What the slider "momentum" moves: the first of these that a rule has.
MOMENTUM = ("momentum", "betas[0]", "beta")


def page(paths: Sequence[Path]) -> str:
    """The text of the page for these paths.

    Raises:
        RuleError: a rule works on matrices, or the surface is not written with ``isostep.nm``.
    """
    surface, first = paths[0].surface, paths[0]
    steps = len(first.points) - 1
    rules = ",\n".join(rule_object(p, k) for k, p in enumerate(paths))
    facts = {
        "name": surface.name,
        "x": surface.x,
        "y": surface.y,
        "start": first.points[0].tolist(),
        "minima": surface.minima,
        "low": lowest(surface),
        "levels": contour_levels(surface).tolist(),
        "steps": steps,
        "noise": first.noise,
        "seed": first.seed,
        "draws": draws(steps, first.seed).tolist(),
    }
    here = files("isostep.plot")
    script = (here / "page.js").read_text(encoding="utf-8")
    script = script.replace("/*SURFACE*/", surface_functions(surface))
    script = script.replace("/*FACTS*/", _json(facts)).replace("/*RULES*/", rules)
    text = (here / "page.html").read_text(encoding="utf-8")
    title = escape(f"Paths over {surface.name}")
    return text.replace("/*TITLE*/", title).replace("/*SCRIPT*/", script)


def _json(value: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value).replace("</", "<\\/")


def surface_functions(surface: Surface) -> str:
    """``value(x, y)`` and ``gradient(x, y)``, traced from the surface's own."""
    graph = Graph()
    x, y = (
        graph.node("input", attrs=(n,), domain=Domain.ELEMENT, name=n, truth=False) for n in "xy"
    )

    def text(node: Any) -> str:
        return expression(node).replace("H['x']", "x").replace("H['y']", "y")

    try:
        value, (gx, gy) = surface.value(x, y), surface.gradient(x, y)
    except Exception as error:
        told = str(error).partition("\n")[0]
        message = f"the page cannot draw {surface.name}: {told}; write the surface with isostep.nm"
        raise RuleError(message) from None
    return (
        f"const value = (x, y) => {text(value)};\n"
        f"const gradient = (x, y) => [{text(gx)}, {text(gy)}];"
    )


def rule_object(path: Path, index: int) -> str:
    """One rule as a JavaScript object: what the sliders start at, and its steps in every variant."""
    rule, steps = path.rule, len(path.points) - 1
    momentum = momentum_of(rule)
    found = variants(rule, momentum, path)
    colour, marker = STYLES[index % len(STYLES)]
    facts = {
        "title": path.title,
        "name": rule.name,
        "colour": colour,
        "marker": marker,
        "lr": "lr" in rule.values and not callable(rule.values["lr"]),
        "momentum": momentum,
        "hyper": hyper_table(rule, steps),
    }
    shown = ",\n".join(f"{name}: {text}" for name, text in found.items())
    return f"{{...{_json(facts)},\nvariants: {{\n{shown}\n}}}}"


def momentum_of(rule: BoundRule) -> str | None:
    """The hyperparameter that the slider "momentum" moves, or None."""
    values = scalars.flat(rule.values)
    return next((n for n in MOMENTUM if isinstance(values.get(n), float)), None)


def hyper_table(rule: BoundRule, steps: int) -> dict[str, Any]:
    """Every number by the name that programs know it by; a schedule is a list over the steps."""
    by_step = [scalars.flat(rule.at(t)) for t in range(1, steps + 1)]
    given = scalars.flat(rule.values)
    found: dict[str, Any] = {}
    for n, v in given.items():
        if callable(v):
            found[n] = [h[n] for h in by_step]
        elif isinstance(v, int | float):
            found[n] = v
    return found


def variants(rule: BoundRule, momentum: str | None, path: Path) -> dict[str, str]:
    """``given``, and ``zero`` and ``some`` where momentum 0 is a program of its own."""
    if momentum is None or not _zero_is_static(rule, momentum):
        return {"given": variant(rule, path)}
    found = {}
    for name, value in (("zero", 0.0), ("some", 0.5)):
        try:
            found[name] = variant(with_number(rule, momentum, value), path)
        except DomainError:  # such as nesterov without momentum
            continue
    return found


def _zero_is_static(rule: BoundRule, name: str) -> bool:
    domain = rule.domains.get(name.partition("[")[0])
    part = domain.parts[0] if isinstance(domain, Pair) else domain
    return isinstance(part, Real) and part.zero_is_static


def with_number(rule: BoundRule, name: str, value: float) -> BoundRule:
    """The rule with one number changed; ``betas[0]`` names an element of a tuple."""
    base, bracket, index = name.partition("[")
    if not bracket:
        return rule.replace(**{base: value})
    values = list(rule.values[base])
    values[int(index.rstrip("]"))] = value
    return rule.replace(**{base: tuple(values)})


def variant(rule: BoundRule, path: Path) -> str:
    """The steps of one structure: a function for each kind of step, which step is of which, and the first state."""
    steps = len(path.points) - 1
    programs: dict[Any, int] = {}
    texts: list[str] = []
    kinds: list[int] = []
    for t in range(1, steps + 1):
        phase = rule.phase(t)
        if phase not in programs:
            program = trace(rule, phase, path.points[0].shape)
            if program.generic:
                message = (
                    f"{rule.name} works on axes or matrices: the page cannot draw it on a surface"
                )
                raise RuleError(message)
            programs[phase] = len(texts)
            texts.append(step_function(program))
        kinds.append(programs[phase])
    reference = backend("numpy:reference")
    state = reference.init(rule, [path.points[0].copy()])
    arrays = {n: a.tolist() for n, a in state.arrays[0].items()}
    functions = ",\n".join(texts)
    return (
        f"{{kinds: {_json(kinds)}, state: {state_start(rule, arrays)}, start: {group_start(rule)}, "
        f"steps: [\n{functions}\n]}}"
    )
