"""The state of a run: what a rule remembers between steps, and the checks before one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from isostep.rule import BoundRule
from isostep.storage import PLAIN, Handling, Storage

#: The dtype in which a step is computed, by the parameter's dtype. Half precision computes in float32.
COMPUTE_DTYPE = {
    "float64": "float64",
    "float32": "float32",
    "bfloat16": "float32",
    "float16": "float32",
}


class StepError(ValueError):
    """Arrays that a step cannot take. Nothing has been changed when it is raised."""


@dataclass
class State:
    """What a rule remembers, for a list of parameters.

    ``t[i]`` counts the steps that parameter i has taken, ``arrays[i]`` are its state arrays by name, ``group``
    the 0-d values that the group shares, ``group_t`` the steps that the group has taken. ``rule`` is the name
    of the rule that made it; the arrays have the parameter's dtype, the group's values the compute dtype.
    """

    rule: str
    t: list[int]
    arrays: list[dict[str, Any]]
    group: dict[str, Any] = field(default_factory=dict)
    group_t: int = 0
    #: the parameters' keys in the order of ``arrays``, where they were a dict: names decide, not places
    keys: tuple[Any, ...] | None = field(default=None, compare=False, kw_only=True)
    plan: Any = field(default=None, repr=False, compare=False)  # a backend's own notes; never saved
    repeat: Any = field(default=None, repr=False, compare=False)  # likewise, of what is not fused
    figures: Any = field(default=None, repr=False, compare=False)  # of an observed rule's last step
    #: whoever made it answers for its arrays being those of the last step, and need not be checked again
    sealed: bool = field(default=False, repr=False, compare=False)
    #: how the arrays are kept, if not as rules see them, and the numbers that goes by
    storage: Storage = field(default=PLAIN, repr=False, compare=False)
    handling: Handling = field(default_factory=Handling, repr=False, compare=False)

    def after(
        self, t: list[int], arrays: list[dict[str, Any]], group: dict[str, Any], group_t: int
    ) -> State:
        """The state after a step that changes nothing in place."""
        new = State(self.rule, t, arrays, group, group_t)
        new.storage, new.handling, new.keys = self.storage, self.handling, self.keys
        return new

    def __getstate__(self) -> dict[str, Any]:
        # A plan knows where arrays lie in memory: in a copy, or in another process, that is wrong. So do figures.
        here = ("plan", "repeat", "figures", "sealed")
        return {n: v for n, v in self.__dict__.items() if n not in here}


def as_list(params: Any) -> list[Any]:
    """The parameters of a list, tuple or dict, in order."""
    if isinstance(params, Mapping):
        return list(params.values())
    if isinstance(params, Sequence) and not isinstance(params, str):
        return list(params)
    message = f"params must be a list, tuple or dict of arrays, got {type(params).__name__}"
    raise StepError(message)


def keyed(rule: BoundRule, params: Any, state: Any) -> Any:
    """A dict of parameters in the order of the state's arrays, whatever its own (``jax.jit`` sorts); a list as it is.

    Raises:
        StepError: the state is that of parameters with other names.
    """
    if not isinstance(state, State) or state.keys is None:
        return params
    check_rule(rule)
    return reordered(rule.name, params, state.keys, "make one with backend.init")


def reordered(owner: str, params: Any, keys: tuple[Any, ...] | None, hint: str) -> Any:
    """A dict of parameters in the order of a state's keys; a list, or for a state without keys, as it is."""
    if keys is None or not isinstance(params, Mapping) or tuple(params) == keys:
        return params
    if set(params) != set(keys):
        wanted, got = sorted(map(str, keys)), sorted(map(str, params))
        message = f"{owner}: state is for params with the keys {wanted}, got {got}; {hint}"
        raise StepError(message)
    return {key: params[key] for key in keys}


def arranged(params: Any, values: Sequence[Any]) -> Any:
    """Values in the order of ``params`` as the parameters are: a dict with their keys, a tuple or a list."""
    if isinstance(params, Mapping):
        return dict(zip(params, values, strict=True))
    return tuple(values) if isinstance(params, tuple) else list(values)


def labels(params: Any) -> list[str]:
    """What errors call each parameter."""
    if isinstance(params, Mapping):
        return [f"params[{k!r}]" for k in params]
    return [f"params[{i}]" for i in range(len(params))]


