"""Optimizers that nobody wrote for isostep: found by name, given settings, and run to see which steps they take.

Two protocols are known, each by what its users write: ``Optimizer(params, **settings)`` with ``.grad`` and
``.step()`` (torch.optim and what follows it), and ``make(**settings)`` with ``init`` and ``update`` (optax).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

Arrays = list[np.ndarray]
#: What the argument is called that takes the parameters.
PARAMETERS = ("params", "parameters")


class TargetError(ValueError):
    """An optimizer that cannot be found, made or stepped: one line."""


#: What an optimizer keeps, under the names it has there: for every parameter an array, or None.
States = dict[str, list[np.ndarray | None]]
#: After each step the parameters, and what reads the state.
Steps = Iterator[tuple[Arrays, Callable[[], States]]]


class Stepped(Protocol):
    """Makes the optimizer, and steps it over the gradients."""

    def __call__(
        self, settings: Mapping[str, Any], start: Arrays, gradients: Sequence[Arrays]
    ) -> Steps: ...


@dataclass(frozen=True)
class Target:
    """An optimizer in question: what it may be given, with its defaults (``inspect.Parameter.empty``: required).

    ``more`` says that it takes settings of other names as well.
    """

    label: str
    defaults: Mapping[str, Any]
    stepped: Stepped
    more: bool = False

    def run(
        self, settings: Mapping[str, Any], start: Arrays, gradients: Sequence[Arrays]
    ) -> list[Arrays]:
        """The parameters after each step."""
        return [params for params, _ in self.stepped(settings, start, gradients)]

    def kept(
        self, settings: Mapping[str, Any], start: Arrays, gradients: Sequence[Arrays]
    ) -> list[States]:
        """The state after each step."""
        return [read() for _, read in self.stepped(settings, start, gradients)]


def target(given: str | Callable[..., Any], protocol: str | None = None) -> Target:
    """The optimizer of a dotted name, of ``file.py:name``, or of a callable; ``protocol`` where a guess is wrong."""
    made = _named(given) if isinstance(given, str) else given
    label = given if isinstance(given, str) else getattr(made, "__qualname__", repr(made))
    if not callable(made):
        message = f"{label} is no class or function, but {type(made).__name__}; name what makes the optimizer"
        raise TargetError(message)
    chosen = protocol or _protocol(made)
    if chosen not in PROTOCOLS:
        message = f"unknown protocol {chosen!r}; known: {', '.join(PROTOCOLS)}"
        raise TargetError(message)
    parameters = _parameters(made, label)
    takes_parameters, runner = PROTOCOLS[chosen]
    first = _first(parameters) if takes_parameters else None
    defaults = {
        p.name: p.default
        for p in parameters
        if p is not first and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    makes = made if first is None else _taking(made, first, parameters)

    def stepped(settings: Mapping[str, Any], start: Arrays, gradients: Sequence[Arrays]) -> Steps:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield from runner(makes, settings, start, gradients)
        except (Exception, SystemExit) as error:  # of somebody else's code: any
            message = f"{label}, used as {chosen}'s are, does not step with {_written(settings)}: {in_a_line(error)}"
            raise TargetError(message) from error

    more = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return Target(label, defaults, stepped, more)


def _parameters(made: Callable[..., Any], label: str) -> list[inspect.Parameter]:
    """The arguments of a callable; of a class that hands on what it has no name for, those of its bases as well."""
    found = {p.name: p for p in _signature(made, label).parameters.values()}
    bases = iter(made.__mro__[1:-1]) if inspect.isclass(made) else iter(())
    while any(p.kind is p.VAR_KEYWORD for p in found.values()):
        base = next((b for b in bases if "__init__" in vars(b)), None)
        if base is None:
            break
        handed_on = list(_signature(base, label).parameters.values())
        found = {n: p for n, p in found.items() if p.kind is not p.VAR_KEYWORD}
        for p in handed_on:
            found.setdefault(p.name, p)
    return list(found.values())


def _first(parameters: list[inspect.Parameter]) -> inspect.Parameter | None:
    """The argument that takes the parameters: the one of that name, or the first."""
    return next((p for p in parameters if p.name in PARAMETERS), next(iter(parameters), None))


def _taking(
    made: Callable[..., Any], first: inspect.Parameter, parameters: list[inspect.Parameter]
) -> Callable[..., Any]:
    """A callable whose first argument is its parameters, wherever it has them."""
    if first is parameters[0] and first.kind is not first.KEYWORD_ONLY:
        return made
    return lambda params, **rest: made(**{first.name: params}, **rest)


def in_a_line(error: BaseException) -> str:
    """What an error of somebody else's code says, or its beginning."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _written(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{n}={v!r}" for n, v in settings.items()) or "its defaults"


