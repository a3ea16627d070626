"""The step within backward: each parameter is stepped as soon as its gradient is whole, and the gradient is freed.

Elsewhere this is called gradient release, or the optimizer in backward. Of all gradients only those exist that are on
their way, and a step has the very bits that it has after backward: rules are stepped alone that step each array alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch.nn.parameter import is_lazy

from isostep.lower.plan import same
from isostep.rule import BoundRule
from isostep.state import StepError
from isostep_torch.entries import Entries
from isostep_torch.kept import Kept
from isostep_torch.optimizer import Optimizer
from isostep_torch.sharded import distributed
from isostep_torch.stepping import Stepping, _full_precision


def step_in_backward(optimizer: Optimizer, *, reduced: bool = False) -> InBackward:
    """From now on ``backward()`` steps each parameter as soon as its gradient is whole, and sets it to None.

    State, groups and schedulers stay the optimizer's. ``optimizer.step()`` is called as before, and steps what has a
    gradient still: what was frozen or not yet there when hooks were last set, and what a pause has left.

    Args:
        optimizer: of a rule that steps each array alone.
        reduced: several processes run, and gradients of plain tensors are summed over them before they are accumulated
            (by hooks of your own), or need not be. DistributedDataParallel sums them later.

    Raises:
        StepError: the rule or an option needs all gradients at once, hooks are set already, or several processes run.
    """
    if not isinstance(optimizer, Optimizer):
        message = (
            f"step_in_backward takes an optimizer of isostep_torch, got {type(optimizer).__name__}; "
            "see list_optimizers()"
        )
        raise StepError(message)
    return InBackward(optimizer, reduced)


class InBackward:
    """What ``step_in_backward`` returns; ``remove()`` ends it, and so does leaving it as a context.

    It need not be kept: the hooks work for as long as the optimizer is there.
    """

    def __init__(self, optimizer: Optimizer, reduced: bool = False) -> None:
        self.optimizer = optimizer
        self._each = each = _Each(optimizer, reduced)
        each.check_all()
        each.set_hooks()
        self._before_step = optimizer.register_step_pre_hook(each.look)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within, backward steps nothing and gradients add up, for the next backward outside or for ``step()``."""
        self._each.pauses += 1
        try:
            yield
        finally:
            self._each.pauses -= 1

    def remove(self) -> None:
        """Step in backward no longer; ``optimizer.step()`` does it again."""
        self._before_step.remove()
        self._each.remove_hooks()

    def __enter__(self) -> InBackward:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class _Alone(dict[str, Any]):
    """A parameter group of one of its parameters: everything else is the group's."""

    __slots__ = ("group",)
    group: dict[str, Any]

    def __missing__(self, name: str) -> Any:
        return self.group[name]


class _Hook:
    """What autograd calls with a parameter. It must not keep alive what has it: Python would never see the cycle."""

    def __init__(self, each: _Each, p: torch.Tensor) -> None:
        self.each = ref(each)
        self.handle = p.register_post_accumulate_grad_hook(self)

    @torch._disable_dynamo  # as the optimizer's step
    def __call__(self, p: torch.Tensor) -> None:
        each = self.each()
        if each is None:
            self.handle.remove()
            message = "step_in_backward: the optimizer is gone and steps nothing more; keep it, or call remove() before"
            warnings.warn(message, stacklevel=2)
        elif p.grad is not None and not each.pauses:
            each.step_one(p)


