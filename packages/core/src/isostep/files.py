"""A rule, its parameters and its state in one safetensors file that every backend can read.

Tensors: ``params/KEY``, ``state/KEY/NAME`` and ``group/NAME``, KEY being the parameter's place in the list.
The file's metadata has one entry, ``isostep``: JSON with the format's number, the rule (its components by
name, the value of every hyperparameter, and whether it is observed; not the last step's figures), step counts, the
keys of params where they were a dict, how arrays are kept (``isostep.low_precision``), the backend that wrote it, and
versions. Numbers come back to the bit. Nothing in a file is executed.

Hyperparameters that are schedules of isostep's own are written by name with their arguments. What has no
such name (your own functions, rules and pieces that are not in the registry) stays yours: the file is
written, and ``load`` asks for the rule.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import numpy as np

from isostep import file_checks, schedules
from isostep.backend import Backend, BackendError
from isostep.backend import backend as find_backend
from isostep.domains import DomainError
from isostep.extras import need
from isostep.moving import backend_of, handed
from isostep.registry import FILE
from isostep.replacing import FileError, replacing
from isostep.rule import BoundRule, Component, Piece, Rule, RuleError
from isostep.state import State, StepError, as_list, check_rule, check_state, keyed
from isostep.storage import Handling
from isostep.telemetry import observe
from isostep.version import VERSION

FORMAT = 1


def save(
    path: str | os.PathLike[str],
    rule: BoundRule,
    params: Any,
    state: State,
    *,
    backend: Any = None,
) -> None:
    """Write a rule with its parameters and state into one file, replacing it only when all is written.

    Args:
        path: the file; by custom its name ends in ``.safetensors``.
        rule: the rule, as given to ``backend.step``.
        params: list or dict of arrays of any installed backend.
        state: what ``backend.init`` or ``backend.step`` returned for them.
        backend: that backend or its name; by default the family that the arrays belong to.

    Raises:
        StepError: the state does not belong to this rule and these parameters.
        FileError: there is no such folder, or the path is that of a device, a pipe or a folder.
        MissingExtra: safetensors is not installed (``pip install 'isostep[files]'``).
    """
    numpy_files = need("safetensors.numpy", "files", "isostep.save")
    check_rule(rule)
    params = keyed(rule, params, state)
    arrays = as_list(params)
    check_state(rule, state, len(arrays))
    writer = backend_of(arrays, backend, "save")
    tensors = {f"params/{i}": a for i, a in enumerate(arrays)}
    for i, own in enumerate(state.arrays):
        tensors |= {f"state/{i}/{n}": a for n, a in own.items()}
    tensors |= {f"group/{n}": a for n, a in state.group.items()}
    notes = {
        "format": FORMAT,
        "rule": [_describe(c, rule) for c in rule.components],
        "observed": rule.observed,
        "t": list(state.t),
        "group_t": state.group_t,
        "keys": _keys(params),
        "storage": {n: v for n, v in dataclasses.asdict(state.storage).items() if n != "packed"},
        "seed": state.handling.seed,
        "backend": writer.name,
        "versions": {"isostep": VERSION, "numpy": np.__version__},
    }
    # Not ascontiguousarray, which makes a 0-d array 1-d.
    plain = {n: np.asarray(writer.to_numpy(a), order="C") for n, a in tensors.items()}
    with replacing(path) as temporary:
        numpy_files.save_file(plain, temporary, metadata={"isostep": json.dumps(notes)})


def load(
    path: str | os.PathLike[str], backend: Any = "numpy", *, rule: BoundRule | None = None
) -> tuple[BoundRule, Any, State]:
    """Read what ``save`` wrote, as arrays of any backend.

    Args:
        path: the file.
        backend: a backend or its name; need not be the one that wrote the file.
        rule: the rule to use instead of the file's. Needed where the file cannot name it.

    Returns:
        ``(rule, params, state)``: params are a list or dict as they were, of the dtypes that they had.

    Raises:
        FileError: the file is not one of ``save``, is damaged, or names what is not known here.
        OSError: the file cannot be opened.
        MissingExtra: safetensors is not installed, or ml_dtypes for bfloat16 arrays.
    """
    safetensors = need("safetensors", "files", "isostep.load")
    reader = find_backend(backend) if isinstance(backend, str) else backend
    if not isinstance(reader, Backend):
        message = f"load: backend must be a name such as 'numpy', or a backend, got {backend!r}"
        raise BackendError(message)
    if rule is not None:
        check_rule(rule)
    name = os.fspath(path)
    try:
        with safetensors.safe_open(name, framework="np") as file:
            notes = _notes(name, file.metadata() or {})
            if any(file.get_slice(n).get_dtype() == "BF16" for n in file.keys()):
                # NumPy knows the name bfloat16 from then on; nobody else may have imported it yet
                need("ml_dtypes", "halves", f"isostep.load of {name}, which has bfloat16 arrays,")
            read = {n: file.get_tensor(n) for n in file.keys()}
    except safetensors.SafetensorError as error:
        message = f"{name} is not a safetensors file, or is damaged: {error}; save it again"
        raise FileError(message) from None
    try:
        bound = rule if rule is not None else _restore(name, notes["rule"])
        if rule is None and (observed := notes.get("observed")):
            bound = observe(bound, momentum=None if observed is True else observed)
        plain, state = _assemble(notes, read)
        keys = file_checks.keys(notes["keys"], len(plain))
        state.keys = None if keys is None else tuple(keys)
        state.storage = state.storage.of_rule(bound)
        check_state(bound, state, len(plain))
        file_checks.arrays(bound, plain, state)
    except FileError:
        raise
    except StepError as error:
        message = f"{name} does not fit this rule: {error}"
        raise FileError(message) from None
    except file_checks.Damage as error:
        message = f"{name} is damaged: {error}; save it again"
        raise FileError(message) from None
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        message = f"{name} is damaged: {type(error).__name__} {error}; save it again"
        raise FileError(message) from None
    try:
        params = handed(name, plain, state, reader)
    except StepError as error:
        raise FileError(str(error)) from None
    return bound, params if keys is None else dict(zip(keys, params, strict=True)), state


def _notes(name: str, metadata: dict[str, str]) -> dict[str, Any]:
    """The metadata of a file, its format checked."""
    text = metadata.get("isostep")
    if text is None:
        message = f"{name} is a safetensors file without isostep's metadata; load takes what isostep.save wrote"
        raise FileError(message)
    try:
        notes = json.loads(text)
        number = notes["format"]
    except (ValueError, KeyError, TypeError):
        message = f"{name} is damaged: its metadata cannot be read; save it again"
        raise FileError(message) from None
    if number != FORMAT:
        message = f"{name} has format {number!r}, this isostep {VERSION} reads {FORMAT}; install the one that wrote it"
        raise FileError(message)
    return dict(notes)


def _assemble(notes: dict[str, Any], read: dict[str, np.ndarray]) -> tuple[list[np.ndarray], State]:
    """Parameters and state as NumPy arrays."""
    rule = "+".join(c["prefix"].rstrip(".") or c["name"] for c in notes["rule"])
    counts = file_checks.counts(notes["t"])
    file_checks.tensors(read, len(counts))
    params = [read[f"params/{i}"] for i in range(len(counts))]
    arrays: list[dict[str, Any]] = [{} for _ in params]
    group: dict[str, Any] = {}
    for name, array in read.items():
        kind, _, rest = name.partition("/")
        if kind == "group":
            group[rest] = array
        elif kind == "state":
            i, _, which = rest.partition("/")
            arrays[int(i)][which] = array
    return params, State(
        rule,
        counts,
        arrays,
        group,
        file_checks.count("group_t", notes["group_t"]),
        storage=file_checks.storage(notes.get("storage", {})),
        handling=Handling(
            file_checks.count("seed", notes.get("seed", 0), None), range(len(params))
        ),
    )


def _keys(params: Any) -> list[str] | None:
    if not isinstance(params, dict):
        return None
    for key in params:
        if not isinstance(key, str):
            message = (
                f"a file's parameters must have names, got the key {key!r}; use strings, or a list"
            )
            raise StepError(message)
    return list(params)


# The rule as JSON.


def _describe(component: Component, rule: BoundRule) -> dict[str, Any]:
    own = component.own(rule.values)
    return {
        "name": component.part.name,
        "kind": _kind(component),
        "prefix": component.prefix,
        "known": _named(_kind(component), component.part.name) is component.part,
        "hyper": {n: _plain(v) for n, v in own.items()},
    }


def _kind(component: Component) -> str:
    return "Rule" if isinstance(component.part, Rule) else "Piece"


def _named(kind: str, name: str) -> Rule | Piece | None:
    """What a file's rule or piece of this name is here, if it is anything."""
    from isostep import definition, pieces

    if str(name).endswith(FILE):  # a path, which would be executed
        return None
    try:
        return definition(name) if kind == "Rule" else pieces.registry[name]
    except RuleError:
        return None


