"""What an optimizer in question is given: numbers that are told apart, under the names that it has for them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import isostep

#: Other libraries' names of what rules here call otherwise.
ALIASES = {
    "learning_rate": "lr", "step_size": "lr", "eta": "lr",
    "b1": "betas[0]", "b2": "betas[1]", "b3": "betas[2]",
    "beta1": "betas[0]", "beta2": "betas[1]", "beta3": "betas[2]",
    "beta_1": "betas[0]", "beta_2": "betas[1]", "beta_3": "betas[2]",
    "epsilon": "eps", "wd": "weight_decay", "weight_decay_rate": "weight_decay",
    "decay_rate": "rho", "max_grad_norm": "max_norm", "clipnorm": "max_norm",
    "use_nesterov": "nesterov", "trust_coeff": "trust_coefficient",
    "eta_minus": "etas[0]", "eta_plus": "etas[1]",
    "min_step_size": "step_sizes[0]", "max_step_size": "step_sizes[1]",
}  # fmt: skip
#: What is switched on though it is off by default: what is off cannot be told apart.
ON = {"weight_decay": 0.113, "momentum": 0.872}
#: Numbers that are neither neutral nor like each other.
LR, EPS = 0.0137, 0.0023
_DECAYS = (0.831, 0.947, 0.961, 0.913, 0.879)


def plain(name: str) -> str:
    """The name that rules here have for an argument of somebody else's."""
    return ALIASES.get(name, name)


@cache
def known() -> frozenset[str]:
    """The names of hyperparameters of rules and pieces: other settings are left as they are."""
    parts: list[Any] = [isostep.definition(n) for n in isostep.rules()]
    parts += [isostep.pieces.registry[n] for n in isostep.pieces.registry.names()]
    return frozenset(name for part in parts for name in part.hyper)


def chosen(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for an optimizer with these defaults: what was ``given``, and telling numbers for the rest."""
    found: dict[str, Any] = {}
    for name, default in defaults.items():
        if name in given:
            found[name] = given[name]
            continue
        own = plain(name)
        value = _telling(own, default, len(found)) if own.partition("[")[0] in known() else None
        if value is not None:
            found[name] = value
    return found


def _telling(name: str, default: Any, place: int) -> Any:
    """A number that shows; None where the default is left alone."""
    if name == "lr":
        return LR
    if name in ON and (default is None or _number(default)):
        return ON[name]
    if isinstance(default, tuple) and default and all(_number(x) and 0.5 <= x < 1 for x in default):
        return tuple(_near(x, place + i) for i, x in enumerate(default))
    if name.startswith("betas[") and (_number(default) or default is inspect.Parameter.empty):
        return _DECAYS[int(name[6])]
    return _near(default, place) if _number(default) and isinstance(default, float) else None


def _near(default: float, place: int) -> float:
    """Another number of the same kind: a decay, an epsilon, a factor; zero and one are choices, and stay."""
    if default in (0.0, 1.0) or not math.isfinite(default):
        return default
    if 0.5 <= default < 1:
        return _DECAYS[place % len(_DECAYS)]
    if 0 < default <= 1e-5:
        return EPS * (1 + place / 8)
    return default * (1.07 + place / 64)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def numbers(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings under this project's names, part by part (``betas[0]``): those given, and the defaults."""
    found: dict[str, Any] = {}
    for name, value in {**defaults, **settings}.items():
        if value is inspect.Parameter.empty:
            continue
        parts = enumerate(value) if isinstance(value, tuple | list) else ()
        flat = {f"{plain(name)}[{i}]": x for i, x in parts} or {plain(name): value}
        found |= {n: v for n, v in flat.items() if n not in found}
    return found
