"""A class for every rule, made from its declaration: name, signature, docstring."""

from __future__ import annotations

import inspect
from itertools import takewhile
from typing import Any

import torch

import isostep
from isostep.naming import camel_case, class_parameters
from isostep_torch.optimizer import Optimizer
from isostep_torch.paths import OPTIONS, number


def signature_of(name: str) -> inspect.Signature:
    """``params``, the rule's hyperparameters by position or name, then options by name.

    Where torch.optim has the class, what it takes by position is taken there, and everything else by name.
    """
    both, named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(n, named, default=d) for n, d in OPTIONS.items()]
    first = [inspect.Parameter(n, both) for n in ("self", "params")]
    own = {p.name: p for p in [*class_parameters(isostep.definition(name)), *options]}
    theirs = getattr(torch.optim, camel_case(name), None)
    if theirs is not None:
        _, *known = inspect.signature(theirs).parameters.values()  # after params
        places = [p.name for p in takewhile(lambda p: p.kind is both and p.name in own, known)]
        rest = {n: p.replace(kind=named) for n, p in own.items() if n not in places}
        own = {n: own[n].replace(kind=both) for n in places} | rest
    return inspect.Signature([*first, *own.values()])


def optimizer_class(name: str) -> type[Optimizer]:
    """The class of a rule."""
    definition = isostep.definition(name)
    signature = signature_of(name)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            given = signature.bind(self, *args, **kwargs).arguments
        except TypeError as error:
            message = f"{name}: {error}"
            raise TypeError(message) from None
        values = {n: v for n, v in given.items() if n in definition.hyper}
        chosen = {n: v for n, v in given.items() if n in OPTIONS}
        numbers = {n: number(v, f"{name}: {n}") for n, v in values.items()}
        self._start(given["params"], definition.bind(**numbers), values, chosen)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    body = {
        "__init__": __init__,
        "__doc__": definition.doc,
        "definition": definition,
        "__module__": "isostep_torch",
    }
    made: type[Optimizer] = type(camel_case(name), (Optimizer,), body)
    return made
