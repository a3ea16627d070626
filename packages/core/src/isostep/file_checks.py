"""What a file must say for a step to take it: its counts, its keys, how arrays are kept, and each array."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from isostep.program import always_like_parameter, init_shapes
from isostep.rule import BoundRule
from isostep.state import State, StepError, check_param
from isostep.storage import LOST, MASTER, STATE_DTYPES, Storage


class Damage(ValueError):
    """What is wrong with a file, in words."""


def count(what: str, value: Any, low: int | None = 0) -> int:
    """A whole number, of steps for instance."""
    if type(value) is not int or (low is not None and value < low):
        message = (
            f"{what} must be a whole number{'' if low is None else f' >= {low}'}, got {value!r}"
        )
        raise Damage(message)
    return value


def counts(values: Any) -> list[int]:
    """How many steps each parameter has taken."""
    if not isinstance(values, list):
        message = f"t must be a list of step counts, got {values!r}"
        raise Damage(message)
    return [count(f"t[{i}]", t) for i, t in enumerate(values)]


def keys(values: Any, number: int) -> list[str] | None:
    """The keys of a dict of parameters; None where they are a list."""
    if values is None:
        return None
    named = isinstance(values, list) and all(isinstance(k, str) for k in values)
    if not named or len(set(values)) != len(values) or len(values) != number:
        message = f"{number} parameters must have as many different names as keys, got {values!r}"
        raise Damage(message)
    return list(values)


def storage(values: Any) -> Storage:
    """How the arrays are kept."""
    allowed: dict[str, Sequence[Any]] = {
        "state": (None, *STATE_DTYPES),
        "beside": (None, MASTER, LOST),
        "stochastic": (False, True),
        "scaled": (False, True),
    }
    if not isinstance(values, dict) or values.keys() - allowed:
        known = ", ".join(allowed)
        message = f"storage must be a dict of {known}, got {values!r}"
        raise Damage(message)
    for name, value in values.items():
        if not any(value is a or (type(value) is type(a) and value == a) for a in allowed[name]):
            words = ", ".join(map(str, allowed[name]))
            message = f"storage's {name} must be one of {words}, got {value!r}"
            raise Damage(message)
    return Storage(**values)


def tensors(found: Iterable[str], number: int) -> None:
    """That a file has so many parameters, arrays of no others, and nothing that is neither."""
    numbers, given = {str(i) for i in range(number)}, set(found)
    lacking = sorted({f"params/{i}" for i in numbers} - given)
    odd = sorted(n for n in given if not _known(n, numbers))
    for verb, names in (("lacks", lacking), ("has", odd)):
        if names:
            message = f"for {number} parameters it {verb} the tensors {', '.join(names)}"
            raise Damage(message)


def _known(name: str, numbers: set[str]) -> bool:
    kind, _, rest = name.partition("/")
    number = {"params": rest, "state": rest.partition("/")[0]}.get(kind)
    return kind == "group" or number in numbers


def arrays(rule: BoundRule, params: Sequence[Any], state: State) -> None:
    """That every array has the shape and dtype that the rule's state has for its parameter.

    Raises:
        StepError: one has not, or the rule takes no such parameter.
    """
    shapes = cache(lambda shape: _shapes(rule, shape))
    for i, (p, own) in enumerate(zip(params, state.arrays, strict=True)):
        dtype, shape = p.dtype.name, tuple(p.shape)
        check_param(rule, f"params[{i}]", dtype, shape)
        ways = state.storage.of(dtype)
        wanted = shapes(shape) | {n: ways.shape_of(n, shape) for n in ways.extra}
        if own.keys() != wanted.keys():
            message = (
                f"params[{i}] of {dtype} must have the arrays {sorted(wanted)}, got {sorted(own)}"
            )
            raise StepError(message)
        for n, a in own.items():
            kept = ways.dtype_of(n, dtype)
            _check(f"state {n} of params[{i}]", a, (kept,), wanted[n])
    for n, a in state.group.items():
        _check(f"group value {n}", a, ("float64", "float32"), ())


def _check(what: str, a: Any, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> None:
    if a.dtype.name not in dtypes or tuple(a.shape) != shape:
        message = (
            f"{what} must be a {' or '.join(dtypes)} array of shape {shape}, "
            f"got {a.dtype.name} {tuple(a.shape)}"
        )
        raise StepError(message)


def _shapes(rule: BoundRule, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shape of each state array of a parameter of this shape."""
    found: dict[str, tuple[int, ...]] = {}
    for c in rule.components:
        names = rule.state_of(c)
        like = c.part.init is None or all(always_like_parameter(rule, c))
        own = [shape] * len(names) if like else init_shapes(rule, c, shape)
        found |= dict(zip(names, own, strict=True))
    return found