def aligned(rule: BoundRule, what: str, params: Any, values: Any) -> list[Any]:
    """``values`` (gradients, extra inputs) in the order of ``params``, keys and lengths checked."""
    if isinstance(params, Mapping):
        if not isinstance(values, Mapping) or set(values) - set(params):
            got = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            message = f"{rule.name}: {what} must be a dict with the keys of params, got {got}"
            raise StepError(message)
        return [values.get(k) for k in params]
    if isinstance(values, Mapping) or not isinstance(values, Sequence):
        message = f"{rule.name}: {what} must be a list like params, got {type(values).__name__}"
        raise StepError(message)
    if len(values) != len(params):
        message = f"{rule.name}: {what} must have one entry per parameter ({len(params)}), got {len(values)}"
        raise StepError(message)
    return list(values)


def check_rule(rule: Any) -> None:
    """A rule must be bound; the error says how."""
    if not isinstance(rule, BoundRule):
        message = f"expected a rule such as isostep.rule('adamw', lr=1e-3), got {rule!r}"
        raise StepError(message)


def check_state(rule: BoundRule, state: Any, count: int, names_too: bool = True) -> None:
    """A state must come from this rule and this many parameters.

    ``names_too``: look at the names of each parameter's arrays; a backend that knows the arrays need not.
    """
    if not isinstance(state, State):
        message = f"{rule.name}: state must come from backend.init(rule, params), got {type(state).__name__}"
        raise StepError(message)
    if state.rule != rule.name:
        message = f"{rule.name}: state belongs to {state.rule!r}; make one with backend.init(rule, params)"
        raise StepError(message)
    if len(state.t) != count or len(state.arrays) != count:
        message = f"{rule.name}: state is for {len(state.arrays)} parameters, got {count}"
        raise StepError(message)
    names, found = set(rule.state_names), list(map(tuple, state.arrays)) if names_too else []
    for own in set(found):  # a thousand parameters at a glance
        if set(own) - {*state.storage.extra} != names:
            message = (
                f"{rule.name}: state of params[{found.index(own)}] has {sorted(own)}, expected {sorted(names)}; "
                "a static hyperparameter has changed: make a new state"
            )
            raise StepError(message)
    if set(state.group) != set(rule.group_names):
        message = f"{rule.name}: group state has {sorted(state.group)}, expected {sorted(rule.group_names)}"
        raise StepError(message)


def check_inputs(rule: BoundRule, extra: Mapping[str, Any]) -> None:
    """Extra inputs are named exactly as the rule names them."""
    wanted = {*rule.input_names, *rule.group_input_names}
    for name in extra:
        if name not in wanted:
            known = ", ".join(sorted(wanted)) or "none"
            message = f"{rule.name} takes no input {name!r}; its extra inputs: {known}"
            raise StepError(message)
    for name in sorted(wanted - set(extra)):
        form = "0-d value" if name in rule.group_input_names else "[...]"
        message = (
            f"{rule.name} needs the input {name!r} beside the gradients: step(..., {name}={form})"
        )
        raise StepError(message)
    for name in rule.group_input_names:
        check_value(rule, name, extra[name])


def check_value(rule: BoundRule, what: str, value: Any) -> None:
    """A group's input is one real number: Python's, or an array without axes."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    shape = getattr(value, "shape", None)
    if not number and (shape is None or tuple(shape) != ()):
        got = type(value).__name__ if shape is None else f"shape {tuple(shape)}"
        message = f"{rule.name}: {what} must be a number or a 0-d array, got {got}"
        raise StepError(message)


def check_param(rule: BoundRule, label: str, dtype: str, shape: tuple[int, ...]) -> None:
    """A parameter must be floating and of a rank that the rule takes."""
    if dtype not in COMPUTE_DTYPE:
        message = f"{rule.name}: {label} must be one of {', '.join(COMPUTE_DTYPE)}, got {dtype}; cast it first"
        raise StepError(message)
    allowed = rule.rule.ndim
    if allowed is not None and len(shape) not in allowed:
        ranks = " or ".join(map(str, allowed))
        message = f"{rule.name}: {label} must have {ranks} axes, got shape {shape}; give it to another rule"
        raise StepError(message)


def check_like(
    rule: BoundRule,
    label: str,
    what: str,
    dtype: str,
    shape: tuple[int, ...],
    own: tuple[str, tuple[int, ...]],
) -> None:
    """A gradient or extra input must have its parameter's shape and dtype."""
    if shape != own[1]:
        message = f"{rule.name}: {what} of {label} must have shape {own[1]}, got {shape}"
        raise StepError(message)
    if dtype != own[0]:
        message = (
            f"{rule.name}: {what} of {label} must have dtype {own[0]}, got {dtype}; cast it first"
        )
        raise StepError(message)
