"""How the steps of an optimizer's groups are taken: what of ``isostep_torch.optimizer`` no user calls.

A group's parameters, their entries in ``optimizer.state`` and the group's options become what a backend takes: a bound
rule, and a state that is kept from step to step for as long as nobody touches what it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from operator import attrgetter
from threading import RLock
from typing import Any, NamedTuple

import numpy as np
import torch

from isostep.blocks import SCALE
from isostep.lower.plan import same
from isostep.rule import BoundRule
from isostep.state import State, StepError, check_inputs, check_value
from isostep.storage import LOST, MASTER, PLAIN, Handling, Storage
from isostep_torch import paths, storage
from isostep_torch.checkpoint import SHARED
from isostep_torch.entries import Entries
from isostep_torch.kept import Kept
from isostep_torch.memory import check_apart
from isostep_torch.paths import check_options
from isostep_torch.traced import Held


class Stepping(torch.optim.Optimizer):
    """What steps groups. Subclasses set ``_template``, the rule of all groups, and call ``_forget``."""

    _template: BoundRule

    def _forget(self) -> None:
        """Drop what is only a shortcut: bound rules, states and backends."""
        self._bound: dict[tuple[int, bool], _Bound] = {}
        self._kept: dict[int, Kept] = {}  # by group
        self._counts: dict[
            Any, torch.Tensor
        ] = {}  # those that ``capturable`` steps advance in place
        self._backends: dict[Any, Any] = {}
        self._loading: Mapping[str, Any] | None = None  # the state dict that is being loaded
        #: by parameter, the blocks that its state is kept in: its bytes do not tell
        self._forms: dict[Any, str] = getattr(self, "_forms", {})
        #: threads that step one optimizer take turns: what is kept is one step's at a time
        self._turns = RLock()
        self._observed: bool | str = getattr(self, "_observed", False)

    def _step_all(self, inputs: Mapping[str, Any]) -> None:
        with self._turns, _full_precision():
            self._let_go()
            ready = [self._ready(group, inputs) for group in self.param_groups]
            for group, found in zip(self.param_groups, ready, strict=True):
                if found is not None:
                    with torch.set_grad_enabled(bool(group["differentiable"])):
                        self._step_group(group, found, inputs)

    def _let_go(self) -> None:
        """Of groups that somebody has taken away, whose arrays would otherwise stay in memory."""
        gone = self._kept.keys() - map(id, self.param_groups)
        if gone:
            for key in gone:
                del self._kept[key]
            self._bound = {key: b for key, b in self._bound.items() if key[0] not in gone}
            self._counts = {p: t for p, t in self._counts.items() if p in self.state}

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
        known = self._kept.get(id(group))
        if sparse or known is None or known.how.state != group["state_dtype"]:
            storage.check_blocks(rule, group, sparse)
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
            or not kept.shares(group.get(SHARED))
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
            plain = kept.plain and not (kept.mixed and storage.mixed(ready.params, ready.grads))
            stored = PLAIN if plain else self._as_stored(rule, kept, params, grads, given)
        if stored is not None:
            state.storage = replace(stored, scaled=True) if scaled else stored
            try:
                backend.step(rule, params, grads, state, **given)
            except StepError:  # nothing has been written
                kept.mixed = storage.mixed(ready.params, ready.grads)
                if not kept.mixed:
                    # A model that was moved to another dtype takes its state along.
                    fits = storage.as_kept(stored, params, state.arrays)
                    if fits or not storage.same_dtypes(params, grads):
                        raise
                    self._rebuild(rule, group, kept.params, ways, cast=True)
                    self._step_group(group, ready, inputs)
                    return
                stored = None
        if stored is None:  # or no more: gradients have dtypes of their own
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
        state, how = kept.state, kept.how
        active = [i for i, g in enumerate(grads) if g is not None]
        some = storage.runs(rule, how, params, active)
        if how.packed:
            given = {"gradient": grads} | {n: inputs[n] for n in rule.input_names if n in inputs}
            kept.backend._checked_params(rule, params)
            storage.check_opened(kept.backend, rule, how, params, given, state.arrays, active)
        before: Any = state.group_t
        for k, run in enumerate(some):
            # A count on the device is advanced in place, by the last.
            last = k == len(some) - 1 or not isinstance(before, torch.Tensor)
            state.group_t = before if last else before.clone()
            self._step_run(group, rule, kept, params, grads, inputs, scaled, run)

    def _step_run(
        self,
        group: dict[str, Any],
        rule: BoundRule,
        kept: Kept,
        params: list[Any],
        grads: list[Any],
        inputs: dict[str, Any],
        scaled: bool,
        active: list[int],
    ) -> None:
        """The step of some of the parameters."""
        state, how, opened = kept.state, kept.how, []
        for i in active:
            p = params[i]
            extra = {n: state.arrays[i][n] for n in storage.extra_names(how, p)}
            own = {n: inputs[n][i] for n in rule.input_names if n in inputs}
            t = state.t[i] + 1
            noise = (group["rounding_seed"], t, state.handling.places[i])
            rests = storage.resting(rule, how, t, tuple(p.shape))
            arrays = {n: state.arrays[i][n] for n in rule.state_names}
            opened.append(storage.open_tensors(how, p, grads[i], own, arrays, extra, noise, rests))
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
        found_inf = getattr(kept.backend, "found_inf", None)
        for o in opened:
            o.close(found_inf)
        for i, t in zip(active, inner.t, strict=True):
            state.t[i] = t
        state.group_t = inner.group_t
        if not how.packed:  # it holds on to what was opened
            kept.opened_plan = inner.plan
        found = inner.figures
        state.figures = None if found is None else found.spread(active, params)

    def bound(self, group: dict[str, Any], traced: bool = False) -> BoundRule:
        """The rule with this group's hyperparameters, which schedulers change from step to step.

        ``traced``: tensors stay tensors, else they are read.
        """
        names = self._template.domains
        try:
            given = list(map(group.__getitem__, names))
        except KeyError as error:
            message = f"{self._template.name}: a parameter group has lost its {error}; set it again"
            raise ValueError(message) from None
        known = self._bound.get((id(group), traced))
        if known is not None and known.fixed and same(given, known.given):
            return known.rule
        label = f"{self._template.name}: "
        values = [_hyper(v, traced, label + n) for n, v in zip(names, given, strict=True)]
        if known is None or not all(map(_means, known.values, values)):
            rule = paths.with_numbers(self._template, dict(zip(names, values, strict=True)))
            if self._observed:
                rule = replace(rule, observed=self._observed)
        else:
            rule = known.rule
        self._bound[id(group), traced] = _Bound(given, all(map(_stays, given)), values, rule)
        return rule

    def _rebuild(
        self,
        rule: BoundRule,
        group: dict[str, Any],
        params: list[Any],
        ways: tuple[Any, ...],
        cast: bool = False,
    ) -> Kept:
        """The group's state anew. ``cast``: in the dtypes that the options say, whatever it was kept in."""
        check_options(rule.name, group)
        storage.check_dense(rule, params)
        written = {*rule.state_names, *(n + SCALE for n in rule.state_names), MASTER, LOST}
        entries = (own for p in params for own in self.state.get(p, {}).items())
        held = [v for n, v in entries if n in written and isinstance(v, torch.Tensor)]
        check_apart(rule, [*params, *held])
        storage.check_blocks(rule, group)
        how = storage.kept(group, rule)
        old = self._kept.get(id(group))
        changed = cast or (
            old is not None and (old.ways != ways or old.dtypes != [p.dtype for p in params])
        )
        reached = storage.shards(rule, params) or params
        backend = self._backend_of(group, reached, rule)
        first = self.bound(group, group["differentiable"])  # state may start as a hyperparameter
        if not any(self.state.get(p) for p in group["params"]):
            group.pop(SHARED, None)  # the state was cleared, and with it what is shared
        places = self._places()
        # Whose state begins in mid-run (SGD's, as its momentum is raised from 0) is at its first step, if nothing else
        # goes by the steps before.
        counts_anew = bool(rule.state_names) and len(rule.components) == 1 and not first.scheduled
        arrays, counts = [], []
        for p in params:
            own = self.state[p]
            for wrong in filter(None, (storage.bytes_alone(own, n) for n in rule.state_names)):
                message = f"{rule.name}: {wrong}; set both, or clear the state"
                raise StepError(message)
            names = (*rule.state_names, *storage.extra_names(how, p))
            own.update(self._in_form(rule, how, group, p, places[p]))
            for n in {n + SCALE for n in rule.state_names} - {*names} & own.keys():
                del own[n]
            for n in ({MASTER, LOST} - {*names}) & own.keys():
                del own[n]  # of an option that is off: steps without it would leave it behind
            if any(own.get(n) is None for n in ("step", *names)):
                # A parameter's first step; or torch.optim's state, which may lack a count (SGD) or an array.
                found = {n: v for n, v in own.items() if v is not None}
                fresh = storage.make_state(first, group, p, backend)
                if counts_anew and not found.keys() & {*rule.state_names}:
                    found["step"] = _count(0)
                own.update({"step": _count(bool(found))} | fresh | found)
            storage.check_state(rule, own)
            if changed:
                whole = {n: own[n] for n in rule.state_names}
                own.update(storage.kept_as(how, group, p, whole))
            if how.form is not None:
                self._forms[p] = how.form
            else:
                self._forms.pop(p, None)
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
        if group.get(SHARED) is None and rule.group_names:
            made = backend.init(first, [storage.real(p.detach()) for p in params])
            group[SHARED] = {"step": 0, **made.group}
        shared = dict(group.get(SHARED) or {})
        done = shared.pop("step", 0 if group["capturable"] else max(counts))
        if shared:
            usual = getattr(torch, backend._group_dtype([storage.real(p.detach()) for p in params]))
            last = old.state.group if old is not None else {}
            shared = _taken(rule, shared, last, usual, params[0].device)
        if group["capturable"] and not isinstance(done, torch.Tensor):
            done = torch.tensor(float(done), device=params[0].device)
        elif not group["capturable"]:
            done = int(done)
        if shared:
            group[SHARED] = {"step": done, **shared}
        state = State(rule.name, counts, arrays, group_t=done, group=shared, sealed=True)
        owns = [self.state[p] for p in params]
        plain = storage.plain(group)
        fits = storage.as_kept(how, reached, arrays)
        fits = fits and (not how.packed or backend.takes_blocks(rule))
        state.handling = Handling(places=[places[p] for p in params])
        names, own = rule.state_names, how if fits else None
        kept = Kept(list(params), owns, state, names, plain, backend, ways, own, how)
        self._kept[id(group)] = kept
        return kept

    def _places(self) -> dict[Any, int]:
        """The number of each parameter among all of the optimizer, by which noise goes."""
        every = (p for g in self.param_groups for p in g["params"])
        return {p: k for k, p in enumerate(every)}

    def _in_form(
        self, rule: BoundRule, how: Storage, group: Mapping[str, Any], p: Any, place: int
    ) -> dict[str, Any]:
        """What of a parameter's state is not in the blocks that it should be in, or should be in none, as it should be.

        The noise is that of its last step, which other numbers were rounded with.
        """
        own = self.state.get(p) or {}
        packed = any(storage.is_packed(own, n) for n in rule.state_names)
        if not packed and not how.packed:
            return {}
        t = own.get("step", 0)
        t = t if isinstance(t, torch.Tensor) and group["capturable"] else int(t or 0)
        form = self._forms.get(p, storage.kept(group).form)
        found = storage.in_form(rule, how, own, form, (group["rounding_seed"], t, place))
        return found | storage.kept_as(
            how, group, p, {n: a for n, a in found.items() if n not in how.scales}
        )

    def _path_of(self, rule: BoundRule, group: dict[str, Any], params: list[Any]) -> str:
        """The path of a group. A graph can hold no kernels' tables of tensors that are opened anew in every step."""
        path = paths.path_of(group, params)
        opened = path == "torch:fused(cuda)" and group["capturable"] and storage.in_blocks(group)
        opened = opened and not paths.make(path, group).takes_blocks(rule)
        return "torch:foreach" if opened else path

    def _backend_of(self, group: dict[str, Any], params: list[Any], rule: BoundRule) -> Any:
        path = self._path_of(rule, group, params)
        key = (path, group["capturable"], group["differentiable"])
        if key not in self._backends:
            self._backends[key] = paths.make(key[0], group)
        return self._backends[key]


