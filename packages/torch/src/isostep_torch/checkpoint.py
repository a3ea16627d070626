"""State dicts: what torch.optim looks for in ours, what one must be like to be loaded, how its arrays come in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch

from isostep import schedules
from isostep.blocks import FORMATS, SCALE
from isostep.rule import BoundRule
from isostep.schedules.recursion import Recursion
from isostep.state import StepError
from isostep_torch import foreign, paths, storage
from isostep_torch.loop import TorchLoop

#: Where a group keeps what its rule shares between parameters (a learned learning rate), if it does.
SHARED = "shared"
#: Where a state dict has a group's schedules.
SCHEDULES = "schedules"
#: What an array in blocks of eight bits has beside its bytes in a state dict.
SCALES = "scales"

#: What schedules of ours are made of: checkpoints of them are read with ``weights_only``.
_OURS: list[Any] = [*filter(is_dataclass, vars(schedules).values()), Recursion]
torch.serialization.add_safe_globals(_OURS)


def export(optimizer: Any, packed: dict[str, Any]) -> None:
    """Make torch's state dict one that torch.optim's classes can load, and that can be saved: a hook.

    Parameters at the same step share its count; those classes count in place. They look for what a group shares, and
    for a rule's ``derived`` numbers, with each parameter, and know no schedules. ``torch.load`` takes Python's numbers.

    An array in blocks is a dict of its form and its scales. Those classes would take the bytes for numbers: of a dict
    they say that it is no tensor. If a group's ``state_dtype`` has left blocks since its last step, so has the array.
    """
    state = {k: dict(v) if isinstance(v, dict) else v for k, v in packed["state"].items()}
    for own_group, group in zip(optimizer.param_groups, packed["param_groups"], strict=True):
        for key, p in zip(group["params"], own_group["params"], strict=True):
            if own := state.get(key):
                form = optimizer._forms.get(p, storage.kept(own_group).form)
                state[key] = _nested(own_group, p, own, form)
        owns = {key: own for key in group["params"] if (own := state.get(key))}
        found = {n: v for n, v in (group.get(SHARED) or {}).items() if n != "step"}
        shared = {  # users may have put numbers there
            n: v if isinstance(v, torch.Tensor) else torch.tensor(v, dtype=torch.float64)
            for n, v in found.items()
        }
        for key, own in owns.items():
            copied = {"step": own["step"]} | shared
            state[key] = own | {n: v.clone() for n, v in copied.items()}
        rule = optimizer.bound(own_group)
        for key, own in owns.items() if rule.rule.derived else ():
            coming = rule.derived(int(own["step"]) + 1)
            state[key] |= {
                n: torch.tensor(v, dtype=torch.float64, device="cpu") for n, v in coming.items()
            }
        if rule.scheduled:
            found = {n: _pure(v) for n, v in rule.values.items() if any(map(callable, _each(v)))}
            done = max((int(own["step"]) for own in owns.values()), default=0)
            group |= {n: v for n, v in rule.at(done + 1).items() if n in found}
            group[SCHEDULES] = {
                n: v if all(map(_plain, _each(v))) else None for n, v in found.items()
            }
        # arrays with axes that are no hyperparameters are what users keep there
        theirs = {n for n, v in group.items() if isinstance(v, np.ndarray) and v.ndim}
        kept = {SHARED} | theirs - {*rule.values}
        group |= {n: _pure(v) for n, v in group.items() if n not in kept}
    packed["state"] = state


def _nested(
    group: Mapping[str, Any], p: torch.Tensor, own: dict[str, Any], form: str | None
) -> dict[str, Any]:
    """A parameter's entry with arrays in blocks as dicts, or as numbers where the group now wants those."""
    names = [n for n in own if storage.is_packed(own, n)]
    found = {n: v for n, v in own.items() if n.removesuffix(SCALE) not in names or n in names}
    for n in names:
        if form is not None and form == group["state_dtype"]:
            found[n] = {form: own[n], SCALES: own[n + SCALE]}
        else:
            found[n] = storage.opened(own, n, form).to(storage.dtype_of_state(group, p))
    return found


