"""How a step calls the functions of rules and pieces: with which arguments, and what is said where they do not fit."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isostep.storage import FACTOR, LOST, MASTER, SEED

if TYPE_CHECKING:
    from isostep.rule import Component, Part, Rule

#: What a step calls its number, which is 1 for the first.
COUNT = "t"
#: What it calls the parameter, the gradient, the update and its number, and what storage adds to them.
RESERVED = frozenset(("p", "g", "u", COUNT, MASTER, LOST, SEED, FACTOR))


class RuleError(ValueError):
    """A rule that cannot be declared, bound or composed as asked: one line, what, allowed, got, next step."""


@cache
def keywords(function: Callable[..., Any]) -> frozenset[str] | None:
    """The keyword names a function takes; None if it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(
        p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    )


def written(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that somebody has written: what a ``partial`` or a wrapper calls, or an object that is called."""
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    return function if hasattr(function, "__name__") else type(function).__call__


def check_names(owner: str, names: Iterable[str]) -> None:
    """What a rule names its arrays and numbers has to be a name in Python, and none of the step's own."""
    for name in names:
        if not str(name).isidentifier() or iskeyword(name):
            message = f"{owner}: names must be identifiers, got {name!r}"
            raise RuleError(message)
    taken = RESERVED.intersection(names)
    if taken:
        message = (
            f"{owner}: nothing of a rule can be named {sorted(taken)}; these name the step's own"
        )
        raise RuleError(message)


@cache
def mismatch(
    function: Callable[..., Any], arguments: tuple[str, ...], known: frozenset[str], open: bool
) -> str | None:
    """Why a function cannot be called with these arguments and those keywords that it names; None if it can.

    ``open``: there may be further keywords, whose names only a step tells (what ``measure`` gives).
    """
    signature, named = inspect.signature(function), keywords(function)
    given = known if named is None else known & named
    if open:
        given |= {n for n, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}
    try:
        signature.bind(*arguments, **dict.fromkeys(given))
    except TypeError as error:
        takes = ", ".join(arguments)
        may = f" and may name {', '.join(sorted(known))}" if known else ""
        name = written(function).__name__
        return f"{name}{signature} is called with ({takes}){may}: {error}; change its arguments"
    return None


@cache
def check_calls(
    part: Part,
    rule: Rule,
    state: tuple[str, ...],
    group: tuple[str, ...],
    lent: tuple[str, ...],
) -> None:
    """That a part's functions take what they are called with, in front of a rule, behind it or as that rule.

    ``lent``: the rule's state arrays that a piece's ``after`` takes too.
    """
    check_names(part.name, (*state, *group))
    own = frozenset(part.hyper)
    known = own.union(rule.hyper, group, ("phase",) if part.phase is not None else ())
    arrays = (*part.inputs, *state, COUNT)
    calls: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
        "init": (("p",), own),
        "phase": ((COUNT,), own),
        "advance": (("sums", "group", COUNT), own),
        "evaluate": (("p", *state, COUNT), own),
        "after": (("p", "g", "u", *arrays[:-1], *lent, COUNT), known),
        "denominator": (("d",), known),
    }
    for name, function in part.called().items():
        sums = part.measure is not None and name in ("update", "before", "after")
        fault = mismatch(function, *calls.get(name, (("p", "g", *arrays), known)), sums)
        if fault is not None:
            message = f"{part.name}: {fault}"
            raise RuleError(message)


def check_sums(owner: str, named: Iterable[Iterable[str]]) -> None:
    """That ``measure`` names the same sums for all parameters of a group: what only some have, nobody can total."""
    found: list[set[str]] = [set(names) for names in named]
    odd = sorted(set().union(*found) - found[0].intersection(*found)) if found else []
    if odd:
        message = f"{owner}: measure must return the same sums for every parameter and step, got {odd} for some only"
        raise RuleError(message)


def call_part(function: Callable[..., Any], *args: Any, given: Mapping[str, Any]) -> Any:
    """Call a part's function with those of ``given`` that its signature names."""
    names = keywords(function)
    chosen = given if names is None else {n: given[n] for n in names if n in given}
    try:
        return function(*args, **chosen)
    except (OverflowError, ZeroDivisionError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        advice = (
            "so bound what is divided by: nm.maximum(t - 1, 1)"
            if isinstance(error, ZeroDivisionError)
            else "so bound what grows, nm.minimum(t, 100), and write large whole numbers as floats, 1e20"
        )
        message = (
            f"{error} of plain numbers in {where}, and arrays would go on with inf or nan; nm.where chooses only "
            f"after both sides are computed, {advice}"
        )
        raise RuleError(message) from error
    except TypeError:
        places = tuple(str(i) for i in range(len(args)))
        fault = mismatch(function, places, frozenset(given), open=False)
        if fault is None:  # it is called rightly, and did something wrong
            raise
        raise RuleError(fault) from None


def first_state(
    component: Component, p: Any, names: Sequence[str], given: Mapping[str, Any]
) -> tuple[Any, ...]:
    """What a component's ``init`` makes of a parameter, an array for each of its state's names."""
    part = component.part
    assert part.init is not None
    made = call_part(part.init, p, given=given)
    made = made if isinstance(made, tuple) else (made,)
    if len(made) != len(names):
        message = (
            f"{part.name}: init returned {len(made)} arrays, expected {len(names)}: {tuple(names)}"
        )
        raise RuleError(message)
    for n, a in zip(names, made, strict=True):
        if not hasattr(type(a), "shape"):
            message = f"{part.name}: init must return an array as {n}, got {a!r}; write isostep.parts.filled(p, {a!r})"
            raise RuleError(message)
    return made
