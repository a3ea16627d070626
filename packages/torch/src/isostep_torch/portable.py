"""An optimizer's run in the form of every backend: a rule, parameters and state, out of an optimizer and into one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

import isostep
from isostep.blocks import SCALE
from isostep.rule import BoundRule
from isostep.state import State, StepError, as_list, check_state, reordered
from isostep.storage import Handling
from isostep_torch import paths, sharded
from isostep_torch.checkpoint import SCALES, SHARED
from isostep_torch.optimizer import Optimizer


def to_portable(optimizer: Optimizer, group: int = 0) -> tuple[BoundRule, Any, State]:
    """``(rule, params, state)`` of one parameter group, copies that nothing changes: what ``isostep.save`` writes.

    Any backend goes on with them (``isostep.move``), a transformation of JAX by ``isostep_jax.from_portable``, an
    optimizer by ``from_portable``. ``params`` is a dict where the group's parameters have names, else a list, of those
    that require a gradient. The rule has the group's hyperparameters as they are now; ``maximize`` is not the rule's.

    Raises:
        StepError: parameters are complex, or lie on several processes.
        IndexError: there is no such group.
    """
    own = _group(optimizer, group)
    params = _trainable(optimizer, own)
    rule = optimizer.bound(own)
    kept = optimizer._rebuild(optimizer.bound(own, paths.traced(own)), own, params, paths.ways(own))
    arrays = [{n: a.detach().clone() for n, a in each.items()} for each in kept.state.arrays]
    shared = {n: v.detach().clone() for n, v in kept.state.group.items()}
    state = State(rule.name, list(map(int, kept.state.t)), arrays, shared, int(kept.state.group_t))
    state.storage = kept.how
    state.handling = Handling(seed=own["rounding_seed"], places=list(kept.state.handling.places))
    copies = [p.detach().clone() for p in params]
    if not own.get("param_names"):
        return rule, copies, state
    state.keys = tuple(_named(own))
    return rule, dict(zip(state.keys, copies, strict=True)), state


def from_portable(
    optimizer: Optimizer, state: State, params: Any = None, *, group: int = 0
) -> None:
    """Go on with a run: a state of any backend, or of another optimizer, becomes that of a parameter group.

    What the group's options keep otherwise (``state_dtype``) is kept so; the hyperparameters stay the group's.

    Args:
        state: what ``to_portable``, ``isostep.load`` or ``backend.step`` gave, for as many parameters as the group has,
            in their order; where both have names, by name.
        params: the values that belong to it, which are copied into the group's parameters; by default these stay.

    Raises:
        StepError: the state is another rule's, or for other parameters. The optimizer is as it was.
        IndexError: there is no such group.
    """
    own = _group(optimizer, group)
    targets = _trainable(optimizer, own)
    rule = optimizer.bound(own)
    check_state(rule, state, len(targets))
    if own.get("param_names") and state.keys:
        named = reordered(rule.name, _named(own), state.keys, "name the group's parameters alike")
        targets = list(named.values())
    given = [p.detach() for p in targets] if params is None else params
    moved, state = isostep.move(rule, given, state, "torch:loop")
    values = as_list(moved)
    for i, (p, value) in enumerate(zip(targets, values, strict=True)):
        if p.shape != value.shape:
            message = f"{rule.name}: params[{i}] has shape {tuple(value.shape)}, the group's {tuple(p.shape)}"
            raise StepError(message)
    saved = optimizer.state_dict()
    numbers = dict(zip(own["params"], saved["param_groups"][group]["params"], strict=True))
    form = state.storage.form
    for p, t, arrays in zip(targets, state.t, state.arrays, strict=True):
        plain = {n: a for n, a in arrays.items() if n not in state.storage.scales}
        for n in state.storage.packed:
            plain[n] = {form: plain[n], SCALES: arrays[n + SCALE]}
        saved["state"][numbers[p]] = {"step": torch.tensor(float(t)), **plain}
    if state.group:
        saved["param_groups"][group][SHARED] = {"step": state.group_t, **state.group}
    optimizer.load_state_dict(saved)
    if params is not None:
        with torch.no_grad():
            for p, value in zip(targets, values, strict=True):
                p.copy_(value)


def _group(optimizer: Any, k: int) -> dict[str, Any]:
    if not isinstance(optimizer, Optimizer):
        message = f"expected an optimizer of isostep_torch, got {type(optimizer).__name__}"
        raise StepError(message)
    groups = optimizer.param_groups
    if not 0 <= k < len(groups):
        message = f"{optimizer._template.name}: there are the groups 0 to {len(groups) - 1}, got group={k}"
        raise IndexError(message)
    found: dict[str, Any] = groups[k]
    return found


def _named(group: Mapping[str, Any]) -> dict[str, Any]:
    pairs = zip(group["param_names"], group["params"], strict=True)
    return {n: p for n, p in pairs if p.requires_grad}


def _trainable(optimizer: Optimizer, group: Mapping[str, Any]) -> list[Any]:
    params = [p for p in group["params"] if p.requires_grad]
    for i, p in enumerate(params):
        for odd, what in ((p.is_complex(), "complex"), (sharded.distributed(p), "a DTensor")):
            if odd:
                message = (
                    f"{optimizer._template.name}: params[{i}] is {what}, which other backends do not take; "
                    "use state_dict()"
                )
                raise StepError(message)
    return params
