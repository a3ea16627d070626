"""A function for every rule, ``isostep_jax.adamw``, with the signature that its declaration gives it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import isostep
from isostep.naming import class_parameters
from isostep.rule import Rule, RuleError
from isostep_jax.transform import KEYWORDS, Transform, transform


class _Default:
    """A signature's default that shapes the program: of a number ``optax.inject_hyperparams`` would make an array."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)

    def __eq__(self, other: object) -> bool:
        return bool(self.value == (other.value if isinstance(other, _Default) else other))

    def __hash__(self) -> int:
        return hash(self.value)


def constructor(name: str) -> Callable[..., Transform]:
    """The function ``isostep_jax.NAME``: hyperparameters by position or name, then a transformation."""
    definition = isostep.definition(name)
    signature, names = _signature(definition), [p.name for p in class_parameters(definition)]

    def construct(*args: Any, **named: Any) -> Transform:
        if len(args) > len(names):
            message = f"{name} takes {len(names)} hyperparameters, got {len(args)} by position"
            raise RuleError(message)
        first = dict(zip(names, args, strict=False))
        if twice := [n for n in first if n in named]:
            message = f"{name}: {twice[0]} is given by position and by name; give it once"
            raise RuleError(message)
        given = {n: v.value if isinstance(v, _Default) else v for n, v in (first | named).items()}
        options = {n: given.pop(n) for n in KEYWORDS if n in given}
        return transform(definition.bind(**given), **options)

    construct.__name__ = construct.__qualname__ = name
    construct.__doc__ = definition.doc
    construct.__signature__ = signature  # type: ignore[attr-defined]
    return construct


def _signature(definition: Rule) -> inspect.Signature:
    """Hyperparameters by position or name, then the options by name; numbers that are no arrays' are ``_Default``."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(n, keyword, default=v) for n, v in KEYWORDS.items()]
    found = []
    for p in [*class_parameters(definition), *options]:
        domain = definition.hyper.get(p.name)
        free = domain is not None and domain.schedulable and not domain.is_static(p.default)
        number = isinstance(p.default, int | float) and not isinstance(p.default, bool)
        found.append(p.replace(default=_Default(p.default)) if number and not free else p)
    return inspect.Signature(found)