class _Each(Stepping):
    """An optimizer whose groups have one parameter each; entries, places, locks and backends are the whole one's."""

    found_inf = grad_scale = None  # a scaler's, which it sets for ``step()`` only

    def __init__(self, whole: Optimizer, reduced: bool) -> None:
        self._whole, self.reduced = ref(whole), reduced
        self._kept = {}
        self.pauses = 0
        self.taken = False  # whether backward has stepped since the last call of step()
        self.hooks: dict[int, tuple[_Alone, _Hook]] = {}  # by id of the parameter
        self.groups: list[Any] = []  # as they were when the hooks were set
        self.places: dict[Any, int] | None = None  # since then
        self.latest: dict[int, Kept] = {}  # by id of the group, the last that was made here
        self.entries: Any = None

    @property
    def whole(self) -> Any:
        """The optimizer, which keeps this one alive."""
        return self._whole()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    # What can be stepped.

    def check_all(self) -> None:
        """Refuse an optimizer of which any parameter cannot be stepped alone."""
        for group in self.param_groups:
            self.check(self.whole.bound(group), group)
            for i, p in enumerate(group["params"]):
                # (A tensor that has no hooks yet has no dict of them, and a lazy one no attribute.)
                known = getattr(p, "_post_accumulate_grad_hooks", None) or {}
                ours = [hook for hook in known.values() if isinstance(hook, _Hook)]
                for hook in ours:
                    if hook.each() is None:
                        hook.handle.remove()
                if any(hook.each() is not None for hook in ours):
                    message = (
                        f"{self._template.name}: params[{i}] is stepped in backward already; "
                        "call remove() of that handle first"
                    )
                    raise StepError(message)
                self.check_whole(p, f"params[{i}]")

    def check(self, rule: BoundRule, group: dict[str, Any]) -> None:
        """Refuse what needs more than one parameter, or more than gradients."""
        inputs = (*rule.input_names, *rule.group_input_names)
        if inputs:
            why = f"this one needs {inputs[0]} beside the gradients"
        elif rule.reduces_group:
            why = "this one sums over the group"
        elif rule.group_names or rule.sequential:
            why = f"this one has state of the whole group ({', '.join(rule.group_names)})"
        elif rule.observed:
            why = "the figures of observe() are the group's, so close() the observer"
        elif group["differentiable"]:
            why = "differentiable needs the graph, which backward frees"
        else:
            return
        message = (
            f"{rule.name}: backward steps each array alone, and {why}; call step() after backward"
        )
        raise StepError(message)

    def check_whole(self, p: torch.Tensor, label: str) -> None:
        """Refuse a gradient of which other processes may have a part."""
        if self.reduced or distributed(p) or not torch.distributed.is_available():
            return
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            message = (
                f"{self._template.name}: {label} is a plain tensor and several processes run, whose gradients "
                "DistributedDataParallel sums after backward's step; use FSDP2, or reduced=True if that is done before"
            )
            raise StepError(message)

    # Hooks.

    def set_hooks(self) -> None:
        """For all parameters that are there and require a gradient, and for no others."""
        self.groups, self.places = list(self.param_groups), None
        gone = dict(self.hooks)
        for group in self.groups:
            for p in group["params"]:
                known = gone.pop(id(p), None)
                if known is not None:
                    known[0].group = group
                elif p.requires_grad and not is_lazy(p):
                    alone = _Alone(params=[p])
                    alone.group = group
                    self.hooks[id(p)] = alone, _Hook(self, p)
        for key, (alone, hook) in gone.items():
            hook.handle.remove()
            self._kept.pop(id(alone), None)
            del self.hooks[key]

    def remove_hooks(self) -> None:
        """Let go of all."""
        for _, hook in self.hooks.values():
            hook.handle.remove()
        self.hooks, self._kept, self.latest = {}, {}, {}

    @torch._disable_dynamo  # torch 2.11 goes into hooks, and writes to nothing there
    def look(self, optimizer: Any, *_: Any) -> None:
        """Before ``step()``: parameters may have been added, thawed or taken away."""
        taken, self.taken = self.taken, False
        if taken and getattr(optimizer, "found_inf", None) is not None:
            message = (
                f"{self._template.name}: a GradScaler needs all gradients before a step, and backward has stepped "
                "with scaled ones; use bfloat16 without a scaler, or call backward within the handle's paused()"
            )
            raise StepError(message)
        self.set_hooks()

    # A step.

    def step_one(self, p: torch.Tensor) -> None:
        """Step a parameter, whose gradient is whole, and free the gradient."""
        with self._turns, _full_precision(), torch.no_grad():
            if not same(self.groups, self.param_groups):  # a state dict was loaded
                self.set_hooks()
            if id(p) not in self.hooks:
                return
            alone, _ = self.hooks[id(p)]
            self._watched()
            ready = self._ready(alone, {})
            if ready is not None:
                self._step_group(alone, ready, {})
                self.taken = True
        p.grad = None

    def bound(self, group: dict[str, Any], traced: bool = False) -> BoundRule:
        assert isinstance(group, _Alone)
        rule: BoundRule = self.whole.bound(group.group, traced)
        self.check(rule, group)
        return rule

    def _watched(self) -> Entries:
        entries: Entries = self.whole._watched()
        if entries is not self.entries:  # a state dict was loaded
            self._kept, self.latest = {}, {}
            self.entries = entries
        return entries

    def _places(self) -> dict[Any, int]:
        if self.places is None:  # once for all parameters
            self.places = super()._places()
        return self.places

    def _rebuild(
        self,
        rule: BoundRule,
        group: dict[str, Any],
        params: list[Any],
        ways: tuple[Any, ...],
        cast: bool = False,
    ) -> Kept:
        assert isinstance(group, _Alone)
        self.check_whole(params[0], "a parameter")
        # Steps here and of the whole group begin with what the other has kept last: the options may be others now.
        whole, key = self.whole._kept, id(group.group)
        last = whole.get(key)
        if last is not None and last is not self.latest.get(key):
            known = (self.hooks[id(p)] for p in last.params if id(p) in self.hooks)
            self._kept |= {id(alone): last for alone, _ in known}
        kept = super()._rebuild(rule, group, params, ways, cast)
        whole[key] = self.latest[key] = kept
        return kept
