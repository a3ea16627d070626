"""Rules as optimizers of CuPy arrays: ``AddSign(params, lr=...)``, ``step(grads)``.

One class serves all rules; a subclass per rule only carries its name, signature and docstring. The functional form
is the backend's: ``isostep.backend("cupy")``, ``init`` and ``step``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

import isostep
from isostep.lower.executor import Launches
from isostep.naming import camel_case, class_parameters
from isostep.rule import BoundRule, Rule
from isostep.state import State, StepError, as_list, labels
from isostep.storage import OPTIONS, taken


class Optimizer:
    """A rule, or a composition of pieces and a rule, over a list or dict of arrays, which change in place.

    Arrays of other libraries (torch, JAX) are taken through DLPack, without a copy: ``params`` then holds CuPy arrays
    over their memory. JAX does not expect its arrays to change; hand in gradients from JAX, not parameters.
    ``path`` is one of the backend's (``"raw"``, ``"generic"``), the best one by default.

    For half-precision arrays: ``master_weights`` (a float32 copy is stepped), ``kahan`` (a second half-precision array
    keeps what the array cannot hold) or ``stochastic_rounding`` (of arrays and state, by ``rounding_seed``; see
    ``isostep.rounding``). ``state_dtype`` is the dtype of state arrays, else the array's own.
    """

    definition: ClassVar[Rule | None] = None

    def __init__(
        self, params: Any, rule: BoundRule, *, path: str | None = None, **options: Any
    ) -> None:
        """Take parameters and a bound rule; one array is a list of one. ``options`` are those about storage."""
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            message = (
                f"{rule.name}: unknown option {unknown[0]!r}; it has path, {', '.join(OPTIONS)}"
            )
            raise TypeError(message)
        dtype = options.get("state_dtype")
        named = options | {"state_dtype": None if dtype is None else _name(dtype)}
        storage, seed = taken(rule.name, named)
        self.backend = isostep.backend("cupy" if path is None else f"cupy:{path}")
        self.params: Any = self._taken(params)
        self.rule = rule
        self.state: State = self.backend.init(rule, self.params, storage=storage, seed=seed)

    def step(self, grads: Any, **inputs: Any) -> None:
        """One step; ``grads`` as ``params``, None where a parameter stays. Extra inputs come by name."""
        self.backend.step(
            self.rule, self.params, self._taken(grads), self.state, **self._each(inputs)
        )

    def prepare(self, grads: Any, **inputs: Any) -> Launches:
        """A step but for its launches, which the result does when called; see ``DeviceBackend.prepared``.

        With a stream that captures: ``launch = opt.prepare(grads)``, then ``launch()`` within the capture. Before every
        replay of the graph, ``opt.prepare(grads)`` again; while it equals ``launch``, the graph holds.
        """
        if not hasattr(self.backend, "prepared"):
            message = (
                f"{self.rule.name}: {self.backend.name} has no launches to prepare; use cupy:raw"
            )
            raise StepError(message)
        found: Launches = self.backend.prepared(
            self.rule, self.params, self._taken(grads), self.state, **self._each(inputs)
        )
        return found

    def set(self, **hyper: Any) -> None:
        """Other values of hyperparameters, from the next step on: ``opt.set(lr=0.01)``."""
        self.rule = self.rule.replace(**hyper)

    def observe(self, *, momentum: str | None = None) -> None:
        """From the next step on, leave every step's figures in ``figures``; see ``isostep.telemetry``."""
        self.rule = isostep.observe(self.rule, momentum=momentum)

    @property
    def figures(self) -> isostep.Figures | None:
        """Those of the last step, if it was observed."""
        found: isostep.Figures | None = self.state.figures
        return found

    def _taken(self, arrays: Any) -> Any:
        """The same structure with the backend's own arrays over the same memory."""
        take = self.backend.take
        if hasattr(arrays, "__dlpack__"):
            return [take(arrays)]
        if isinstance(arrays, Mapping):
            return {k: None if a is None else take(a) for k, a in arrays.items()}
        return [None if a is None else take(a) for a in as_list(arrays)]

    def _each(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        whole = self.rule.group_input_names
        return {n: self._one(v) if n in whole else self._taken(v) for n, v in inputs.items()}

    def _one(self, value: Any) -> Any:
        return self.backend.take(value) if hasattr(value, "__dlpack__") else value

    def state_dict(self, *, numpy: bool = True) -> dict[str, Any]:
        """Counts and state arrays, as copies in NumPy or (``numpy=False``) the arrays themselves.

        Hyperparameters are not in it: they are the program's, and may be functions.
        """
        given = self.backend.to_numpy if numpy else lambda a: a
        state = self.state
        return {
            "rule": state.rule,
            "t": list(state.t),
            "group_t": state.group_t,
            "state": [{n: given(a) for n, a in own.items()} for own in state.arrays],
            "group": {n: given(a) for n, a in state.group.items()},
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict`` of this rule, of NumPy or CuPy arrays; an error changes nothing."""
        loaded = self._checked(saved)
        for own, new in zip(self.state.arrays, loaded, strict=True):
            for n, a in own.items():
                a[...] = new[n]
        for n, v in self.state.group.items():
            dtype = self.backend.dtype(v)
            self.state.group[n] = self.backend.scalar(float(saved["group"][n]), dtype, v)
        self.state.t[:] = [int(t) for t in saved["t"]]
        self.state.group_t = int(saved["group_t"])

    def _checked(self, saved: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The saved state arrays as the backend's, if all of them fit."""
        name, state = self.rule.name, self.state
        if saved.get("rule") != state.rule:
            message = (
                f"{name}: the state_dict is of {saved.get('rule')!r}; load one of {state.rule!r}"
            )
            raise StepError(message)
        if set(saved["group"]) != set(state.group):
            message = f"{name}: the state_dict's group has {sorted(saved['group'])}, expected {sorted(state.group)}"
            raise StepError(message)
        for key in ("t", "state"):
            if len(saved[key]) != len(state.t):
                message = f"{name}: the state_dict is for {len(saved[key])} parameters, not {len(state.t)}"
                raise StepError(message)
        loaded = []
        for label, own, new in zip(labels(self.params), state.arrays, saved["state"], strict=True):
            if set(new) != set(own):
                message = f"{name}: state of {label} has {sorted(new)}, expected {sorted(own)}"
                raise StepError(message)
            for n, a in own.items():
                if tuple(new[n].shape) != tuple(a.shape) or new[n].dtype != a.dtype:
                    message = (
                        f"{name}: state {n} of {label} must be {a.dtype} of shape {tuple(a.shape)}, "
                        f"got {new[n].dtype} {tuple(new[n].shape)}"
                    )
                    raise StepError(message)
            loaded.append(
                {
                    n: self.backend.asarray(v) if isinstance(v, np.ndarray) else v
                    for n, v in new.items()
                }
            )
        return loaded


def _name(dtype: Any) -> str:
    try:
        return np.dtype(dtype).name
    except TypeError:
        return str(dtype)


def optimizer_class(name: str) -> type[Optimizer]:
    """The class of a rule: ``params``, the rule's hyperparameters by position or name, then ``path`` and options."""
    definition = isostep.definition(name)
    both, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    first = [inspect.Parameter(n, both) for n in ("self", "params")]
    ways = {"path": None, **OPTIONS}
    last = [inspect.Parameter(n, keyword, default=v) for n, v in ways.items()]
    signature = inspect.Signature([*first, *class_parameters(definition), *last])

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs).arguments
        hyper = {n: v for n, v in given.items() if n in definition.hyper}
        options = {n: v for n, v in given.items() if n in ways}
        Optimizer.__init__(self, given["params"], definition.bind(**hyper), **options)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    body = {"__init__": __init__, "__doc__": definition.doc, "definition": definition}
    made: type[Optimizer] = type(
        camel_case(name), (Optimizer,), body | {"__module__": "isostep_cupy"}
    )
    return made
