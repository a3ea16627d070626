"""The contract beside the values: what a step keeps, what it leaves alone, and how it fails.

Each check takes a backend and a case and returns what is wrong, one line each; none at all is a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import array_api_compat
import numpy as np

from isostep.state import State
from isostep_conformance import hypers
from isostep_conformance.budget import Tally
from isostep_conformance.cases import Case
from isostep_conformance.formats import FORMATS
from isostep_conformance.halves import rounded_once
from isostep_conformance.runner import (
    compare,
    differences,
    feed,
    load,
    same_bits,
    taken,
    told,
    unload,
)
from isostep_conformance.truth import Run, Shot, Snapshot, begun, moved, run, shots, sums_of

#: A step late enough for corrections that stop at some step, or counts that wrap, to show.
LATE = 1000

Check = Callable[[Any, Run], Iterator[str]]


def check(backend: Any, path: str, case: Case, name: str) -> list[str]:
    """Run one contract check; a raised error is a finding too."""
    context = f"{case.id} on {path}, {name.replace('_', ' ')}"
    try:
        found = [f"{context}: {line}" for line in CHECKS[name](backend, run(case, "run"))]
    except Exception as error:  # a backend may raise anything
        found = [f"{context}: raised {told(error)}"]
    return found


def _shot(found: Run) -> Shot:
    """A step in mid-run, where no state is zero any more."""
    return found.shots[4]


def _step(backend: Any, found: Run, shot: Shot) -> Snapshot:
    return taken(backend, found.rule, shot)


def same_bits_twice(backend: Any, found: Run) -> Iterator[str]:
    """The same call gives the same bits."""
    shot = _shot(found)
    yield from differences(_step(backend, found, shot), _step(backend, found, shot))


def grouping(backend: Any, found: Run) -> Iterator[str]:
    """Each parameter alone gives what it gives in a list, within budget."""
    if found.rule.reduces_group or found.rule.sequential:
        return  # the group is part of the rule there
    shot = _shot(found)
    for i in range(len(shot.before.params)):
        chosen = _chosen(shot, [i])
        tally = Tally()
        compare(tally, chosen.forced, _step(backend, found, chosen), chosen, f"parameter {i} alone")
        yield from tally.failures


def grouping_bits(backend: Any, found: Run) -> Iterator[str]:
    """Each parameter alone gives the very bits that it gives in a list."""
    if found.rule.reduces_group or found.rule.sequential:
        return
    shot = _shot(found)
    whole = _step(backend, found, shot)
    for i in range(len(shot.before.params)):
        alone = _step(backend, found, _chosen(shot, [i]))
        yield from (
            f"alone and in a list differ, parameter {i}: {d}"
            for d in differences(alone, _pick(whole, [i]))
        )


def order(backend: Any, found: Run) -> Iterator[str]:
    """The order of the parameters does not matter; where the group is summed over, it matters by rounding only."""
    if found.rule.sequential:
        return  # the group's state is threaded through the parameters in order: that is the rule
    shot = _shot(found)
    turned = list(reversed(range(len(shot.before.params))))
    got = _step(backend, found, _chosen(shot, turned))
    if not found.rule.reduces_group:
        yield from (
            f"reversed order: {d}"
            for d in differences(got, _pick(_step(backend, found, shot), turned))
        )
        return
    tally = Tally()
    compare(tally, shot.forced, _pick(got, turned), shot, "reversed order")
    yield from tally.failures


def _chosen(shot: Shot, which: list[int]) -> Shot:
    grads = [shot.grads[i] for i in which]
    inputs = {
        n: [v[i] for i in which] if isinstance(v, list) else v for n, v in shot.inputs.items()
    }
    return Shot(
        shot.rule, shot.form, _pick(shot.before, which), grads, inputs, _pick(shot.after, which)
    )


def _pick(snapshot: Snapshot, which: list[int]) -> Snapshot:
    s = snapshot.state
    chosen = replace(s, t=[s.t[i] for i in which], arrays=[s.arrays[i] for i in which])
    return Snapshot([snapshot.params[i] for i in which], chosen)


def _without_group(snapshot: Snapshot) -> Snapshot:
    return Snapshot(snapshot.params, replace(snapshot.state, group={}))


def no_gradient(backend: Any, found: Run) -> Iterator[str]:
    """A parameter without a gradient is skipped whole: value, state and step count."""
    shot = _shot(found)
    params, state = load(backend, shot.before)
    grads, inputs = feed(backend, shot)
    skipped = 0
    grads[skipped] = None
    got = unload(backend, *backend.step(found.rule, params, grads, state, **inputs))
    same, before = (_without_group(_pick(x, [skipped])) for x in (got, shot.before))
    yield from (f"a parameter without gradient changed: {d}" for d in differences(same, before))
    rest = [i for i in range(len(params)) if i != skipped]
    if rest:
        alone = _step(backend, found, _chosen(shot, rest))
        yield from (f"the others changed: {d}" for d in differences(_pick(got, rest), alone))


def no_gradient_at_all(backend: Any, found: Run) -> Iterator[str]:
    """A step without any gradient changes nothing."""
    shot = _shot(found)
    params, state = load(backend, shot.before)
    _, inputs = feed(backend, shot)
    got = unload(backend, *backend.step(found.rule, params, [None] * len(params), state, **inputs))
    yield from (f"without any gradient: {d}" for d in differences(got, shot.before))
    if got.state.group_t != shot.before.state.group_t:
        yield f"without any gradient the group's step count went to {got.state.group_t}"


def saved_and_restored(backend: Any, found: Run) -> Iterator[str]:
    """State taken out as NumPy arrays in mid-run and put back gives the same bits as going on."""
    ends = []
    for save in (False, True):
        params, state = load(backend, found.shots[0].before)
        for k, shot in enumerate(found.shots[:4]):
            if save and k == 2:
                params, state = load(backend, unload(backend, params, state))
            grads, inputs = feed(backend, shot)
            params, state = backend.step(found.rule, params, grads, state, **inputs)
        ends.append(unload(backend, params, state))
    yield from (f"after saving and restoring: {d}" for d in differences(*ends))


def as_dict(backend: Any, found: Run) -> Iterator[str]:
    """Parameters may be a dict, and names decide: of gradients, and of parameters in another order than the state's."""
    shot = _shot(found)
    wanted = _step(backend, found, shot)
    params, state = load(backend, shot.before)
    grads, inputs = feed(backend, shot)
    names = [f"layer{i}.weight" for i in range(len(params))]
    by_name = {
        n: dict(zip(names, v, strict=True)) if isinstance(v, list) else v for n, v in inputs.items()
    }
    state.keys = tuple(names)
    turned = dict(reversed(list(zip(names, params, strict=True))))
    new, state = backend.step(
        found.rule, turned, dict(zip(names, grads, strict=True)), state, **by_name
    )
    if not isinstance(new, dict) or set(new) != set(names):
        yield f"params came in as a dict with keys {names} and went out as {type(new).__name__} with {list(new)}"
        return
    new = {n: new[n] for n in names}
    yield from (f"as a dict: {d}" for d in differences(unload(backend, new, state), wanted))