def _flat(rule: str, group: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A saved entry as optimizers have it: arrays in blocks of the group's form, with their scales; others as numbers.

    Raises:
        ValueError: it has bytes of which it does not say the form, or which are another model's.
    """
    found: dict[str, Any] = {}
    for n, v in own.items():
        form = next((f for f in FORMATS if isinstance(v, Mapping) and f in v), None)
        if form is None:
            if storage.is_packed(own, n):
                message = (
                    f"{rule}: state {n} is of bytes, which mean nothing without their form; "
                    "save it with state_dict()"
                )
                raise ValueError(message)
            found[n] = v
            continue
        both = {n: v[form], n + SCALE: v.get(SCALES)}
        if not storage.is_packed(both, n):
            message = f"{rule}: state {n} in blocks must be a dict of uint8 tensors {form!r} and {SCALES!r}"
            raise ValueError(message)
        try:
            found |= both if form == group["state_dtype"] else {n: storage.opened(both, n, form)}
        except StepError as error:
            message = f"{rule}: {error}; it was saved for another model"
            raise ValueError(message) from None
    return found


def without_bytes(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict for torch to load, which would widen bytes to the parameter's dtype for nothing."""
    state = {}
    for key, own in saved["state"].items():
        state[key] = own
        if isinstance(own, Mapping):
            left = {n for n in own if storage.is_packed(own, n)}
            left |= {n + SCALE for n in left}
            state[key] = {n: v for n, v in own.items() if n not in left}
    return {**saved, "state": state}


def _pure(value: Any) -> Any:
    """NumPy's numbers as Python's, also in pairs and in schedules of ours."""
    if isinstance(value, np.ndarray):
        value = (*value.tolist(),) if value.ndim else value.item()
    if type(value) in (list, tuple):
        return type(value)(map(_pure, value))
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named one
        return type(value)(*map(_pure, value))
    if type(value) in _OURS and is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: _pure(getattr(value, f.name)) for f in fields(value) if f.init}
        return replace(value, **changed)
    return value.item() if isinstance(value, np.generic) else value