class _Bound(NamedTuple):
    """The rule with a group's hyperparameters."""

    given: list[Any]  # as they stand in the group
    fixed: bool  # whether these very objects can mean no other values later
    values: list[Any]  # as the rule takes them
    rule: BoundRule


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


def _taken(
    rule: BoundRule,
    shared: Mapping[str, Any],
    last: Mapping[str, Any],
    usual: torch.dtype,
    device: torch.device,
) -> dict[str, Any]:
    """What a group shares, as steps take it: users may put any numbers in the place of ``last``, the last step's.

    Where neither these nor ``shared`` itself agree on a dtype it is ``usual``.
    """
    tensors = [v for v in (last or shared).values() if isinstance(v, torch.Tensor)]
    dtypes = {v.dtype for v in tensors if v.is_floating_point()}
    dtype = dtypes.pop() if len(dtypes) == 1 else usual
    for n, v in shared.items():
        check_value(rule, f"{SHARED}[{n!r}]", v)
    return {n: torch.as_tensor(v, dtype=dtype, device=device) for n, v in shared.items()}


def _count(t: float) -> torch.Tensor:
    """A count of steps, in float32 on the CPU whatever torch's defaults are."""
    return torch.tensor(float(t), dtype=torch.float32, device="cpu")


def _full_precision() -> AbstractContextManager[Any]:
    """Autocast does not reach into a step: a rule with matrices multiplies them in their own dtype."""
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    if not kinds:
        return nullcontext()
    stack = ExitStack()
    for kind in kinds:
        stack.enter_context(torch.autocast(kind, enabled=False))
    return stack


def _stays(value: Any) -> bool:
    """Whether an object holds one value for good: a tensor or a list may hold another one in the next step."""
    if type(value) is tuple:
        return all(map(_stays, value))
    return value is None or type(value) in (float, int, bool, str)


def _means(one: Any, other: Any) -> bool:
    """Whether two values mean the same from now on; a schedule may change, and then equals only itself."""
    if one is other or type(one) is not type(other):
        return one is other
    if type(one) is tuple:
        return len(one) == len(other) and all(map(_means, one, other))
    return (type(one) is Held or not callable(one)) and bool(one == other)


def _hyper(value: Any, traced: bool, label: str) -> Any:
    if not traced or isinstance(value, np.ndarray):
        return paths.number(value, label)
    if isinstance(value, tuple | list):
        return tuple(_hyper(v, traced, label) for v in value)
    return Held(value) if isinstance(value, torch.Tensor) else value
