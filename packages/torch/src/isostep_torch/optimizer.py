"""Rules as ``torch.optim.Optimizer`` classes.

One class serves all rules: a subclass per rule only carries its name, signature and docstring. A parameter group
holds the rule's hyperparameters under their own names, so schedulers and per-group settings work as they do with
torch.optim, and ``state[p]`` holds ``step`` and the rule's state arrays, so state dicts are interchangeable.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch

import isostep
from isostep.rule import BoundRule, Rule
from isostep.state import State, StepError
from isostep_torch.foreach import TorchForeach
from isostep_torch.loop import TorchLoop

#: Options that every class has, beside its rule's hyperparameters: name -> default.
OPTIONS: dict[str, Any] = {
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
}
#: Where a group keeps what its rule shares between parameters (a learned learning rate), if it does.
SHARED = "shared"


class Optimizer(torch.optim.Optimizer):
    """A rule, or a composition of pieces and a rule, as a torch optimizer.

    ``maximize`` ascends. ``fused`` and ``foreach`` ask for a path (True) or forbid it (False); with neither,
    CPU tensors take the fused path and others foreach. ``capturable`` and ``differentiable`` are not offered yet.
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
        _check_options(rule.name, chosen)
        self._template = rule
        self._forget()
        super().__init__(params, {**rule.values, **given, **chosen})

    def _forget(self) -> None:
        """Drop what is only a shortcut: bound rules and states by group, backends by name."""
        self._bound: dict[int, tuple[tuple[Any, ...], BoundRule]] = {}
        self._states: dict[int, tuple[list[Any], State, tuple[str, ...]]] = {}
        self._steps: dict[
            Any, torch.Tensor
        ] = {}  # the step counts as this optimizer published them
        self._backends: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_template": self._template}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()
        super().__setstate__(state)
        for (
            group
        ) in self.param_groups:  # a state dict of torch.optim's class lacks what only we have
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its hyperparameters are checked at once."""
        super().add_param_group(param_group)
        try:
            self._rule_of(param_group)
            _check_options(self._template.name, param_group)
        except Exception:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this rule, ours or torch.optim's; an error leaves the optimizer as it was."""
        shapes = [tuple(p.shape) for g in self.param_groups for p in g["params"]]
        free = {
            n
            for c in self._template.components
            if c.part.init is not None
            for n in self._template.state_of(c)
        }
        wanted = set(self._template.state_names)
        order = [i for g in state_dict["param_groups"] for i in g["params"]]
        for place, key in enumerate(order):
            own = state_dict["state"].get(key)
            if not own or place >= len(shapes):
                continue
            missing = wanted - free - set(own)
            if missing:
                message = (
                    f"{self._template.name}: state of parameter {place} has {sorted(set(own) - {'step'})}, "
                    f"expected {sorted(wanted)}; it was saved by another rule or setting"
                )
                raise ValueError(message)
            for n in wanted - free:
                shape = tuple(own[n].shape)
                if shape != shapes[place]:
                    message = (
                        f"{self._template.name}: state {n} of parameter {place} has shape {shape}, expected "
                        f"{shapes[place]}; it was saved for another model"
                    )
                    raise ValueError(message)
        super().load_state_dict(state_dict)

    # One step.

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, **inputs: Mapping[Any, Any]) -> Any:
        """One step; ``closure`` recomputes the loss, which is returned.

        A rule that needs more than gradients takes it by name, a dict from parameters:
        ``step(hessian_diag={p: ...})``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group, inputs)
        return loss

    def _step_group(self, group: dict[str, Any], inputs: Mapping[str, Mapping[Any, Any]]) -> None:
        rule = self._rule_of(group)
        params = [
            p for p in group["params"] if p.grad is not None or "step" in self.state.get(p, {})
        ]
        grads = [p.grad for p in params]
        if not any(g is not None for g in grads):
            return
        for g in grads:
            if g is not None and g.is_sparse:
                message = f"{rule.name}: sparse gradients are not taken yet; use sparse=False"
                raise StepError(message)
        if group["maximize"]:
            grads = [None if g is None else -g for g in grads]
        backend = self._backend_of(group, params)
        state = self._state_of(rule, group, params, backend)
        given = {n: [v.get(p) for p in params] for n, v in inputs.items()}
        backend.step(rule, params, grads, state, **given)
        self._publish(group, params, grads, state)

    def _rule_of(self, group: dict[str, Any]) -> BoundRule:
        """The rule with this group's hyperparameters, which schedulers change from step to step."""
        values = tuple(
            v.item() if isinstance(v := group[n], torch.Tensor) else v
            for n in self._template.domains
        )
        known = self._bound.get(id(group))
        if known is None or known[0] != values:
            bound = self._template.replace(**dict(zip(self._template.domains, values, strict=True)))
            known = self._bound[id(group)] = (values, bound)
        return known[1]

    def _state_of(
        self, rule: BoundRule, group: dict[str, Any], params: list[Any], backend: Any
    ) -> State:
        """The group's state as backends take it; kept while parameters and ``self.state`` are what it left."""
        known = self._states.get(id(group))
        if known is None or len(known[0]) != len(params) or rule.state_names != known[2]:
            return self._rebuild_state(rule, group, params, backend)
        before, state, names = known
        for p, was, arrays in zip(params, before, state.arrays, strict=True):
            own = self.state[p]
            if p is not was or own.get("step") is not self._steps.get(p):
                return self._rebuild_state(rule, group, params, backend)
            if any(own.get(n) is not arrays[n] for n in names):
                return self._rebuild_state(rule, group, params, backend)
        return state

    def _rebuild_state(
        self, rule: BoundRule, group: dict[str, Any], params: list[Any], backend: Any
    ) -> State:
        arrays, counts = [], []
        for p in params:
            own = self.state[p]
            if any(own.get(n) is None for n in ("step", *rule.state_names)):
                # A parameter's first step; or torch.optim's state, which may lack a count (SGD) or an array.
                found = {n: v for n, v in own.items() if v is not None}
                fresh = {
                    **backend.init(rule, [p]).arrays[0],
                    "step": torch.tensor(float(bool(found))),
                }
                own.update(fresh | found)
            arrays.append({n: own[n] for n in rule.state_names})
            counts.append(int(own["step"]))
        if SHARED not in group and rule.group_names:
            group[SHARED] = {"step": 0, **backend.init(rule, params).group}
        shared = dict(group.get(SHARED, {"step": max(counts)}))
        state = State(rule.name, counts, arrays, group_t=int(shared.pop("step")), group=shared)
        self._steps.update((p, self.state[p]["step"]) for p in params)
        self._states[id(group)] = (list(params), state, rule.state_names)
        return state

    def _publish(
        self, group: dict[str, Any], params: list[Any], grads: list[Any], state: State
    ) -> None:
        """Write the counts (and the group's values) where users and state dicts look for them."""
        steps = {t: torch.tensor(float(t)) for t in set(state.t)}
        for p, g, t in zip(params, grads, state.t, strict=True):
            if g is not None:
                self.state[p]["step"] = self._steps[p] = steps[t]
        if state.group:
            group[SHARED] = {"step": state.group_t, **state.group}

    # Paths.

    def _backend_of(self, group: dict[str, Any], params: list[Any]) -> Any:
        name = _path(group, params)
        if name not in self._backends:
            self._backends[name] = _make(name)
        return self._backends[name]

    @property
    def path(self) -> str:
        """Which path each group takes and why, one line a group."""
        return "\n".join(
            f"{_path(g, g['params'])}: {_why(g, g['params'])}; "
            f"{_make(_path(g, g['params'])).path(self._rule_of(g))}"
            for g in self.param_groups
        )


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    for option in ("capturable", "differentiable"):
        if options[option]:
            message = f"{name}: {option}=True is not offered yet; leave it False"
            raise ValueError(message)
    if options["fused"] and options["foreach"]:
        message = f"{name}: fused and foreach cannot both be True; choose one path"
        raise ValueError(message)