def _named(name: str) -> Any:
    """``torch.optim.AdamW``, ``torch.optim:AdamW`` or ``./mine.py:Mine``."""
    where, colon, what = name.rpartition(":")
    if where.endswith(".py"):
        return _attribute(_file(Path(where)), what, name)
    if colon:
        return _attribute(_module(where, name), what, name)
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:cut])
        try:
            found = importlib.util.find_spec(path)
        except (ImportError, ValueError, AttributeError):
            continue
        if found is not None:
            return _attribute(_module(path, name), ".".join(parts[cut:]), name)
    message = (
        f"no module of {name!r} can be imported; write module.name, module:name or file.py:name"
    )
    raise TargetError(message)


def _module(path: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        message = f"{name}: {path} cannot be imported: {type(error).__name__}: {error}"
        raise TargetError(" ".join(message.split())) from error


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        message = f"{path} is no file"
        raise TargetError(message)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        message = f"{path} cannot be imported"
        raise TargetError(message)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the file does
        message = f"{path} cannot be imported: {type(error).__name__}: {error}"
        raise TargetError(" ".join(message.split())) from error
    return module


def _attribute(module: ModuleType, path: str, name: str) -> Any:
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            message = f"{name}: {getattr(found, '__name__', found)} has no {part!r}"
            raise TargetError(message)
        found = getattr(found, part)
    return found


def _signature(made: Callable[..., Any], label: str) -> inspect.Signature:
    try:
        return inspect.signature(made)
    except (TypeError, ValueError) as error:
        message = f"{label}: its signature cannot be read"
        raise TargetError(message) from error


def _protocol(made: Callable[..., Any]) -> str:
    """torch's where there is a ``step`` or an argument is called ``params``, else optax's."""
    names = _signature(made, repr(made)).parameters
    return "torch" if hasattr(made, "step") or any(n in names for n in PARAMETERS) else "optax"


def _torch(
    made: Callable[..., Any],
    settings: Mapping[str, Any],
    start: Arrays,
    gradients: Sequence[Arrays],
) -> Steps:
    import torch

    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)  # noise is the same every time, and nobody else's changes
        params = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in start]
        optimizer = made(params, **settings)
        if hasattr(optimizer, "train"):  # schedule-free: the weights that gradients are taken at
            optimizer.train()

        def read() -> States:
            found = torch_state(optimizer, params)
            return {n: [_number(v) for v in values] for n, values in found.items()}

        for step in gradients:
            for p, g in zip(params, step, strict=True):
                p.grad = torch.from_numpy(g.copy())
            optimizer.step()
            yield [p.detach().numpy().copy() for p in params], read


def torch_state(optimizer: Any, params: Sequence[Any], group: int = 0) -> dict[str, list[Any]]:
    """What an optimizer keeps of each of these parameters: its own entries, and those of all and of their group."""
    state = getattr(optimizer, "state", {})
    groups = getattr(optimizer, "param_groups", ())
    own = [dict(state[p]) if p in state else {} for p in params]
    names = dict.fromkeys(n for entries in own for n in entries)
    found = {f"state[p][{n!r}]": [e.get(n) for e in own] for n in names}
    common = {f"state[{n!r}]": v for n, v in state.items() if isinstance(n, str)}
    common |= {f"group[{n!r}]": v for g in groups[group : group + 1] for n, v in g.items()}
    return found | {n: [v] * len(params) for n, v in common.items()}


def _optax(
    made: Callable[..., Any],
    settings: Mapping[str, Any],
    start: Arrays,
    gradients: Sequence[Arrays],
) -> Steps:
    import jax

    with jax.enable_x64(True):
        params = [jax.numpy.asarray(p) for p in start]
        transformation = made(**settings)
        state = transformation.init(params)
        for step in gradients:
            grads = [jax.numpy.asarray(g) for g in step]
            updates, state = transformation.update(grads, state, params)
            params = [p + u for p, u in zip(params, updates, strict=True)]
            yield [np.array(p) for p in params], partial(_leaves, state, len(params))


def _number(value: Any) -> np.ndarray | None:
    """A number or an array of numbers in float64; None of anything else."""
    value = value.detach() if hasattr(value, "detach") else value
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # what cannot be read as an array
        return None
    return found.astype(np.float64) if found.dtype.kind in "fiu" else None


def _leaves(state: Any, count: int) -> States:
    """A transformation's state: a leaf that stands in a list belongs to the parameter of that place, else to all."""
    from jax.tree_util import SequenceKey, keystr, tree_flatten_with_path

    found: States = {}
    for path, leaf in tree_flatten_with_path(state)[0]:
        place = path[-1].idx if path and isinstance(path[-1], SequenceKey) else count
        own = place < count and len(path) > 1
        name = "state" + keystr(path[:-1] if own else path)
        value = _number(leaf)
        if own:
            found.setdefault(name, [None] * count)[place] = value
        else:
            found[name] = [value] * count
    return found


#: Whether an argument takes the parameters, and how a run goes.
PROTOCOLS: dict[str, tuple[bool, Callable[..., Steps]]] = {
    "torch": (True, _torch),
    "optax": (False, _optax),
}
