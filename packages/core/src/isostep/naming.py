"""What a rule is called as a class, the same on every framework."""

from __future__ import annotations

import inspect

import isostep
from isostep.rule import Rule


def camel_case(name: str) -> str:
    """``sgd_hd`` as ``SGDHD``: the capitals that the rule's own title gives it, else one a word."""
    title = isostep.definition(name).doc.split(":", 1)[0]
    spelt = "".join(c for c in title if c.isalnum())
    plain = name.replace("_", "")
    return spelt if spelt.lower() == plain else "".join(w.capitalize() for w in name.split("_"))


def by_class(name: str) -> str:
    """The rule of this name or of this class name: ``"AddSign"`` is ``"addsign"``."""
    for rule in isostep.rules():
        if name in (rule, camel_case(rule)):
            return rule
    isostep.definition(name)  # words the error, with the known names
    raise AssertionError(name)


def class_parameters(rule: Rule) -> list[inspect.Parameter]:
    """A rule's hyperparameters as a class takes them, by position or name: those without a default first."""
    both, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    every = [p.replace(kind=both) for p in rule.signature.parameters.values()]
    return sorted(every, key=lambda p: p.default is not empty)
