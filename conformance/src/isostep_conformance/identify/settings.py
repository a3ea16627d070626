"""What an optimizer in question is given: numbers that are told apart, under the names that it has for them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import isostep
from isostep.domains import REQUIRED, Domain, Pair
from isostep.rule import Piece, Rule

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
#: What is given whatever its default is, and when nothing else can be: without it there is no step.
ALWAYS = {"lr": 0.0137}
#: Of what is small, a number that shows.
EPS = 0.0023
#: Decays of the last few steps, and of many: an update is a good deal larger than usual where gradients grow.
_DECAYS, _LONG = (0.831, 0.907, 0.873, 0.919, 0.851), (0.991, 0.983, 0.987, 0.979, 0.989)
_LONG_FROM = 0.95


def plain(name: str, others: Collection[str] = ()) -> str:
    """The name that rules here have for an argument of somebody else's, unless it is one of its ``others``."""
    own = ALIASES.get(name, name)
    return name if own in others else own


def resolved(part: Rule | Piece, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers under the names that a rule or piece has for them: its own before what they may be called elsewhere."""
    found = {n: v for n, v in numbers.items() if n.partition("[")[0] in part.hyper}
    for name, value in numbers.items():
        if name not in found:
            found.setdefault(plain(name, found), value)
    return found


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
        own = plain(name, defaults)
        if own.partition("[")[0] not in known():
            continue
        required = default is inspect.Parameter.empty
        usually = _usual(own) if required else default
        value = _telling(own, usually, len(found))
        if value is None and required and usually is not REQUIRED:
            value = usually
        if value is not None:
            found[name] = value
    return found


@cache
def _usual(name: str) -> Any:
    """What a setting is by default in the first rule that has one of its name, ``REQUIRED`` in none."""
    base, _, place = name.partition("[")
    for rule in map(isostep.definition, isostep.rules()):
        domain = rule.hyper.get(base)
        default = REQUIRED if domain is None else _default(domain)
        if place and isinstance(default, tuple):
            index = int(place[:-1])
            default = default[index] if index < len(default) else REQUIRED
        if default is not REQUIRED:
            return default
    return REQUIRED


def _default(domain: Domain) -> Any:
    if not isinstance(domain, Pair):
        return domain.default
    parts = tuple(map(_default, domain.parts))
    return REQUIRED if REQUIRED in parts else parts


def _telling(name: str, default: Any, place: int) -> Any:
    """A number that shows; None where the default is left alone."""
    if name in ALWAYS:
        return ALWAYS[name]
    if name in ON and (default is None or _number(default)):
        return ON[name]
    if (
        isinstance(default, tuple | list)
        and default
        and all(_number(x) and 0.5 <= x < 1 for x in default)
    ):
        return type(default)(_near(x, place + i) for i, x in enumerate(default))
    return _near(default, place) if _number(default) and isinstance(default, float) else None


def _near(default: float, place: int) -> float:
    """Another number of the same kind: a decay, an epsilon, a factor; zero and one are choices, and stay."""
    if default in (0.0, 1.0) or not math.isfinite(default):
        return default
    if 0.5 <= default < 1:
        decays = _LONG if default > _LONG_FROM else _DECAYS
        return decays[place % len(decays)]
    if 0 < default <= 1e-5:
        return EPS * (1 + place / 8)
    return default * (1.07 + place / 64)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def numbers(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings, part by part (``betas[0]``): those given, and the defaults."""
    found: dict[str, Any] = {}
    for name, value in {**defaults, **settings}.items():
        if value is inspect.Parameter.empty:
            continue
        parts = enumerate(value) if isinstance(value, tuple | list) else ()
        found |= {f"{name}[{i}]": x for i, x in parts} or {name: value}
    return found
