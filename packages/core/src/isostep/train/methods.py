"""The published methods, as rules of the catalogue."""

from __future__ import annotations

from typing import Any

import isostep
from isostep.rule import BoundRule

#: Published methods: rule, and what of it is set beside lr (alpha_0). MU and BETA are the options of that name.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sgd", {}),
    "sgd_hd": ("sgd_hd", {"hypergrad_lr": "BETA"}),
    "sgdn": ("sgd", {"momentum": "MU", "nesterov": True}),
    "sgdn_hd": ("sgd_hd", {"momentum": "MU", "nesterov": True, "hypergrad_lr": "BETA"}),
    "adam": ("adam", {}),
    "adam_hd": ("adam_hd", {"hypergrad_lr": "BETA"}),
}


def method_rule(
    method: str, alpha_0: float, beta: float, mu: float, weight_decay: float
) -> BoundRule:
    """The rule of a published method."""
    name, more = METHODS[method]
    values = {"MU": mu, "BETA": beta}
    given = {n: values[v] if isinstance(v, str) else v for n, v in more.items()}
    return isostep.rule(name, lr=alpha_0, weight_decay=weight_decay, **given)