def in_place(backend: Any, found: Run) -> Iterator[str]:
    """In place: the same objects come back, changed. Otherwise what was given stays as it was. Devices are kept."""
    shot = _shot(found)
    params, state = load(backend, shot.before)
    grads, inputs = feed(backend, shot)
    given = [*params, *(a for one in state.arrays for a in one.values())]
    new_params, new_state = backend.step(found.rule, params, grads, state, **inputs)
    new = [*new_params, *(a for one in new_state.arrays for a in one.values())]
    old = [*shot.before.params, *(a for one in shot.before.state.arrays for a in one.values())]
    for i, (a, b, start) in enumerate(zip(given, new, old, strict=True)):
        if _device(a) != _device(b):
            yield f"array {i} moved from {_device(a)} to {_device(b)}"
        if backend.in_place and a is not b:
            yield f"array {i}: a backend that works in place returned another object"
        if not backend.in_place and not same_bits(backend.to_numpy(a), start):
            yield f"array {i}: a backend that does not work in place changed what it was given"


def _device(array: Any) -> str:
    try:
        return str(array_api_compat.device(array))
    except (TypeError, AttributeError):
        return "unknown"


def strided(backend: Any, found: Run) -> Iterator[str]:
    """A parameter and a gradient that are every other element of a larger array."""
    if not backend.in_place:
        return  # a slice is an array like any other there
    shot = _shot(found)
    wanted = _step(backend, found, shot)
    params, state = load(backend, shot.before)
    grads, inputs = feed(backend, shot)
    which = [i for i, p in enumerate(shot.before.params) if p.size > 1]
    bases = {}
    for i in which:
        bases[i] = backend.asarray(np.repeat(shot.before.params[i], 2, axis=-1))
        params[i] = bases[i][..., ::2]
        grads[i] = backend.asarray(np.repeat(shot.grads[i], 2, axis=-1))[..., 1::2]
    got = unload(backend, *backend.step(found.rule, params, grads, state, **inputs))
    if any(any(reach) for p in shot.before.params for reach in sums_of(shot, p).values()):
        # A sum over a strided array may have another order: the values stay within budget.
        tally = Tally()
        compare(tally, shot.forced, got, shot, "strided")
        yield from tally.failures
    else:
        yield from (f"strided: {d}" for d in differences(got, wanted))
    for i in which:
        between = backend.to_numpy(bases[i])[..., 1::2]
        if not same_bits(np.ascontiguousarray(between), shot.before.params[i]):
            yield f"params[{i}]: a step wrote between the elements of a strided parameter"