def _each(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _plain(value: Any) -> bool:
    """Whether it is a number or a schedule of ours, down to what it is made of."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    if type(value) in _OURS:
        return not is_dataclass(value) or all(_plain(getattr(value, f.name)) for f in fields(value))
    return value is None or isinstance(value, int | float | str)


def filled(
    template: BoundRule, kind: str, groups: list[dict[str, Any]], saved: Any
) -> dict[str, Any]:
    """A state dict whose groups have all options and hyperparameters: what torch.optim's lack is this optimizer's.

    Options are the state dict's but for blocks of eight bits: whether state is kept in those, and in which, is this
    optimizer's, and ``check`` and ``arrays_of`` find it so.

    ``kind`` is the name of the optimizer's class.
    """
    rule, wanted = template.name, ("state", "param_groups")
    if not (isinstance(saved, Mapping) and all(n in saved for n in wanted)):
        got = sorted(map(str, saved)) if isinstance(saved, Mapping) else type(saved).__name__
        message = f"{rule}: a state dict must be a dict with state and param_groups, got {got}"
        raise ValueError(message)
    every, state = [], dict(saved["state"])
    for group, other in zip(groups, saved["param_groups"], strict=False):
        own = {n: v for n, v in group.items() if n not in ("params", "param_names", "rule", SHARED)}
        known = {n: v for n, v in other.items() if n != SCHEDULES}
        foreign.check_owner(template, kind, other)
        for n, v in other.get(SCHEDULES, {}).items():
            kept = own[n] if any(map(callable, _each(own.get(n)))) else known[n]
            known[n] = kept if v is None else v
        merged = own | known
        if storage.in_blocks(own) or storage.in_blocks(merged):
            merged["state_dtype"] = own["state_dtype"]
        every.append(merged)
        for key in other["params"]:
            if isinstance(entry := state.get(key), Mapping):
                state[key] = _flat(rule, merged, entry)
    every += saved["param_groups"][len(every) :]
    return {**saved, "state": state, "param_groups": every}


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
        rule = paths.with_numbers(
            template, {n: paths.number(other[n], f"{rule.name}: {n}") for n in template.domains}
        )
        paths.check_options(rule.name, {**group, **other, "params": group["params"]})
        owns = [own for key in other["params"] if (own := saved["state"].get(key))]
        for own in owns:
            _check_count(rule, own)
        shared_of(rule, owns)
        foreign.check_shared(rule, owns, other.get(SHARED))
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
    if not 0 <= float(step) < math.inf:
        message = f"{rule.name}: step must be the number of steps done, >= 0, got {float(step):g}"
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
    for wrong in filter(None, (storage.bytes_alone(own, n) for n in rule.state_names)):
        message = f"{rule.name}: {wrong}, of parameter {place}; save it with state_dict()"
        raise ValueError(message)
    if {*rule.state_names} & own.keys():
        foreign.check_count(rule, tuple(p.shape), place, own)
    how = storage.kept(group, rule)
    names = (*rule.state_names, *storage.extra_names(how, p))
    shapes = {n: how.shape_of(n, tuple(p.shape)) for n in names}
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


def shared_of(
    rule: BoundRule, owns: list[Mapping[str, Any]], known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the group shares, where a state dict has it with each parameter (NAdam's product in torch.optim).

    Nothing if that is what the group is ``known`` to share: with other numbers there, torch.optim's class has gone on
    from a state dict of ours.
    """
    shared: dict[str, Any] = {}
    for n in rule.group_names:
        values = [own[n] for own in owns if n in own]
        if not values:
            return {}
        if not all(_equal(v, values[0]) for v in values):
            message = (
                f"{rule.name}: {n} differs between parameters of a group, which share it here; put "
                f"those that joined late into a group of their own"
            )
            raise ValueError(message)
        shared[n] = values[0].detach().clone()
    if known and all(_equal(known[n], v) for n, v in shared.items() if n in known):
        return {}
    return shared and {"step": int(max(own["step"] for own in owns)), **shared}


def _equal(a: Any, b: Any) -> bool:
    """Whether two numbers are one; a NaN, of a run that has diverged, is one with another."""
    return float(a) == float(b) or (float(a) != float(a) and float(b) != float(b))


def arrays_of(
    rule: BoundRule, group: Mapping[str, Any], p: torch.Tensor, own: Mapping[str, Any], place: int
) -> dict[str, torch.Tensor]:
    """Copies of the saved arrays of one parameter on its device, in the dtype that they are kept in, or in blocks.

    torch.optim casts all state to the parameter's dtype, which loses what state_dtype and master_weights are for.
    ``place``: the parameter's, among all, of the noise that what goes into blocks is rounded with.
    """
    how = storage.kept(group, rule)
    noise = (group["rounding_seed"], int(own.get("step") or 0), place)
    found = {}
    if (step := own.get("step")) is not None:
        # Where it lies, whatever torch's default device is. SparseAdam's is a number.
        there = step.device if isinstance(step, torch.Tensor) else "cpu"
        count = torch.as_tensor(step, dtype=torch.float32, device=there)
        found["step"] = count.detach().clone()  # capturable steps count in place
    for n in (*rule.state_names, *storage.extra_names(how, p)):
        value = own.get(n)
        if isinstance(value, torch.Tensor) and n in how.packed and value.dtype is not torch.uint8:
            found |= storage.packed(how, n, value.to(p.device), rule.state_names, noise)
        elif isinstance(value, torch.Tensor):
            dtype = storage.dtype_of_state(group, p)
            if n in how.packed or n in how.scales:
                dtype = torch.uint8
            elif n == storage.MASTER:
                dtype = torch.float32
            elif n == storage.LOST or value.is_complex():
                dtype = p.dtype
            found[n] = value.detach().to(device=p.device, dtype=dtype, copy=True)
    return found
