"""Rules as optimizers of CuPy arrays: ``AddSign(params, lr=...)``, ``step(grads)``.

One class serves all rules; a subclass per rule only carries its name, signature and docstring. The functional form
is the backend's: ``isostep.backend("cupy")``, ``init`` and ``step``.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

import isostep
from isostep.lower.executor import Launches
from isostep.naming import camel_case, class_parameters
from isostep.rule import BoundRule, Rule
from isostep.state import State, StepError, check_inputs, labels
from isostep.storage import OPTIONS, taken


class Optimizer:
    """A rule, or a composition of pieces and a rule, over a list or dict of arrays, which change in place.

    Arrays of other libraries (torch, JAX) are taken through DLPack, without a copy: ``params`` then holds CuPy arrays
    over their memory. JAX does not expect its arrays to change; hand in gradients from JAX, not parameters.
    ``path`` is one of the backend's (``"raw"``, ``"generic"``), the best one by default.

    For half-precision arrays: ``master_weights`` (a float32 copy is stepped), ``kahan`` (a second half-precision array
    keeps what the array cannot hold) or ``stochastic_rounding`` (of arrays and state, by ``rounding_seed``; see
    ``isostep.rounding``). ``state_dtype`` is the dtype of state arrays, else the array's own; ``"mxfp8_e4m3"`` and
    ``"mxfp8_e5m2"`` keep averages in blocks of eight bits (``isostep.blocks``), and load no state of another kind.
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
        self.rule = rule
        self.params: Any = self._taken("params", params)
        self.state: State = self.backend.init(rule, self.params, storage=storage, seed=seed)

    def step(self, grads: Any, **inputs: Any) -> None:
        """One step; ``grads`` as ``params``, None where a parameter stays. Extra inputs come by name."""
        given = self._each(inputs)
        self.backend.step(self.rule, self.params, self._taken("grads", grads), self.state, **given)

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
        given = self._each(inputs)
        found: Launches = self.backend.prepared(
            self.rule, self.params, self._taken("grads", grads), self.state, **given
        )
        return found

    def set(self, **hyper: Any) -> None:
        """Other values of hyperparameters, from the next step on: ``opt.set(lr=0.01)``."""
        self.rule = self.rule.midway(**hyper)

    def observe(self, *, momentum: str | None = None) -> None:
        """From the next step on, leave every step's figures in ``figures``; see ``isostep.telemetry``."""
        self.rule = isostep.observe(self.rule, momentum=momentum)

    @property
    def figures(self) -> isostep.Figures | None:
        """Those of the last step, if it was observed."""
        found: isostep.Figures | None = self.state.figures
        return found

    def _taken(self, what: str, arrays: Any) -> Any:
        """The same structure with the backend's own arrays over the same memory."""
        if hasattr(arrays, "__dlpack__"):
            return [self._array(what, arrays)]
        if isinstance(arrays, Mapping):
            return {k: self._array(f"{what}[{k!r}]", a) for k, a in arrays.items()}
        if not isinstance(arrays, Sequence) or isinstance(arrays, str):
            kind = type(arrays).__name__
            message = (
                f"{self.rule.name}: {what} must be a list, tuple or dict of arrays, got {kind}"
            )
            raise StepError(message)
        return [self._array(f"{what}[{i}]", a) for i, a in enumerate(arrays)]

    def _array(self, label: str, array: Any) -> Any:
        if array is None:
            return None
        if not hasattr(array, "__dlpack__"):
            message = f"{self.rule.name}: {label} must be an array, got {type(array).__name__}"
            raise StepError(message)
        try:
            return self.backend.take(array)
        except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
            why = str(error).partition("\n")[0]
            message = f"{self.rule.name}: {self.backend.name} cannot take {label}: {why}"
            raise StepError(message) from error

    def _each(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        check_inputs(self.rule, inputs)
        whole = self.rule.group_input_names
        return {n: self._one(v) if n in whole else self._taken(n, v) for n, v in inputs.items()}

    def _one(self, value: Any) -> Any:
        return self.backend.take(value) if hasattr(value, "__dlpack__") else value

    def state_dict(self, *, numpy: bool = True) -> dict[str, Any]:
        """Counts and state arrays, as copies in NumPy or (``numpy=False``) the arrays themselves.

        Hyperparameters are not in it: they are the program's, and may be functions. ``keys`` are a dict's.
        """
        given = self.backend.to_numpy if numpy else lambda a: a
        state, form = self.state, self.state.storage.form
        return {
            **({} if form is None else {"state_dtype": form}),  # which the bytes do not say
            "rule": state.rule,
            "keys": self._keys,
            "t": list(state.t),
            "group_t": state.group_t,
            "state": [{n: given(a) for n, a in own.items()} for own in state.arrays],
            "group": {n: given(a) for n, a in state.group.items()},
        }

    @property
    def _keys(self) -> list[Any] | None:
        return list(self.params) if isinstance(self.params, Mapping) else None

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict`` of this rule, of NumPy or CuPy arrays; an error changes nothing.

        States of a dict go by its keys, in whatever order; others by position.
        """
        counts, group_t, arrays, group = self._checked(saved)
        for own, new in zip(self.state.arrays, arrays, strict=True):
            for n, a in own.items():
                a[...] = new[n]
        self.state.group.update(group)
        self.state.t[:] = counts
        self.state.group_t = group_t

    def _checked(self, saved: Any) -> tuple[list[int], int, list[dict[str, Any]], dict[str, Any]]:
        """The saved counts, state arrays and group's values as this optimizer's own, if all of them fit."""
        state = self.state
        self._must(isinstance(saved, Mapping), f"a state_dict must be a dict, got {_kind(saved)}")
        for key in ("rule", "t", "group_t", "state", "group"):
            self._must(key in saved, f"the state_dict has no {key!r}; pass what state_dict() gave")
        name = saved["rule"]
        self._must(name == state.rule, f"the state_dict is of {name!r}; load one of {state.rule!r}")
        found, wanted = (f or "no blocks" for f in (saved.get("state_dtype"), state.storage.form))
        self._must(
            found == wanted,
            f"the state_dict's state is in {found}, this optimizer's in {wanted}; load one of the same state_dtype",
        )
        for key, kind in (("t", Sequence), ("state", Sequence), ("group", Mapping)):
            form = "list" if kind is Sequence else "dict"
            fits = isinstance(saved[key], kind) and not isinstance(saved[key], str)
            self._must(fits, f"the state_dict's {key} must be a {form}, got {_kind(saved[key])}")
        found, wanted = sorted(map(str, saved["group"])), sorted(state.group)
        self._must(found == wanted, f"the state_dict's group has {found}, expected {wanted}")
        for key in ("t", "state"):
            count = len(saved[key])
            fits = count == len(state.t)
            self._must(fits, f"the state_dict is for {count} parameters, not {len(state.t)}")
        order, named = self._order(saved.get("keys")), labels(self.params)
        counts = [
            self._count(f"t of {label}", saved["t"][i])
            for label, i in zip(named, order, strict=True)
        ]
        group_t = self._count("group_t", saved["group_t"])
        arrays = [
            self._fitting(label, own, saved["state"][i])
            for label, own, i in zip(named, state.arrays, order, strict=True)
        ]
        group = {n: self._scalar(n, saved["group"][n], v) for n, v in state.group.items()}
        return counts, group_t, arrays, group

    def _must(self, fits: bool, message: str) -> None:
        if not fits:
            message = f"{self.rule.name}: {message}"
            raise StepError(message)

    def _order(self, keys: Any) -> Sequence[int]:
        """Where the saved state of each parameter is: by key where both have keys."""
        own = self._keys
        if keys is None or own is None:
            return range(len(self.state.t))
        keys = list(keys)
        same = set(keys) == set(own) and len(keys) == len(own)
        self._must(same, f"the state_dict is for the keys {keys}, params has {own}")
        return [keys.index(k) for k in own]

    def _count(self, label: str, value: Any) -> int:
        try:
            count = operator.index(value)
        except TypeError:
            count = -1
        whole = count >= 0 and not isinstance(value, bool)
        self._must(whole, f"{label} must be a number of steps, 0 or more, got {value!r}")
        return count

    def _scalar(self, name: str, value: Any, like: Any) -> Any:
        """A value of the group's state, where and what ``like`` is."""
        number = None
        if getattr(value, "shape", ()) == () and not isinstance(value, str | bytes):
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = None
        self._must(
            number is not None, f"the state_dict's group has no number as {name}, got {value!r}"
        )
        return self.backend.scalar(number, self.backend.dtype(like), like)

    def _fitting(self, label: str, own: Mapping[str, Any], new: Any) -> dict[str, Any]:
        """The saved state arrays of one parameter as the backend's."""
        self._must(isinstance(new, Mapping), f"state of {label} must be a dict, got {_kind(new)}")
        found, wanted = sorted(map(str, new)), sorted(own)
        self._must(found == wanted, f"state of {label} has {found}, expected {wanted}")
        for n, a in own.items():
            got = (
                f"{new[n].dtype} {tuple(new[n].shape)}"
                if hasattr(new[n], "dtype")
                else _kind(new[n])
            )
            self._must(
                got == f"{a.dtype} {tuple(a.shape)}",
                f"state {n} of {label} must be {a.dtype} of shape {tuple(a.shape)}, got {got}",
            )
        return {
            n: self.backend.asarray(v) if isinstance(v, np.ndarray) else v for n, v in new.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        # A backend holds compiled kernels and devices, which are this process's.
        return {**self.__dict__, "backend": self.backend.name}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__dict__.update(saved, backend=isostep.backend(saved["backend"]))


def _kind(value: Any) -> str:
    return type(value).__name__


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
