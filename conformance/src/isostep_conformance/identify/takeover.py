"""Going on with another library's run: its rule, its settings and its state in an optimizer of ours.

What is found out by steps is the rule, which of the optimizer's settings are the rule's, and which of its arrays; that
the run goes on as it would have is then seen on copies of the very optimizer, from where it stands.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from isostep.rule import BoundRule
from isostep_conformance.identify import settings
from isostep_conformance.identify.answer import ROUNDED, Answer
from isostep_conformance.identify.search import identify
from isostep_conformance.identify.states import STEP, Match
from isostep_conformance.identify.targets import (
    Target,
    TargetError,
    in_a_line,
    target,
    torch_state,
)

#: Steps that both take on copies before one replaces the other.
PROOF = 8


def taken_over(optimizer: Any, *, rule: str | None = None, steps: int | None = None) -> Any:
    """An ``isostep_torch`` optimizer that goes on where this one stands, with the same parameters and groups.

    Its state is moved, not shared; the old optimizer must not be stepped any more. Both take eight steps on copies in
    float64 first, for which there must be memory. Schedulers go on with ``scheduler.optimizer = new``.

    Args:
        optimizer: one that steps by gradients alone, of any library, and keeps its state as torch.optim's do.
        rule: ask about this rule alone, which is a matter of a second.
        steps: how many it has taken, where it does not count them and its rule goes by them.

    Raises:
        TargetError: no rule here takes its steps, part of the rule's state is not in the optimizer's, or copies part.
        RuleError: there is no such rule.
    """
    if not (hasattr(optimizer, "param_groups") and hasattr(optimizer, "state")):
        kind = type(optimizer).__name__
        message = f"taken_over needs an optimizer with param_groups and state, as torch.optim's have, got {kind}"
        raise TargetError(message)
    unknown = target(type(optimizer), "torch")
    answer = known(unknown, _given(unknown, optimizer, optimizer.param_groups[0]), rule)
    one, other = _double(optimizer), _double(optimizer)
    _go_on_alike(one, _moved(other, unknown, answer, steps), unknown.label)
    return _moved(optimizer, unknown, answer, steps)


def known(unknown: Target, given: Mapping[str, Any], rule: str | None) -> Answer:
    """Which rule takes the steps of an optimizer with these settings, and where it keeps what.

    Of the settings those count that make it the optimizer it is: None, and those for which no number tells more.

    Raises:
        TargetError: no rule here does.
    """
    telling = settings.chosen(unknown.defaults, {})
    choices = {
        n: v
        for n, v in given.items()
        if n not in telling or v is None or (telling[n] == unknown.defaults[n] and v != telling[n])
    }
    answer = identify(unknown, choices, rule=rule, slips_at_most=0, with_state=True)
    if answer.verdict == "none":
        alike = choices | _alike(given, telling)
        answer = identify(unknown, alike, rule=rule, slips_at_most=0, with_state=True)
    if not (answer.same or answer.rounded):
        near = ", ".join(f.rule.name for f in answer.nearest[:1])
        message = f"{unknown.label} takes the steps of no rule here (nearest: {near}); isostep-identify tells more"
        raise TargetError(message)
    return answer


def _given(unknown: Target, optimizer: Any, group: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a group, under the names of the class's arguments; those that nothing tells are the defaults."""
    found = {n: group.get(n, getattr(optimizer, n, d)) for n, d in unknown.defaults.items()}
    return {n: _value(v) for n, v in found.items() if v is not inspect.Parameter.empty}