def _plain(value: Any) -> Any:
    """A hyperparameter as JSON: schedules of isostep's own by name, other functions only by their text."""
    if isinstance(value, tuple):
        return {"tuple": [_plain(v) for v in value]}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if dataclasses.is_dataclass(value) and type(value) is getattr(
        schedules, type(value).__name__, None
    ):
        fields = {
            f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init
        }
        return {"schedule": type(value).__name__, "arguments": fields}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return {"function": repr(value)}


def _revived(label: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_revived(label, v) for v in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_revived(label, v) for v in value["tuple"])
    if "schedule" in value:
        made = getattr(schedules, value["schedule"], None)
        if dataclasses.is_dataclass(made) and isinstance(made, type):
            arguments = {n: _revived(label, v) for n, v in value["arguments"].items()}
            return made(**arguments)
        message = f"{label} was the schedule {value['schedule']}, which this isostep has not"
    else:
        message = f"{label} was {value['function']}, which a file cannot hold"
    raise FileError(message)


def _restore(name: str, described: list[dict[str, Any]]) -> BoundRule:
    """The bound rule of a file; every value is checked as if it were given anew."""
    components: list[Component] = []
    values: dict[str, Any] = {}
    for d in described:
        part = _named(d["kind"], d["name"]) if d["known"] else None
        if part is None:
            message = f"{name}: the {d['kind'].lower()} {d['name']!r} is not known here; pass it: load(path, rule=...)"
            raise FileError(message)
        try:
            own = {n: _revived(f"{d['name']}'s {n}", v) for n, v in d["hyper"].items()}
            bound = part.values_of(own)
        except (FileError, RuleError, DomainError) as error:
            message = f"{name}: {error}; pass the rule: load(path, rule=...)"
            raise FileError(message) from None
        components.append(Component(part, d["prefix"]))
        values |= {d["prefix"] + n: v for n, v in bound.items()}
    return BoundRule(tuple(components), values)