def _on_cpu(params: Iterable[torch.Tensor]) -> bool:
    return all(p.device.type == "cpu" for p in params)


def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


def _path(group: Mapping[str, Any], params: list[Any]) -> str:
    """The path that a group takes."""
    if group["fused"]:
        if not _on_cpu(params):
            message = "fused=True runs on CPU tensors so far; use foreach=True on other devices"
            raise ValueError(message)
        return "torch:fused"
    if group["foreach"]:
        return "torch:foreach"
    if group["fused"] is None and _on_cpu(params) and _has_numba():
        return "torch:fused"
    if group["foreach"] is None and not _on_cpu(params):
        return "torch:foreach"
    return "torch:loop"


def _why(group: Mapping[str, Any], params: list[Any]) -> str:
    if group["fused"] or group["foreach"]:
        return "asked for"
    if group["fused"] is None and _on_cpu(params):
        return "CPU tensors" if _has_numba() else "CPU tensors, and numba is not installed"
    return "other tensors" if group["foreach"] is None else "fused and foreach are ruled out"


def _make(path: str) -> Any:
    if path == "torch:fused":
        from isostep_torch.fused_cpu import TorchFused

        return TorchFused()
    return TorchForeach() if path == "torch:foreach" else TorchLoop()


def camel_case(name: str) -> str:
    """``sgd_hd`` as ``SGDHD``: the capitals that the rule's own title gives it, else one a word."""
    title = isostep.definition(name).doc.split(":", 1)[0]
    spelt = "".join(c for c in title if c.isalnum())
    plain = name.replace("_", "")
    return spelt if spelt.lower() == plain else "".join(w.capitalize() for w in name.split("_"))


def optimizer_class(name: str) -> type[Optimizer]:
    """The class of a rule: ``params``, the rule's hyperparameters by position or name, then options."""
    definition = isostep.definition(name)
    empty, both = inspect.Parameter.empty, inspect.Parameter.POSITIONAL_OR_KEYWORD
    hyper = [p.replace(kind=both) for p in definition.signature.parameters.values()]
    options = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d) for n, d in OPTIONS.items()
    ]
    first = [inspect.Parameter(n, both) for n in ("self", "params")]
    required = [p for p in hyper if p.default is empty]
    signature = inspect.Signature(
        [*first, *required, *(p for p in hyper if p not in required), *options]
    )

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs).arguments
        values = {n: v for n, v in given.items() if n in definition.hyper}
        chosen = {n: v for n, v in given.items() if n in OPTIONS}
        self._start(given["params"], definition.bind(**_plain(values)), values, chosen)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    title = camel_case(name)
    body = {
        "__init__": __init__,
        "__doc__": definition.doc,
        "definition": definition,
        "__module__": "isostep_torch",
    }
    made: type[Optimizer] = type(title, (Optimizer,), body)
    return made


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {n: v.item() if isinstance(v, torch.Tensor) else v for n, v in values.items()}
