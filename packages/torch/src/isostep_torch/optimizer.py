"""Rules as ``torch.optim.Optimizer`` classes.

One class serves all rules: a subclass per rule (``isostep_torch.classes``) only carries its name, signature and
docstring. A parameter group holds the rule's hyperparameters under their own names, so schedulers and per-group
settings work as they do with torch.optim, and ``state[p]`` holds ``step`` and the rule's state arrays, so state
dicts are interchangeable.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch

from isostep import averaging, telemetry
from isostep.rule import BoundRule, Rule
from isostep.state import State
from isostep_torch import checkpoint, paths, storage
from isostep_torch.checkpoint import SHARED
from isostep_torch.loop import TorchLoop
from isostep_torch.observer import Observer
from isostep_torch.paths import OPTIONS, check_options
from isostep_torch.stepping import Stepping


class Optimizer(Stepping):
    """A rule, or a composition of pieces and a rule, as a torch optimizer.

    ``maximize`` ascends. ``fused`` and ``foreach`` ask for a path (True) or forbid it (False); with neither, CPU
    and CUDA tensors take the fused path and others foreach. ``capturable`` keeps step counts (and a learning rate that
    is a tensor) on the device and reads nothing from it, so that a CUDA graph can hold the step. ``differentiable``
    lets autograd through the step, to tensors given as hyperparameters too. For half-precision parameters:
    ``master_weights`` (a float32 copy is stepped), ``kahan`` (a second half-precision array keeps what the
    parameter cannot hold) or ``stochastic_rounding`` (of parameters and state, by ``rounding_seed``; see
    ``isostep.rounding``). ``state_dtype`` is the dtype of state arrays, else the parameter's. As ``"mxfp8_e4m3"`` or
    ``"mxfp8_e5m2"`` it keeps those that start as zeros (averages) in eight bits and a quarter: uint8 tensors, with the
    scales of blocks of 32 neighbours in another, ``exp_avg_scale`` (``isostep.blocks``). It may be set in mid-run, and
    a state dict is loaded into the blocks, or into none, that the optimizer has.

    Complex parameters are pairs of reals. A sparse gradient steps the rows that it names, if the rule works element
    by element.
    """

    definition: ClassVar[Rule | None] = None

    def __init__(self, params: Any, rule: BoundRule, **options: Any) -> None:
        """Take parameters (tensors, named tensors or groups) and a bound rule; ``options`` as in ``OPTIONS``."""
        self._start(params, rule, {}, options)

    def _start(
        self, params: Any, rule: BoundRule, given: dict[str, Any], options: dict[str, Any]
    ) -> None:
        """``given``: hyperparameters as the user wrote them, which groups keep (a tensor stays that tensor)."""
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            message = f"{rule.name}: unknown option {unknown[0]!r}; it has {', '.join(OPTIONS)}"
            raise TypeError(message)
        chosen = OPTIONS | options
        check_options(rule.name, chosen)
        self._template = rule
        self._forget()
        super().__init__(params, {**rule.values, **given, **chosen, "rule": rule.name})
        self._watched()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_template": self._template, "_forms": self._forms}

    def __setstate__(self, state: dict[str, Any]) -> None:
        loading = getattr(self, "_loading", None)
        self._forget()
        super().__setstate__(state)
        self._watched()
        for group in self.param_groups:  # torch.optim's state dicts lack what only we have
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        if loading is not None:
            self._take_arrays(loading)

    def _take_arrays(self, saved: Mapping[str, Any]) -> None:
        """The saved arrays again, from the state dict itself: torch has cast them to the parameter's dtype."""
        every = (p for group in self.param_groups for p in group["params"])
        places = {p: k for k, p in enumerate(every)}
        for group, other in zip(self.param_groups, saved["param_groups"], strict=True):
            rule = self.bound(group)
            pairs = zip(group["params"], other["params"], strict=True)
            owns = [(p, own) for p, key in pairs if (own := saved["state"].get(key))]
            for p, own in owns:
                taken = checkpoint.arrays_of(rule, group, p, own, places[p])
                self._forms.pop(p, None)
                if form := storage.kept(group).form:
                    self._forms[p] = form
                # What other settings use stays (SGD's buffer while its momentum is 0), as it does in torch.optim.
                stale = {*rule.group_names, *rule.rule.derived}
                kept = {n: v for n, v in self.state[p].items() if n not in stale | taken.keys()}
                self.state[p] = copy.deepcopy(kept) | taken
            if shared := checkpoint.shared_of(rule, [o for _, o in owns], group.get(SHARED)):
                group[SHARED] = shared

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its hyperparameters and options are checked at once."""
        super().add_param_group(param_group)
        try:
            if len({*map(id, param_group["params"])}) < len(param_group["params"]):
                message = (
                    f"{self._template.name}: a parameter stands twice in a group; list it once"
                )
                raise ValueError(message)
            # (A lazy module's parameters have a dtype, and no methods yet.)
            if any(p.dtype.is_complex and p.is_conj() for p in param_group["params"]):
                message = (
                    f"{self._template.name}: parameters must lie in memory as they are, got a conjugate view; "
                    "use p.resolve_conj()"
                )
                raise ValueError(message)
            rule = self.bound(param_group)
            check_options(self._template.name, param_group)
            storage.check_blocks(rule, param_group)
            storage.kept(param_group).of_rule(rule)
        except Exception:
            self.param_groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """As torch.optim's: ``state`` by number, with a step count of its own for each, and ``param_groups``.

        What the parameters of a group share stands in the group, and once more with each parameter, where
        torch.optim's classes look for it. A schedule stands in ``schedules``, and its next value under its own name; of
        a function of the user's only the latter, and who loads it keeps a function of his own.
        """
        for group in self.param_groups:
            if not group["capturable"] and (kept := self._kept.get(id(group))):
                kept.read_counts()
                kept.publish_counts()
        first = self.register_state_dict_post_hook(checkpoint.export, prepend=True)
        try:
            return super().state_dict()
        finally:
            first.remove()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this rule, ours or torch.optim's; an error leaves the optimizer as it was.

        Raises:
            ValueError: it was saved by another rule, or for parameters of other names or shapes. Hooks run first.
        """

        def look(_: Any, saved: dict[str, Any]) -> dict[str, Any]:
            whole = checkpoint.filled(self._template, type(self).__name__, self.param_groups, saved)
            checkpoint.check(self._template, self.param_groups, whole)
            self._loading = whole
            return checkpoint.without_bytes(whole)

        if not isinstance(state_dict, Mapping):
            look(self, state_dict)  # says what is wrong
        last = self.register_load_state_dict_pre_hook(look)
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
            self._loading = None

    def init_state(self) -> None:
        """Make the state of every trainable parameter, as else its first step does; nothing is stepped.

        ``torch.distributed.checkpoint`` makes state by a step with gradients and a learning rate of 0, which rules that
        need more than gradients or a rate above 0 refuse: call this before.
        """
        for group in self.param_groups:
            params = [p for p in group["params"] if p.requires_grad]
            if params:
                rule = self.bound(group, paths.traced(group))
                kept = self._rebuild(rule, group, params, paths.ways(group))
                if not group["capturable"]:
                    kept.publish_counts()

    def share_memory(self) -> None:
        """Move state and counts to shared memory, where processes step together; what is missing is made first."""
        self.init_state()
        for own in self.state.values():
            for value in own.values():
                if isinstance(value, torch.Tensor):
                    value.share_memory_()

    def observe(self, *, momentum: str | None = None) -> Observer:
        """From the next step on, figures of every step, by the pass that takes it; see ``isostep.telemetry``.

        Args:
            momentum: the state that is compared with the gradient, see ``isostep.observe``.

        Raises:
            RuleError: the rule has no such state.
        """
        observed = telemetry.observe(self.bound(self.param_groups[0]), momentum=momentum)
        self._bound, self._observed = {}, observed.observed
        return Observer(self)

    def _stop_observing(self) -> None:
        self._bound, self._observed = {}, False

    def _figures_of(self, group: dict[str, Any]) -> Any:
        """The figures of a group's last step, for all parameters of the group."""
        known = self._kept.get(id(group))
        if known is None or known.state.figures is None:
            return None
        places = {id(p): i for i, p in enumerate(group["params"])}
        every = [storage.real(p.detach()) for p in group["params"]]
        return known.state.figures.spread([places[id(p)] for p in known.params], every)

    @contextmanager
    def evaluating(self, keep: Sequence[torch.Tensor] = ()) -> Iterator[None]:
        """Within the context the parameters are those to evaluate with; after it they are what they were, to the bit.

        They differ for rules that train at other points (schedule-free, ASGD). What is in the context may raise, and
        write to parameters: they are put back. ``keep`` are further tensors to be put back, such as the running
        statistics of a batch norm, which ``torch.optim.swa_utils.update_bn`` makes anew within.
        """
        backend = TorchLoop()
        with ExitStack() as stack:
            for group in self.param_groups:
                params = [p for p in group["params"] if "step" in self.state.get(p, {})]
                rule = self.bound(group)
                owns = [self.state[p] for p in params]
                wide = [
                    storage.real(own.get(storage.MASTER, p.detach()))
                    for p, own in zip(params, owns, strict=True)
                ]
                forms = [self._forms.get(p, storage.kept(group).form) for p in params]
                arrays = [
                    {
                        n: storage.real(storage.opened(own, n, form)).to(w.dtype)
                        for n in rule.state_names
                    }
                    for own, w, form in zip(owns, wide, forms, strict=True)
                ]
                shared = {n: v for n, v in (group.get(SHARED) or {}).items() if n != "step"}
                state = State(rule.name, [int(own["step"]) for own in owns], arrays, shared)
                if params:
                    points = backend.evaluation_point(rule, wide, state)
                    targets = [storage.real(p.detach()) for p in params]
                    stack.enter_context(averaging.swapped_in(backend, targets, points))
            stack.enter_context(averaging.swapped_in(backend, keep, keep))
            yield

    # One step.

    @torch._disable_dynamo  # as torch does with an optimizer's state: a compiled loop breaks its graph here
    def step(self, closure: Callable[[], Any] | None = None, **inputs: Any) -> Any:
        """One step; ``closure`` recomputes the loss, which is returned.

        A rule that needs more than gradients takes it by name, a dict from parameters:
        ``step(hessian_diag={p: ...})``. One that needs the loss takes the closure's, or ``step(loss=...)``.
        """
        loss = None
        if closure is not None and not callable(closure):
            message = f"{self._template.name}: step takes a closure that computes the loss, got {closure!r}"
            raise TypeError(message)
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            if "loss" in self._template.group_input_names:
                inputs.setdefault("loss", loss)
        self._step_all(inputs)
        return loss

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether ``GradScaler`` may leave unscaling and skipping to the step, where they cost no synchronisation."""
        everything = (p.device.type == "cpu" for g in self.param_groups for p in g["params"])
        return all(g["capturable"] for g in self.param_groups) or all(everything)

    @property
    def path(self) -> str:
        """Which path each group takes and why, one line a group."""
        lines = []
        for g in self.param_groups:
            rule, params = self.bound(g), g["params"]
            reached = storage.shards(rule, params) or params
            name, reason = self._path_of(rule, g, reached), paths.why(g, reached)
            lines.append(f"{name}: {reason}; {paths.make(name, g).path(rule)}")
        return "\n".join(lines)