def _value(value: Any) -> Any:
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def _alike(given: Mapping[str, Any], telling: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers for settings that are one number (AdaBelief's two epsilons, which its authors know as one)."""
    numbers = {v: telling[n] for n, v in given.items() if n in telling and _is_number(v)}
    return {n: numbers[v] for n, v in given.items() if _is_number(v) and v in numbers}


def _is_number(value: Any) -> bool:
    """One that says something: what is zero is off."""
    return isinstance(value, float) and value != 0


def rule_of(unknown: Target, answer: Answer, given: Mapping[str, Any]) -> BoundRule:
    """The rule that was found, with these settings in the place of those that it was found with."""
    found = (answer.same or answer.rounded)[0].rule
    told = settings.numbers(unknown.defaults, answer.settings)
    now = settings.numbers(unknown.defaults, given)

    def meant(name: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(meant(f"{name}[{i}]", x) for i, x in enumerate(value))
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        names = [n for n, x in told.items() if type(x) is type(value) and x == value]
        own = [n for n in names if settings.plain(n, told) == name.rpartition(".")[2]]
        if own or len(names) == 1:
            return now.get((own or names)[0], value)
        return value

    return found.replace(**{n: meant(n, v) for n, v in found.values.items()})


def _moved(optimizer: Any, unknown: Target, answer: Answer, steps: int | None) -> Any:
    """An optimizer of ours on the same parameters, with the same settings and state."""
    import isostep_torch

    groups = optimizer.param_groups
    rules = [rule_of(unknown, answer, _given(unknown, optimizer, g)) for g in groups]
    kept = [{n: g[n] for n in ("params", "initial_lr") if n in g} for g in groups]
    new = isostep_torch.from_rule(
        rules[0], [dict(k) | dict(r.values) for k, r in zip(kept, rules, strict=True)]
    )
    packed = new.state_dict()
    entries: list[dict[str, Any]] = []
    for place, (group, rule) in enumerate(zip(groups, rules, strict=True)):
        found = torch_state(optimizer, group["params"], place)
        own = [_entry(p, i, rule, answer, found, steps) for i, p in enumerate(group["params"])]
        if any(own) and rule.group_names:
            first = next(filter(None, own))
            packed["param_groups"][place]["shared"] = {
                n: first[n] for n in (STEP, *rule.group_names)
            }
        entries += [{n: v for n, v in e.items() if n not in rule.group_names} for e in own]
    packed["state"] = {i: e for i, e in enumerate(entries) if e}
    new.load_state_dict(packed)
    return new


def _entry(
    parameter: Any,
    index: int,
    rule: BoundRule,
    answer: Answer,
    found: Mapping[str, Sequence[Any]],
    steps: int | None,
) -> dict[str, Any]:
    """A parameter's entry; none before its first step."""
    import torch

    own = {n: values[index] for n, values in found.items()}
    if not any(n.startswith("state[p]") and v is not None for n, v in own.items()):
        return {}
    entry = {}
    for match in answer.state:
        if match.name == STEP:
            count = own.get(match.where) if steps is None else steps
            # Not counted: past the first step. Whether more than that matters, the copies show.
            entry[STEP] = torch.tensor(float(1 if count is None else count))
        elif match.name in (*rule.state_names, *rule.group_names):
            check_kept(rule, match, answer.label)
            value = own.get(match.where)
            if value is None:  # an array that has no such part
                continue
            value = torch.as_tensor(value).detach().clone()
            same = value.numel() == parameter.numel() and match.name in rule.state_names
            entry[match.name] = value.reshape(parameter.shape) if same else value
    return entry


def check_kept(rule: BoundRule, match: Match, label: str) -> None:
    """An array of the rule's must be one that the optimizer keeps, as it is.

    Raises:
        TargetError: it is nowhere, or only by a factor.
    """
    if not match.where or match.factor != 1:
        has = "only by a factor" if match.where else "not"
        message = f"{rule.name}: its {match.name!r} is {has} in the state of {label}"
        raise TargetError(message)


def _double(optimizer: Any) -> Any:
    """A copy, parameters and all, in float64."""
    import torch

    def wide(value: Any) -> Any:
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.double() if floating else value

    known: dict[int, Any] = {}
    made = copy.deepcopy(optimizer, known)
    for n in vars(optimizer).keys() - vars(made).keys():  # torch's copies lack what is no state
        setattr(made, n, copy.deepcopy(vars(optimizer)[n], known))
    for group in made.param_groups:
        for p in group["params"]:
            p.data = wide(p.data)
            entries = made.state.get(p, {})
            entries.update({n: wide(v) for n, v in entries.items()})
    return made


def _go_on_alike(old: Any, new: Any, label: str) -> None:
    """Both take the same steps from here, or an error says by how much they part."""
    import torch

    def parameters(optimizer: Any) -> list[Any]:
        return [p for g in optimizer.param_groups for p in g["params"]]

    draw = torch.Generator().manual_seed(0)
    for k in range(1, PROOF + 1):
        before = [p.detach().clone() for p in parameters(old)]
        for p, q in zip(parameters(old), parameters(new), strict=True):
            p.grad = torch.randn(p.shape, generator=draw, dtype=torch.float64).to(p.device)
            q.grad = p.grad.clone()
        try:
            old.step()
        except Exception as error:  # of somebody else's code: any
            message = f"{label}: a copy of it in float64 does not step: {in_a_line(error)}"
            raise TargetError(message) from error
        new.step()
        for start, p, q in zip(before, parameters(old), parameters(new), strict=True):
            with torch.no_grad():
                size = max(float((p - start).norm()), float((q - start).norm()))
                off = float((p - q).norm())
            if not off <= ROUNDED * k * size:
                ours = new.param_groups[0]["rule"]
                message = (
                    f"{label}: from here on it parts from {ours} in step {k}, by {off / size:.1e} of the step; where "
                    "it does not count its steps, say how many it has taken (steps=)"
                )
                raise TargetError(message)