def transposed(backend: Any, found: Run) -> Iterator[str]:
    """Matrices that lie in memory column by column: a gradient, and of a backend in place the parameter too."""
    shot = _shot(found)
    which = [i for i, p in enumerate(shot.before.params) if p.ndim == 2 and min(p.shape) > 1]
    if not which:
        return
    params, state = load(backend, shot.before)
    grads, inputs = feed(backend, shot)
    for i in which:
        grads[i] = _by_columns(backend, shot.grads[i])
        if backend.in_place:
            params[i] = _by_columns(backend, shot.before.params[i])
    got = unload(backend, *backend.step(found.rule, params, grads, state, **inputs))
    tally = Tally()
    compare(tally, shot.forced, got, shot, "matrices by columns")
    yield from tally.failures


def _by_columns(backend: Any, matrix: np.ndarray) -> Any:
    rows = backend.asarray(np.ascontiguousarray(matrix.T))
    with backend.around(rows):
        return rows.T


def slow_averages(backend: Any, found: Run) -> Iterator[str]:
    """With decay rates near 1, as users have them, 1 - beta**t of the first steps is no difference of float32's.

    Of a step in float64 it is one of float64's: there is nothing wider that a backend has to take.
    """
    rule = hypers.slow(found.rule)
    if rule is None or found.case.form.compute is FORMATS["float64"]:
        return
    tally = Tally()
    for shot in _slow_shots(found.case):
        got = _step(backend, replace(found, rule=rule), shot)
        compare(tally, shot.forced, got, shot, f"{rule!r}, step {shot.before.state.group_t + 1}")
    yield from tally.failures


@lru_cache(maxsize=4)
def _slow_shots(case: Case) -> list[Shot]:
    """The first two steps of a case's run, made with such rates, and the second as a late one."""
    rule, script = hypers.slow(case.rule("run")), run(case, "run").script
    assert rule is not None
    first = replace(script, grads=script.grads[:2], inputs=script.inputs[:2], jumps={}, resets={})
    made = shots(rule, case.form, first)
    return [*made, moved(made[-1], rule, LATE - 1)]


def own_counts(backend: Any, found: Run) -> Iterator[str]:
    """Each parameter's step has its own number, where some have skipped steps: corrections, schedules and phases."""
    shot = _shot(found)
    start = shot.before.copy()
    start.state.t = [t - i % 3 for i, t in enumerate(start.state.t)]
    apart = begun(shot, found.rule, start)
    tally = Tally()
    label = f"steps {[t + 1 for t in start.state.t]} in one call"
    compare(tally, apart.forced, _step(backend, found, apart), apart, label)
    yield from tally.failures


def changed_numbers(backend: Any, found: Run) -> Iterator[str]:
    """A step with other hyperparameters than the one before, in the same arrays: nothing of the old is kept."""
    rule = found.case.subject.exact
    if rule.structure() != found.rule.structure():
        return
    shot, after = found.shots[4:6]
    params, state = load(backend, shot.before)
    grads, inputs = feed(backend, shot)
    params, state = backend.step(found.rule, params, grads, state, **inputs)
    changed = begun(after, rule, unload(backend, params, state))
    grads, inputs = feed(backend, after)
    got = unload(backend, *backend.step(rule, params, grads, state, **inputs))
    tally = Tally()
    compare(tally, changed.forced, got, changed, f"after a step with other numbers: {rule!r}")
    yield from tally.failures


def no_recompilation(backend: Any, found: Run) -> Iterator[str]:
    """The second step, with other values of t and of the hyperparameters, compiles nothing."""
    count = getattr(backend, "compilations", None)
    if count is None:
        return
    params, state = load(backend, found.shots[0].before)
    seen: dict[Any, int] = {}
    for shot in found.shots[:8]:
        phase = found.rule.phase(state.group_t + 1)
        before = count()
        grads, inputs = feed(backend, shot)
        params, state = backend.step(found.rule, params, grads, state, **inputs)
        if seen.get(phase) and count() != before:
            yield f"step {state.group_t} compiled {count() - before} more programs"
        seen[phase] = seen.get(phase, 0) + 1


