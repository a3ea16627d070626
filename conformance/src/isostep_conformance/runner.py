"""Running a backend through a case: every step from the reference's state, and many steps on its own."""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from isostep.program import PARAMETER
from isostep.rule import BoundRule
from isostep.state import State
from isostep_conformance.budget import Tally
from isostep_conformance.cases import Case
from isostep_conformance.truth import Run, Shot, Snapshot, Target, run


def load(backend: Any, snapshot: Snapshot) -> tuple[list[Any], State]:
    """A snapshot as the backend's own arrays."""
    s = snapshot.state
    arrays = [{n: backend.asarray(a) for n, a in one.items()} for one in s.arrays]
    group = {n: backend.asarray(np.asarray(v)) for n, v in s.group.items()}
    return [backend.asarray(p) for p in snapshot.params], State(
        s.rule, list(s.t), arrays, group, s.group_t
    )


def unload(backend: Any, params: Any, state: State) -> Snapshot:
    """The backend's arrays as NumPy arrays."""
    arrays = [{n: backend.to_numpy(a) for n, a in one.items()} for one in state.arrays]
    group = {n: np.asarray(backend.to_numpy(v)) for n, v in state.group.items()}
    values = list(params.values()) if isinstance(params, dict) else list(params)
    return Snapshot(
        [backend.to_numpy(p) for p in values],
        State(state.rule, list(state.t), arrays, group, state.group_t),
    )


def feed(backend: Any, shot: Shot) -> tuple[list[Any], dict[str, Any]]:
    """Gradients and extra inputs of a step as the backend's arrays."""
    return [backend.asarray(g) for g in shot.grads], {
        n: [backend.asarray(a) for a in v] if isinstance(v, list) else backend.asarray(v)
        for n, v in shot.inputs.items()
    }


def taken(backend: Any, rule: BoundRule, shot: Shot) -> Snapshot:
    """What a backend makes of one step, from where the shot starts."""
    params, state = load(backend, shot.before)
    grads, inputs = feed(backend, shot)
    return unload(backend, *backend.step(rule, params, grads, state, **inputs))


