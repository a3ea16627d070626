"""A class for every rule, made from its declaration: name, signature, docstring."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import isostep
from isostep_torch.optimizer import Optimizer
from isostep_torch.paths import OPTIONS, number


def camel_case(name: str) -> str:
    """``sgd_hd`` as ``SGDHD``: the capitals that the rule's own title gives it, else one a word."""
    title = isostep.definition(name).doc.split(":", 1)[0]
    spelt = "".join(c for c in title if c.isalnum())
    plain = name.replace("_", "")
    return spelt if spelt.lower() == plain else "".join(w.capitalize() for w in name.split("_"))


def signature_of(name: str) -> inspect.Signature:
    """``params``, the rule's hyperparameters by position or name, then options by name."""
    empty, both = inspect.Parameter.empty, inspect.Parameter.POSITIONAL_OR_KEYWORD
    declared = isostep.definition(name).signature.parameters.values()
    hyper = sorted(
        (p.replace(kind=both) for p in declared), key=lambda p: p.default is not empty
    )  # stable: what is required comes first
    options = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d) for n, d in OPTIONS.items()
    ]
    first = [inspect.Parameter(n, both) for n in ("self", "params")]
    return inspect.Signature([*first, *hyper, *options])


def optimizer_class(name: str) -> type[Optimizer]:
    """The class of a rule."""
    definition = isostep.definition(name)
    signature = signature_of(name)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs).arguments
        values = {n: v for n, v in given.items() if n in definition.hyper}
        chosen = {n: v for n, v in given.items() if n in OPTIONS}
        self._start(given["params"], definition.bind(**_plain(values)), values, chosen)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    body = {
        "__init__": __init__,
        "__doc__": definition.doc,
        "definition": definition,
        "__module__": "isostep_torch",
    }
    made: type[Optimizer] = type(camel_case(name), (Optimizer,), body)
    return made


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {n: number(v) for n, v in values.items()}