def errors(backend: Any, found: Run) -> Iterator[str]:
    """What cannot be stepped is refused in one line, and parameters and state are as before, bit by bit."""
    shot = _shot(found)
    for label, spoil in _SPOILS.items():
        params, state = load(backend, shot.before)
        grads, inputs = feed(backend, shot)
        call = spoil(backend, found, params, grads, state, inputs)
        if call is None:
            continue
        try:
            backend.step(*call[0], **call[1])
        except (ValueError, TypeError) as error:
            if "\n" in str(error).strip() or not str(error).strip():
                yield f"{label}: the error is not one line: {str(error)!r}"
        except Exception as error:
            yield f"{label}: must raise a ValueError or TypeError, such as isostep.StepError; raised {told(error)}"
        else:
            yield f"{label}: was accepted"
        after = unload(backend, params, state)
        yield from (
            f"{label}: was refused, yet changed {d}" for d in differences(after, shot.before)
        )


def _unknown_input(b: Any, r: Run, p: Any, g: Any, s: State, i: dict[str, Any]) -> Any:
    return (r.rule, p, g, s), {**i, "no_such_input": g}


def _missing_input(b: Any, r: Run, p: Any, g: Any, s: State, i: dict[str, Any]) -> Any:
    return ((r.rule, p, g, s), {}) if i else None


def _wide_value(b: Any, r: Run, p: Any, g: Any, s: State, i: dict[str, Any]) -> Any:
    wide = {n: [b.asarray(np.ones(2))] for n in r.rule.group_input_names}
    return ((r.rule, p, g, s), {**i, **wide}) if wide else None


def _wrong_shape(b: Any, r: Run, p: Any, g: Any, s: State, i: dict[str, Any]) -> Any:
    form = np.asarray(b.to_numpy(g[-1])).dtype
    return (r.rule, p, [*g[:-1], b.asarray(np.ones((2, 9), form))], s), i


def _wrong_dtype(b: Any, r: Run, p: Any, g: Any, s: State, i: dict[str, Any]) -> Any:
    mine = np.asarray(b.to_numpy(g[-1]))
    other = next(
        (d for d in ("float32", "float64") if d in b.dtypes and d != mine.dtype.name), None
    )
    return None if other is None else ((r.rule, p, [*g[:-1], b.asarray(mine.astype(other))], s), i)


def _too_few(b: Any, r: Run, p: Any, g: Any, s: State, i: dict[str, Any]) -> Any:
    return (r.rule, p, g[:-1], s), i


def _not_arrays(b: Any, r: Run, p: Any, g: Any, s: State, i: dict[str, Any]) -> Any:
    return (r.rule, p, [*g[:-1], "gradient"], s), i


def _integers(b: Any, r: Run, p: Any, g: Any, s: State, i: dict[str, Any]) -> Any:
    whole = np.ones(np.shape(b.to_numpy(p[-1])), np.int32)
    return (r.rule, [*p[:-1], b.asarray(whole)], g, s), i


def _foreign_state(b: Any, r: Run, p: Any, g: Any, s: State, i: dict[str, Any]) -> Any:
    return (r.rule, p, g, replace(s, rule="another rule")), i


def _no_state(b: Any, r: Run, p: Any, g: Any, s: State, i: dict[str, Any]) -> Any:
    return (r.rule, p, g, None), i


def _other_names(b: Any, r: Run, p: Any, g: Any, s: State, i: dict[str, Any]) -> Any:
    return (r.rule, p, g, replace(s, arrays=[{"no_such_state": a} for a in p])), i


def _short_state(b: Any, r: Run, p: Any, g: Any, s: State, i: dict[str, Any]) -> Any:
    return (r.rule, p, g, replace(s, t=s.t[:-1], arrays=s.arrays[:-1])), i


_SPOILS: dict[str, Callable[..., Any]] = {
    "an input the rule does not take": _unknown_input,
    "a missing input": _missing_input,
    "an input of the group that is no 0-d value": _wide_value,
    "a gradient of another shape": _wrong_shape,
    "a gradient of another dtype": _wrong_dtype,
    "too few gradients": _too_few,
    "a gradient that is no array": _not_arrays,
    "an integer parameter": _integers,
    "a state of another rule": _foreign_state,
    "no state": _no_state,
    "a state with other names": _other_names,
    "a state of fewer parameters": _short_state,
}

CHECKS: dict[str, Check] = {
    f.__name__: f
    for f in (
        same_bits_twice,
        grouping,
        grouping_bits,
        order,
        no_gradient,
        no_gradient_at_all,
        saved_and_restored,
        as_dict,
        in_place,
        strided,
        transposed,
        slow_averages,
        own_counts,
        changed_numbers,
        rounded_once,
        no_recompilation,
        errors,
    )
}
