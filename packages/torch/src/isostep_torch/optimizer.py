"""Rules as ``torch.optim.Optimizer`` classes.

One class serves all rules: a subclass per rule (``isostep_torch.classes``) only carries its name, signature and
docstring. A parameter group holds the rule's hyperparameters under their own names, so schedulers and per-group
settings work as they do with torch.optim, and ``state[p]`` holds ``step`` and the rule's state arrays, so state
dicts are interchangeable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple

import torch

from isostep import averaging, telemetry
from isostep.rule import BoundRule, Rule
from isostep.state import State, check_inputs
from isostep.storage import LOST, MASTER, PLAIN, Handling, Storage
from isostep_torch import checkpoint, paths, storage
from isostep_torch.checkpoint import SHARED
from isostep_torch.entries import Entries
from isostep_torch.kept import Kept
from isostep_torch.loop import TorchLoop
from isostep_torch.observer import Observer
from isostep_torch.paths import OPTIONS, check_options
from isostep_torch.traced import Held


class Optimizer(torch.optim.Optimizer):
    """A rule, or a composition of pieces and a rule, as a torch optimizer.

    ``maximize`` ascends. ``fused`` and ``foreach`` ask for a path (True) or forbid it (False); with neither, CPU
    and CUDA tensors take the fused path and others foreach. ``capturable`` keeps step counts (and a learning rate that
    is a tensor) on the device and reads nothing from it, so that a CUDA graph can hold the step. ``differentiable``
    lets autograd through the step, to tensors given as hyperparameters too. For half-precision parameters:
    ``master_weights`` (a float32 copy is stepped), ``kahan`` (a second half-precision array keeps what the
    parameter cannot hold) or ``stochastic_rounding`` (of parameters and state, by ``rounding_seed``; see
    ``isostep.rounding``). ``state_dtype`` is the dtype of state arrays, else the parameter's.

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

    def _forget(self) -> None:
        """Drop what is only a shortcut: bound rules, states and backends."""
        self._bound: dict[tuple[int, bool], tuple[tuple[Any, ...], BoundRule]] = {}
        self._kept: dict[int, Kept] = {}  # by group
        self._counts: dict[
            Any, torch.Tensor
        ] = {}  # those that ``capturable`` steps advance in place
        self._places: dict[Any, int] = {}  # of parameters, counted through all groups
        self._backends: dict[Any, Any] = {}
        self._loading: Mapping[str, Any] | None = None  # the state dict that is being loaded
        self._observed: bool | str = getattr(self, "_observed", False)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_template": self._template}

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
        for group, other in zip(self.param_groups, saved["param_groups"], strict=True):
            rule = self.bound(group)
            pairs = zip(group["params"], other["params"], strict=True)
            owns = [(p, own) for p, key in pairs if (own := saved["state"].get(key))]
            for p, own in owns:
                kept = (
                    {} if "rule" not in other else self.state[p]
                )  # torch.optim's extras grow stale
                taken = checkpoint.arrays_of(group, p, rule.state_names, own)
                extras = {*rule.group_names, *rule.rule.derived}
                self.state[p] = {n: v for n, v in kept.items() if n not in extras} | taken
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
            if any(p.is_conj() for p in param_group["params"]):
                message = (
                    f"{self._template.name}: parameters must lie in memory as they are, got a conjugate view; "
                    "use p.resolve_conj()"
                )
                raise ValueError(message)
            self.bound(param_group)
            check_options(self._template.name, param_group)
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
            whole = checkpoint.filled(
                self._template.name, type(self).__name__, self.param_groups, saved
            )
            checkpoint.check(self._template, self.param_groups, whole)
            self._loading = whole
            return whole

        if not isinstance(state_dict, Mapping):
            look(self, state_dict)  # says what is wrong
        last = self.register_load_state_dict_pre_hook(look)
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
            self._loading = None

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
                arrays = [
                    {n: storage.real(own[n]).to(w.dtype) for n in rule.state_names}
                    for own, w in zip(owns, wide, strict=True)
                ]
                shared = {n: v for n, v in group.get(SHARED, {}).items() if n != "step"}
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
        with _full_precision():
            ready = [self._ready(group, inputs) for group in self.param_groups]
            for group, found in zip(self.param_groups, ready, strict=True):
                if found is not None:
                    with torch.set_grad_enabled(bool(group["differentiable"])):
                        self._step_group(group, found, inputs)
        return loss

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether ``GradScaler`` may leave unscaling and skipping to the step, where they cost no synchronisation."""
        everything = (p.device.type == "cpu" for g in self.param_groups for p in g["params"])
        return all(g["capturable"] for g in self.param_groups) or all(everything)

    def _ready(self, group: dict[str, Any], inputs: Mapping[str, Any]) -> _Ready | None:
        """What is to be stepped, checked before any group is; None if nothing is."""
        params = group["params"]
        grads = [p.grad for p in params]
        present, written = grads, params
        if type(None) in set(map(type, grads)):
            present = [g for g in grads if g is not None]
            written = [p for p, g in zip(params, grads, strict=True) if g is not None]
            places = [
                i
                for i, (p, g) in enumerate(zip(params, grads, strict=True))
                if g is not None or "step" in self.state.get(p, {})
            ]
            params, grads = [params[i] for i in places], [grads[i] for i in places]
        if not present:
            return None
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and not group["capturable"] and found_inf.item():
            return None  # on the CPU: see _step_supports_amp_scaling
        sparse = any(map(attrgetter("is_sparse"), present))
        rule = self.bound(group, paths.traced(group))
        if sparse:
            storage.check_rows(rule)
        check_inputs(rule, inputs)
        return _Ready(rule, params, grads, written, sparse)

    def _step_group(self, group: dict[str, Any], ready: _Ready, inputs: Mapping[str, Any]) -> None:
        rule, params, grads, written, sparse = ready
        kept, ways = self._kept.get(id(group)), paths.ways(group)
        parts = storage.shards(rule, params)
        if (
            kept is None
            or kept.ways != ways
            or not kept.unchanged(params, rule.state_names, self._watched())
            or (parts and not kept.holds_shards())
        ):
            kept = self._rebuild(rule, group, params, ways)
        if not group["capturable"]:
            kept.read_counts()
        backend, state = kept.backend, kept.state
        given = {
            n: [v.get(p) for p in params] if n in rule.input_names else v for n, v in inputs.items()
        }
        if parts:
            grads = _local(grads, params)
            own = rule.input_names
            given = {n: _local(v, params) if n in own else v for n, v in given.items()}
            params = parts
        scale = getattr(self, "grad_scale", None)
        if group["capturable"]:
            backend.found_inf = getattr(self, "found_inf", None)
        if hasattr(backend, "grad_scale"):
            backend.grad_scale, scale = scale, None  # its kernels unscale
        scaled = scale is not None or group["maximize"]
        state.handling.seed = group["rounding_seed"]
        state.handling.factor = _factor(scale, group["maximize"], group["capturable"])
        stored = None
        if not sparse:
            stored = PLAIN if kept.plain else self._as_stored(rule, kept, params, grads, given)
        if stored is not None:
            state.storage = replace(stored, scaled=True) if scaled else stored
            backend.step(rule, params, grads, state, **given)
        else:
            self._step_opened(group, rule, kept, params, grads, given, scaled)
        backend.wrote(written)
        if not group["capturable"]:
            kept.publish_counts()
        if state.group:
            group[SHARED] = {"step": state.group_t, **state.group}

    def _watched(self) -> Entries:
        """``self.state``, which torch and users may have put an ordinary dict in place of."""
        if type(self.state) is not Entries:
            self.state = Entries(self.state)
            self._kept.clear()
        return self.state

    @staticmethod
    def _as_stored(
        rule: BoundRule,
        kept: Kept,
        params: list[Any],
        grads: list[Any],
        inputs: dict[str, Any],
    ) -> Storage | None:
        """How the tensors of this step are stored, if they are stepped as they are; else they have to be opened."""
        if kept.storage is None:
            return None
        given = [grads, *(inputs[n] for n in rule.input_names if n in inputs)]
        fits = all(storage.same_dtypes(params, some) for some in given)
        return kept.storage if fits else None

    def _step_opened(
        self,
        group: dict[str, Any],
        rule: BoundRule,
        kept: Kept,
        params: list[Any],
        grads: list[Any],
        inputs: dict[str, Any],
        scaled: bool,
    ) -> None:
        """A step of tensors that are not stored as backends see them; see ``isostep_torch.storage``."""
        state, active = kept.state, [i for i, g in enumerate(grads) if g is not None]
        opened = []
        for i in active:
            p = params[i]
            extra = {n: state.arrays[i][n] for n in storage.extra_names(group, p)}
            own = {n: inputs[n][i] for n in rule.input_names if n in inputs}
            noise = (group["rounding_seed"], state.t[i] + 1, state.handling.places[i])
            arrays = {n: state.arrays[i][n] for n in rule.state_names}
            opened.append(storage.open_tensors(group, p, grads[i], own, arrays, extra, noise))
        given = inputs | {n: [o.inputs[n] for o in opened] for n in rule.input_names if n in inputs}
        inner = State(
            state.rule,
            [state.t[i] for i in active],
            [o.arrays for o in opened],
            state.group,
            state.group_t,
            kept.opened_plan,
            storage=Storage(scaled=scaled),
            handling=Handling(factor=state.handling.factor),
        )
        kept.backend.step(rule, [o.p for o in opened], [o.g for o in opened], inner, **given)
        for o in opened:
            o.close()
        for i, t in zip(active, inner.t, strict=True):
            state.t[i] = t
        state.group_t, kept.opened_plan = inner.group_t, inner.plan
        found = inner.figures
        state.figures = None if found is None else found.spread(active, params)

    def bound(self, group: dict[str, Any], traced: bool = False) -> BoundRule:
        """The rule with this group's hyperparameters, which schedulers change from step to step.

        ``traced``: tensors stay tensors, else they are read.
        """
        lost = [n for n in self._template.domains if n not in group]
        if lost:
            message = (
                f"{self._template.name}: a parameter group has lost its {lost[0]!r}; set it again"
            )
            raise ValueError(message)
        values = tuple(
            _hyper(group[n], traced, f"{self._template.name}: {n}") for n in self._template.domains
        )
        known = self._bound.get((id(group), traced))
        if known is None or known[0] != values:
            bound = self._template.replace(**dict(zip(self._template.domains, values, strict=True)))
            if self._observed:
                bound = replace(bound, observed=self._observed)
            known = self._bound[id(group), traced] = (values, bound)
        return known[1]

    def _rebuild(
        self, rule: BoundRule, group: dict[str, Any], params: list[Any], ways: tuple[Any, ...]
    ) -> Kept:
        check_options(rule.name, group)
        old = self._kept.get(id(group))
        changed = old is not None and (old.ways != ways or old.dtypes != [p.dtype for p in params])
        reached = storage.shards(rule, params) or params
        backend = self._backend_of(group, reached)
        first = self.bound(group, group["differentiable"])  # state may start as a hyperparameter
        if not any(self.state.get(p) for p in group["params"]):
            group.pop(SHARED, None)  # the state was cleared, and with it what is shared
        self._places = {
            p: k for k, p in enumerate(p for g in self.param_groups for p in g["params"])
        }
        arrays, counts = [], []
        for p in params:
            own = self.state[p]
            names = (*rule.state_names, *storage.extra_names(group, p))
            for n in ({MASTER, LOST} - {*names}) & own.keys():
                del own[n]  # of an option that is off: steps without it would leave it behind
            if any(own.get(n) is None for n in ("step", *names)):
                # A parameter's first step; or torch.optim's state, which may lack a count (SGD) or an array.
                found = {n: v for n, v in own.items() if v is not None}
                fresh = storage.make_state(first, group, p, backend)
                own.update({"step": _count(bool(found))} | fresh | found)
            storage.check_state(rule, own)
            if changed:
                own.update(storage.kept_as(group, p, {n: own[n] for n in rule.state_names}))
            if not isinstance(own["step"], torch.Tensor):  # torch.optim.SparseAdam's is a number
                own["step"] = _count(own["step"])
            if group["capturable"] and own["step"] is not self._counts.get(p):
                # A tensor of its own, which is advanced in place.
                own["step"] = own["step"].to(p.device, torch.float32, copy=True)
                self._counts[p] = own["step"]
            arrays.append(
                {n: own[n] if reached is params else storage.local(own[n], p) for n in names}
            )
            counts.append(own["step"] if group["capturable"] else int(own["step"]))
        if SHARED not in group and rule.group_names:
            made = backend.init(first, [storage.real(p.detach()) for p in params])
            group[SHARED] = {"step": 0, **made.group}
        shared = dict(group.get(SHARED, {"step": 0 if group["capturable"] else max(counts)}))
        done = shared.pop("step")
        if group["capturable"] and not isinstance(done, torch.Tensor):
            done = torch.tensor(float(done), device=params[0].device)
        elif not group["capturable"]:
            done = int(done)
        state = State(rule.name, counts, arrays, group_t=done, group=shared, sealed=True)
        owns = [self.state[p] for p in params]
        plain, how = storage.plain(group), storage.kept(group)
        fits = storage.as_kept(how, reached, arrays)
        state.handling = Handling(places=[self._places[p] for p in params])
        names, own = rule.state_names, how if fits else None
        kept = Kept(list(params), owns, state, names, plain, backend, ways, own)
        self._kept[id(group)] = kept
        return kept

    def _backend_of(self, group: dict[str, Any], params: list[Any]) -> Any:
        key = (paths.path_of(group, params), group["capturable"], group["differentiable"])
        if key not in self._backends:
            self._backends[key] = paths.make(key[0], group)
        return self._backends[key]

    @property
    def path(self) -> str:
        """Which path each group takes and why, one line a group."""
        lines = []
        for g in self.param_groups:
            rule, params = self.bound(g), g["params"]
            reached = storage.shards(rule, params) or params
            name, reason = paths.path_of(g, reached), paths.why(g, reached)
            lines.append(f"{name}: {reason}; {paths.make(name, g).path(rule)}")
        return "\n".join(lines)


class _Ready(NamedTuple):
    """A group's step before it is taken."""

    rule: BoundRule
    params: list[Any]
    grads: list[Any]
    written: list[Any]  # those of them that have a gradient
    sparse: bool


def _local(tensors: list[Any], like: Sequence[Any]) -> list[Any]:
    return [None if t is None else storage.local(t, p) for t, p in zip(tensors, like, strict=True)]


def _factor(scale: torch.Tensor | None, maximize: bool, capturable: bool) -> Any:
    """What gradients are multiplied by; the scale's inverse is taken as ``GradScaler.unscale_`` takes it.

    ``capturable``: as a tensor, because nothing may be read from the device.
    """
    inverse: Any = 1.0
    if scale is not None:
        inverse = scale.double().reciprocal().float()
        inverse = inverse if capturable else inverse.item()
    return -inverse if maximize else inverse


def _count(t: float) -> torch.Tensor:
    """A count of steps, in float32 on the CPU whatever torch's defaults are."""
    return torch.tensor(float(t), dtype=torch.float32, device="cpu")


@contextmanager
def _full_precision() -> Iterator[None]:
    """Autocast does not reach into a step: a rule with matrices multiplies them in their own dtype."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _hyper(value: Any, traced: bool, label: str) -> Any:
    if not traced:
        return paths.number(value, label)
    if isinstance(value, tuple | list):
        return tuple(_hyper(v, traced, label) for v in value)
    return Held(value) if isinstance(value, torch.Tensor) else value