def told(error: Exception) -> str:
    """What an error is, in one line, and where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    first = "".join(f": {line}" for line in str(error).splitlines()[:1])
    return f"{type(error).__name__}{first} ({Path(place.filename).name}:{place.lineno})"


def check(backend: Any, name: str, case: Case, scenario: str) -> Tally:
    """All of one scenario: teacher-forced, and free-running where the truth has that."""
    found = run(case, scenario)
    tally = Tally()
    context = f"{case.id} on {name}, {scenario}"
    try:
        _forced(backend, found, tally, context)
        if found.free:
            _free(backend, found, tally, context)
    except Exception as error:  # a backend may raise anything; that is a finding
        tally.failures.append(f"{context}: raised {told(error)}")
        tally.worst = np.inf
    if tally.failures:
        tally.failures.append(f"rule: {found.rule!r}")
    return tally


def _forced(backend: Any, found: Run, tally: Tally, context: str) -> None:
    for k, shot in enumerate(found.shots):
        params, state = load(backend, shot.before)
        grads, inputs = feed(backend, shot)
        label = (
            f"{context}, step {k} (t = {shot.before.state.group_t + 1}), from the reference's state"
        )
        params, state = backend.step(found.rule, params, grads, state, **inputs)
        tally.count(shot.forced.elements, shot.forced.exempt, free=False)
        compare(tally, shot.forced, unload(backend, params, state), shot, label)
        untouched(tally, backend, shot, grads, inputs, label)


def _free(backend: Any, found: Run, tally: Tally, context: str) -> None:
    params, state = load(backend, found.shots[0].before)
    for k, (shot, target) in enumerate(zip(found.shots, found.free, strict=False)):
        if k in found.script.jumps:
            done = found.script.jumps[k]
            state = replace(state, t=[done] * len(params), group_t=done)
        grads, inputs = feed(backend, shot)
        label = f"{context}, step {k} (t = {shot.before.state.group_t + 1}), free-running"
        params, state = backend.step(found.rule, params, grads, state, **inputs)
        tally.count(target.elements, target.exempt, free=True)
        compare(tally, target, unload(backend, params, state), shot, label)


def compare(tally: Tally, target: Target, got: Snapshot, shot: Shot, label: str) -> None:
    """Every parameter, state array and group value against the truth; dtypes and step counts exactly."""
    s = got.state
    wanted = shot.after
    if s.t != wanted.state.t or s.group_t != wanted.state.group_t:
        tally.failures.append(
            f"{label}: step counts are {s.t} and {s.group_t}, expected {wanted.state.t} and {wanted.state.group_t}"
        )
    for i, expected in enumerate(target.arrays):
        found = {PARAMETER: got.params[i], **s.arrays[i]}
        plain = {PARAMETER: wanted.params[i], **wanted.state.arrays[i]}
        if set(found) != set(plain):
            tally.failures.append(
                f"{label}: state of params[{i}] is {sorted(found)}, expected {sorted(plain)}"
            )
            continue
        for n, e in expected.items():
            name = f"params[{i}]" if n == PARAMETER else f"state[{i}][{n!r}]"
            _dtype(tally, found[n], plain[n], name, label)
            tally.add(e, found[n], name, label)
    for n, e in target.group.items():
        _dtype(tally, s.group[n], wanted.state.group[n], f"group[{n!r}]", label)
        tally.add(e, s.group[n], f"group[{n!r}]", label)


def _dtype(tally: Tally, got: np.ndarray, plain: np.ndarray, name: str, label: str) -> None:
    if np.asarray(got).dtype != np.asarray(plain).dtype:
        tally.failures.append(f"{label}: {name}: got dtype {got.dtype}, expected {plain.dtype}")
        tally.worst = np.inf


def untouched(
    tally: Tally,
    backend: Any,
    shot: Shot,
    grads: list[Any],
    inputs: dict[str, Any],
    label: str,
) -> None:
    """The gradient and the extra inputs are never written."""
    pairs = [
        (f"gradient[{i}]", a, b) for i, (a, b) in enumerate(zip(grads, shot.grads, strict=True))
    ]
    for n, v in inputs.items():
        if not isinstance(v, list):
            pairs.append((n, v, shot.inputs[n]))
            continue
        pairs += [
            (f"{n}[{i}]", a, b) for i, (a, b) in enumerate(zip(v, shot.inputs[n], strict=True))
        ]
    for name, now, original in pairs:
        if not same_bits(backend.to_numpy(now), original):
            tally.failures.append(f"{label}: {name} was written; a step must leave it as it is")
            tally.worst = np.inf


def same_bits(a: Any, b: Any) -> bool:
    """Whether two arrays agree in dtype, shape and every bit."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def differences(a: Snapshot, b: Snapshot) -> list[str]:
    """Where two snapshots differ in any bit."""
    found = []
    for i, (p, q) in enumerate(zip(a.params, b.params, strict=True)):
        if not same_bits(p, q):
            found.append(f"params[{i}]{_first(p, q)}")
    for i, (x, y) in enumerate(zip(a.state.arrays, b.state.arrays, strict=True)):
        found += [f"state[{i}][{n!r}]{_first(x[n], y[n])}" for n in x if not same_bits(x[n], y[n])]
    found += [
        f"group[{n!r}]" for n, v in a.state.group.items() if not same_bits(v, b.state.group[n])
    ]
    if a.state.t != b.state.t:
        found.append(f"t: {a.state.t} and {b.state.t}")
    return found


def _first(a: np.ndarray, b: np.ndarray) -> str:
    if a.dtype != b.dtype or a.shape != b.shape:
        return f": {a.dtype}{a.shape} and {b.dtype}{b.shape}"
    x, y = a.astype(np.float64), b.astype(np.float64)
    odd = np.argwhere((x != y) & ~(np.isnan(x) & np.isnan(y)))
    if not len(odd):
        return " in a sign or NaN bit"
    index = tuple(int(i) for i in odd[0])
    return f" element {index}: {x[index]!r} and {y[index]!r}"
