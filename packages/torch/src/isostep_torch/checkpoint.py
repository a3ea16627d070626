"""What a state dict must be like to be loaded, and how its arrays come in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from isostep.rule import BoundRule
from isostep_torch import paths, storage
from isostep_torch.loop import TorchLoop


def filled(groups: list[dict[str, Any]], saved: dict[str, Any]) -> dict[str, Any]:
    """A state dict whose groups have all options and hyperparameters: what torch.optim's lack is this optimizer's."""
    every = [
        {n: v for n, v in group.items() if n not in ("params", "param_names", "rule", "shared")}
        | other
        for group, other in zip(groups, saved["param_groups"], strict=False)
    ]
    every += saved["param_groups"][len(every) :]
    return {**saved, "param_groups": every}


def check(template: BoundRule, groups: list[dict[str, Any]], saved: Mapping[str, Any]) -> None:
    """A state dict must be of this rule (torch.optim's do not say), these parameters, shapes and allowed settings."""
    rules = []
    for group, other in zip(groups, saved["param_groups"], strict=False):
        rule = template
        if other.get("rule", rule.name) != rule.name:
            message = f"{rule.name}: the state dict was saved by {other['rule']!r}; load it with that rule"
            raise ValueError(message)
        names, others = group.get("param_names"), other.get("param_names")
        if names and others and list(names) != list(others):
            mine, theirs = next(
                (a, b) for a, b in zip([*names, None], [*others, None], strict=False) if a != b
            )
            message = (
                f"{rule.name}: the state dict has parameter {theirs!r} where this optimizer has {mine!r}; "
                f"reorder it in a load_state_dict pre-hook"
            )
            raise ValueError(message)
        rule = template.replace(**{n: paths.number(other[n]) for n in template.domains})
        paths.check_options(rule.name, {**group, **other, "params": group["params"]})
        owns = [own for key in other["params"] if (own := saved["state"].get(key))]
        for own in owns:
            _check_count(rule, own)
        shared_of(rule, owns)
        rules.append(rule)
    params = [
        (other, p)
        for g, other in zip(groups, saved["param_groups"], strict=False)
        for p in g["params"]
    ]
    bound = [r for r, g in zip(rules, groups, strict=False) for _ in g["params"]]
    keys = [key for group in saved["param_groups"] for key in group["params"]]
    for place, (key, (group, p), rule) in enumerate(zip(keys, params, bound, strict=False)):
        own = saved["state"].get(key)
        if own:
            _check_one(rule, group, p, place, own)


def _check_count(rule: BoundRule, own: Mapping[str, Any]) -> None:
    step = own.get("step", 0)
    number = isinstance(step, int | float) or (isinstance(step, torch.Tensor) and step.ndim == 0)
    if not number:
        message = f"{rule.name}: step must be a number or a 0-d tensor, got {step!r}"
        raise ValueError(message)


def _check_one(
    rule: BoundRule, group: Mapping[str, Any], p: torch.Tensor, place: int, own: Mapping[str, Any]
) -> None:
    free = {n for c in rule.components if c.part.init is not None for n in rule.state_of(c)}
    missing = set(rule.state_names) - free - set(own)
    if missing:
        message = (
            f"{rule.name}: state of parameter {place} has {sorted(set(own) - {'step'})}, "
            f"expected {sorted(rule.state_names)}; it was saved by another rule or setting"
        )
        raise ValueError(message)
    names = (*rule.state_names, *storage.extra_names(group, p))
    shapes = {n: tuple(p.shape) for n in names}
    if free or p.is_complex():
        made = storage.make_state(rule, group, p, TorchLoop())
        shapes |= {n: tuple(a.shape) for n, a in made.items()}
    for n, shape in shapes.items():
        got = own.get(n)
        if got is not None and not isinstance(got, torch.Tensor):
            message = f"{rule.name}: state {n} of parameter {place} must be a tensor, got {type(got).__name__}"
            raise ValueError(message)
        if got is not None and tuple(got.shape) != shape:
            message = (
                f"{rule.name}: state {n} of parameter {place} has shape {tuple(got.shape)}, expected "
                f"{shape}; it was saved for another model"
            )
            raise ValueError(message)


def shared_of(rule: BoundRule, owns: list[Mapping[str, Any]]) -> dict[str, Any]:
    """What the group shares, where a state dict has it with each parameter (NAdam's product in torch.optim)."""
    shared: dict[str, Any] = {}
    for n in rule.group_names:
        values = [own[n] for own in owns if n in own]
        if not values:
            return {}
        if any(float(v) != float(values[0]) for v in values):
            message = (
                f"{rule.name}: {n} differs between parameters of a group, which share it here; put "
                f"those that joined late into a group of their own"
            )
            raise ValueError(message)
        shared[n] = values[0].detach().clone()
    return shared and {"step": int(max(own["step"] for own in owns)), **shared}


def arrays_of(
    group: Mapping[str, Any], p: torch.Tensor, names: tuple[str, ...], own: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Copies of the saved arrays of one parameter on its device, in the dtype that they are kept in.

    torch.optim casts all state to the parameter's dtype, which loses what state_dtype and master_weights are for.
    """
    found = {}
    if (
        step := own.get("step")
    ) is not None:  # capturable steps count in place; SparseAdam's is a number
        found["step"] = torch.as_tensor(step, dtype=torch.float32).detach().clone()
    for n in (*names, *storage.extra_names(group, p)):
        value = own.get(n)
        if isinstance(value, torch.Tensor):
            dtype = storage.dtype_of_state(group, p)
            if n == storage.MASTER:
                dtype = torch.float32
            elif n == storage.LOST or value.is_complex():
                dtype = p.dtype
            found[n] = value.detach().to(device=p.device, dtype=dtype, copy=True)
    return found
