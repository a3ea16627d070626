"""A run handed from one backend to another: parameters and state as arrays of the other, which goes on with them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from isostep import file_checks
from isostep.backend import Backend, BackendError, families, family
from isostep.backend import backend as find_backend
from isostep.nm import namespace
from isostep.rule import BoundRule
from isostep.state import State, StepError, arranged, as_list, check_rule, check_state, keyed


def move(
    rule: BoundRule, params: Any, state: State, to: Any, *, backend: Any = None
) -> tuple[Any, State]:
    """Parameters and state as arrays of another backend, to the bit; those given stay as they are.

    ``rule, params, state = isostep_torch.to_portable(optimizer)``, moved to ``"jax"``, are what
    ``isostep.backend("jax").step`` goes on with, as ``"numpy"`` or ``"cupy"`` does with what ``isostep.load`` reads.

    Args:
        rule: the rule, as given to ``backend.step``.
        params: list or dict of arrays of any installed backends.
        state: what ``backend.init`` or ``backend.step`` returned for them.
        to: a backend, or its name.
        backend: that of all arrays, or its name; by default the family that each belongs to.

    Raises:
        StepError: the state does not belong to this rule and these parameters, or ``to`` has no such arrays.
    """
    check_rule(rule)
    taker = find_backend(to) if isinstance(to, str) else to
    if not isinstance(taker, Backend):
        message = f"move: to must be a name such as 'numpy', or a backend, got {to!r}"
        raise BackendError(message)
    params = keyed(rule, params, state)
    arrays = as_list(params)
    check_state(rule, state, len(arrays))
    givers: dict[type, Any] = {}

    def host(a: Any) -> np.ndarray:
        if type(a) not in givers:
            givers[type(a)] = backend_of([a], backend, "move")
        return np.array(givers[type(a)].to_numpy(a))

    plain = [host(a) for a in arrays]
    found = copy.copy(state)
    found.plan = found.repeat = found.figures = None
    found.sealed, found.t = False, list(state.t)
    found.handling = copy.copy(state.handling)
    found.arrays = [{n: host(a) for n, a in own.items()} for own in state.arrays]
    found.group = {n: host(a) for n, a in state.group.items()}
    file_checks.arrays(rule, plain, found)
    return arranged(params, handed(rule.name, plain, found, taker)), found


def handed(what: str, params: list[Any], state: State, taker: Any) -> list[Any]:
    """NumPy's arrays as another backend's: the parameters, and in the state itself. ``what`` begins what is said.

    Raises:
        StepError: the backend has no arrays of some dtype.
    """
    for own in (params, *map(dict.values, state.arrays), state.group.values()):
        for a in own:
            if a.dtype.name not in (*taker.dtypes, "uint8"):
                message = f"{what} has {a.dtype.name} arrays, and {taker.name} takes {', '.join(taker.dtypes)}"
                raise StepError(message)
    state.arrays = [{n: taker.asarray(a) for n, a in own.items()} for own in state.arrays]
    state.group = {n: taker.asarray(a) for n, a in state.group.items()}
    return [taker.asarray(a) for a in params]


def backend_of(arrays: list[Any], given: Any, caller: str) -> Any:
    """The backend whose arrays these are: given, or the simplest path of the family of their namespace."""
    if given is not None:
        return find_backend(given) if isinstance(given, str) else given
    words = namespace(arrays[0]).__name__.split(".") if arrays else ["numpy"]
    known = families()
    name = next((w for w in words if w in known), None)
    if name is None:
        message = f"no installed backend has arrays of {'.'.join(words)}; name it: {caller}(..., backend=...)"
        raise StepError(message)
    return find_backend(f"{name}:{list(family(name).paths)[-1]}")
