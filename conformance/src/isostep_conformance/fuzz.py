"""Random rules on every path: each step from the reference's state against the truth, and a run of one's own.

    python -m isostep_conformance.fuzz --seeds 0:300                 all paths that run here
    python -m isostep_conformance.fuzz --seeds 17 --path jax:jit --shrink

A trial is a rule of ``random_rules`` with arrays of odd shapes and layouts, steps in which some have no gradient, so
that their counts part, and a dtype, all of them drawn from the seed. What one path refuses all must, before anything
has changed and in the same words. A failure says the seed, what is off and by how much, and the rule's source.
"""

from __future__ import annotations

import argparse
import gc
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from isostep.backends.numpy import NumpyReference
from isostep.rule import BoundRule
from isostep_conformance import paths, random_rules, runner
from isostep_conformance.budget import Tally
from isostep_conformance.cases import Case, Subject
from isostep_conformance.formats import FORMATS, Format
from isostep_conformance.hypers import generator
from isostep_conformance.random_rules import Draft
from isostep_conformance.runner import compare, differences, load, untouched
from isostep_conformance.scenarios import Script
from isostep_conformance.truth import Run, Shot, Snapshot, shots

SHAPES: tuple[tuple[int, ...], ...] = (
    (5,),
    (3, 4),
    (),
    (0,),
    (2, 3, 2),
    (1, 6),
    (17,),
    (4, 1),
    (3, 0),
)
STEPS = 6
#: How an array lies in memory: as rows, as every other element of a larger one, as a matrix lying on its side.
LAYOUTS = ("rows", "rows", "rows", "strided", "turned")
#: Every so many seeds one rule has a mistake in it.
SLIP = 8


@dataclass(frozen=True)
class Moment:
    """A step of a trial: where the reference stood, what it was fed, and where it went."""

    before: Snapshot
    grads: list[Any]  # None where there is no gradient
    inputs: dict[str, Any]
    after: Snapshot

    @property
    def active(self) -> list[int]:
        """The parameters that have a gradient."""
        return [i for i, g in enumerate(self.grads) if g is not None]


@dataclass(frozen=True)
class Trial:
    """A rule with what it is fed. ``refused`` is what the reference says of it, if it takes no step."""

    draft: Draft
    seed: int
    dtype: str

    @property
    def form(self) -> Format:
        """The number format."""
        return FORMATS[self.dtype]

    @cached_property
    def rule(self) -> BoundRule:
        """The bound rule."""
        return self.draft.bind()

    @cached_property
    def script(self) -> Script:
        """Parameters, gradients for every step, inputs."""
        rng = generator("random arrays", self.seed)
        allowed = self.rule.rule.ndim
        fitting = [s for s in SHAPES if allowed is None or len(s) in allowed]
        chosen = [fitting[i] for i in rng.permutation(len(fitting))[: int(rng.integers(2, 5))]]
        if rng.random() < 0.3:  # two of one shape: some paths keep those together
            chosen.append(chosen[0])
        params = [_store(rng.standard_normal(s), self.form) for s in chosen]
        grads = [[_store(_gradient(rng, s), self.form) for s in chosen] for _ in range(STEPS)]
        inputs: list[dict[str, Any]] = []
        for _ in range(STEPS):
            own = {
                n: [_store(rng.standard_normal(s), self.form) for s in chosen]
                for n in self.rule.input_names
            }
            shared = {
                n: _store(rng.uniform(0.5, 2.0), self.form.compute)
                for n in self.rule.group_input_names
            }
            inputs.append({**own, **shared})
        return Script("run", params, grads, inputs)

    @cached_property
    def layouts(self) -> list[tuple[str, str]]:
        """How each parameter and its gradient lie in memory."""
        rng = generator("random layouts", self.seed)
        one = [str(x) for x in rng.choice(LAYOUTS, 2 * len(self.script.params))]
        return list(zip(one[::2], one[1::2], strict=True))

    @cached_property
    def moments(self) -> list[Moment]:
        """The reference's steps; in the second and the fourth some parameters have no gradient."""
        rng, backend = generator("random gaps", self.seed), NumpyReference()
        params = [np.array(p) for p in self.script.params]
        now = Snapshot(params, backend.init(self.rule, params))
        found = []
        for k, full in enumerate(self.script.grads):
            missing = rng.random(len(full)) < (0.4 if k in (1, 3) else 0.0)
            grads = [None if gone else g for gone, g in zip(missing, full, strict=True)]
            before, inputs = now.copy(), self.script.inputs[k]
            params, state = backend.step(self.rule, now.params, grads, now.state, **inputs)
            now = Snapshot(params, state)
            found.append(Moment(before, grads, inputs, now.copy()))
        return found

    @cached_property
    def shots(self) -> list[Shot | None]:
        """The steps as far as they concern parameters with a gradient; None where there are none."""
        return [_shot(self.rule, self.form, m) if m.active else None for m in self.moments]

    @cached_property
    def run(self) -> Run:
        """The steps with every gradient, for a run of the backend's own."""
        subject = Subject(self.draft.name, 0, self.rule, self.rule)
        made = shots(self.rule, self.form, self.script)
        return Run(Case(subject, self.dtype), "run", self.rule, self.script, made)

    @cached_property
    def refused(self) -> str:
        """The kind and text of the error that the reference raises, or nothing."""
        try:
            _ = self.moments
        except Exception as error:  # its author may have done anything
            return _told(error)
        return ""


def trial(seed: int) -> Trial:
    """The trial of a seed."""
    dtype = ("float64", "float32")[seed % 2]
    return Trial(random_rules.draft(seed, slips=seed % SLIP == SLIP - 1), seed, dtype)


def check(backend: Any, path: str, found: Trial, tally: Tally | None = None) -> list[str]:
    """What is wrong with a path's steps of a trial, one line each."""
    tally = tally or Tally()
    context = f"seed {found.seed}, {found.dtype} on {path}"
    if found.refused:
        return [f"{context}: {line}" for line in _refusals(backend, found)]
    before = len(tally.failures)
    try:
        _first(backend, found, tally, context)
        for k, shot in enumerate(found.shots):
            _forced(
                backend, found, k, shot, tally, f"{context}, step {k} (from the reference's state)"
            )
        runner._free(backend, found.run, tally, context)
    except Exception as error:  # a backend may raise anything
        tally.failures.append(
            f"{context}: raised {_told(error)}, where the reference takes the step"
        )
    return tally.failures[before:]


def _plainly(told: str) -> str:
    """An error's text without shapes: a path that compiles is told of them with those of an example."""
    return re.sub(r"[(\[]-?\d*,[-\d, ]*[)\]]|\(\d*\)", "(...)", told)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _refusals(backend: Any, found: Trial) -> Iterator[str]:
    """Whether a path refuses what the reference does, in the same words, in one line and with nothing changed."""
    if "\n" in found.refused:
        yield f"the reference's error is not one line: {found.refused!r}"
    script = found.script
    params = [backend.asarray(p) for p in script.params]
    state = None
    try:
        state = backend.init(found.rule, params)
        for grads, inputs in zip(script.grads, script.inputs, strict=True):
            held = runner.unload(backend, params, state).copy()
            given = {n: _given(backend, v) for n, v in inputs.items()}
            params, state = backend.step(found.rule, params, _given(backend, grads), state, **given)
    except Exception as error:
        if _plainly(_told(error)) != _plainly(found.refused):
            yield f"raised {_told(error)!r}, the reference {found.refused!r}"
        if state is not None:
            now = runner.unload(backend, params, state)
            yield from (f"was refused, yet changed {d}" for d in differences(now, held))
    else:
        yield f"took steps that the reference refuses: {found.refused!r}"


def _given(backend: Any, values: Any) -> Any:
    if isinstance(values, list):
        return [None if v is None else backend.asarray(v) for v in values]
    return backend.asarray(values)


def _first(backend: Any, found: Trial, tally: Tally, context: str) -> None:
    """The first state is the reference's, to a few ulp."""
    wanted = found.moments[0].before
    params = [backend.asarray(p) for p in found.script.params]
    got = runner.unload(backend, params, backend.init(found.rule, params))
    pairs = [
        (f"state[{i}][{n!r}]", a, got.state.arrays[i].get(n))
        for i, one in enumerate(wanted.state.arrays)
        for n, a in one.items()
    ]
    pairs += [(f"group[{n!r}]", v, got.state.group.get(n)) for n, v in wanted.state.group.items()]
    for name, a, b in pairs:
        if b is None or a.shape != b.shape or a.dtype != b.dtype:
            tally.failures.append(f"{context}, init: {name} is {b!r}, expected {a!r}")
        elif not np.allclose(a, b, rtol=8 * found.form.eps, atol=0, equal_nan=True):
            tally.failures.append(f"{context}, init: {name} is {b}, expected {a}")


def _forced(
    backend: Any, found: Trial, k: int, shot: Shot | None, tally: Tally, label: str
) -> None:
    moment = found.moments[k]
    params, state = load(backend, moment.before)
    grads = _given(backend, moment.grads)
    if backend.in_place:
        for i, (own, of_gradient) in enumerate(found.layouts):
            params[i] = _laid(backend, moment.before.params[i], own)
            if grads[i] is not None:
                grads[i] = _laid(backend, moment.grads[i], of_gradient)
    inputs = {n: _given(backend, v) for n, v in moment.inputs.items()}
    params, state = backend.step(found.rule, params, grads, state, **inputs)
    got = runner.unload(backend, params, state)
    active = moment.active
    rest = [i for i in range(len(grads)) if i not in active]
    still, was = (_picked(x, rest, group=not active) for x in (got, moment.before))
    tally.failures += [
        f"{label}: a parameter without gradient changed: {d}" for d in differences(still, was)
    ]
    if shot is not None:
        tally.count(shot.forced.elements, shot.forced.exempt, free=False)
        compare(tally, shot.forced, _picked(got, active), shot, label)
        own_inputs = {n: _some(v, active) for n, v in inputs.items()}
        untouched(tally, backend, shot, _some(grads, active), own_inputs, label)


def _laid(backend: Any, array: np.ndarray, layout: str) -> Any:
    """The same values in another layout, where the array has one."""
    if layout == "strided" and array.ndim and array.size:
        return backend.asarray(np.repeat(array, 2, axis=-1))[..., ::2]
    if layout == "turned" and array.ndim == 2:
        return backend.asarray(np.ascontiguousarray(array.T)).T
    return backend.asarray(array)


def _some(values: Any, which: list[int]) -> Any:
    return [values[i] for i in which] if isinstance(values, list) else values


def _picked(snapshot: Snapshot, which: list[int], *, group: bool = True) -> Snapshot:
    """A part of the parameters, with their state."""
    s = snapshot.state
    state = replace(s, t=_some(s.t, which), arrays=_some(s.arrays, which))
    state = state if group else replace(state, group={})
    return Snapshot(_some(snapshot.params, which), state)


def _shot(rule: BoundRule, form: Format, moment: Moment) -> Shot:
    which = moment.active
    inputs = {n: _some(v, which) for n, v in moment.inputs.items()}
    before, after = _picked(moment.before, which), _picked(moment.after, which)
    return Shot(rule, form, before, _some(moment.grads, which), inputs, after)


def _store(values: Any, form: Format) -> np.ndarray:
    return np.asarray(np.asarray(values, np.float64).astype(form.numpy))


def _gradient(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of three decades, among them zeros of both signs."""
    g = rng.standard_normal(shape) * 10.0 ** rng.uniform(-2, 1, shape)
    return np.asarray(np.where(rng.random(shape) < 0.1, np.copysign(0.0, g), g))


def report(found: Trial, lines: Sequence[str]) -> str:
    """A failure as a text: what is off, and the rule's source."""
    shown = [*lines[:4], *([f"... and {len(lines) - 4} more"] if len(lines) > 4 else [])]
    return "\n".join([*shown, "", found.draft.source])


def shrunk(found: Trial, backend: Any, path: str) -> Trial:
    """The plainest rule that still fails on this path, as it does now."""

    def fails(candidate: Draft) -> bool:
        again = replace(found, draft=candidate)
        try:
            if bool(again.refused) != bool(found.refused):
                return False
            return bool(check(backend, path, again))
        except Exception:  # what is left of it has no truth
            return False

    return replace(found, draft=random_rules.shrunk(found.draft, fails))


def main(words: Sequence[str] | None = None) -> int:
    """Try seeds on paths; the exit code says whether something failed."""
    parser = argparse.ArgumentParser(
        prog="python -m isostep_conformance.fuzz", description=main.__doc__
    )
    parser.add_argument(
        "--seeds",
        default="0:300",
        metavar="FIRST:LAST",
        help="a range, or one seed; default: 0:300",
    )
    parser.add_argument(
        "--path", action="append", default=[], help="a path; repeatable; default: all that run here"
    )
    parser.add_argument(
        "--shrink", action="store_true", help="look for a plainer rule that fails too"
    )
    asked = parser.parse_args(words)
    first, colon, last = asked.seeds.partition(":")
    seeds = range(int(first), int(last) if colon else int(first) + 1)
    chosen = paths.chosen(asked.path) if asked.path else paths.installed()
    running = [p for p in chosen if not p.missing]
    failed = _all(seeds, running, shrink=asked.shrink)
    return 1 if failed else 0


def _all(seeds: Iterable[int], running: Sequence[paths.Path], *, shrink: bool) -> int:
    tallies = {p.name: Tally() for p in running}
    failed = refused = count = 0
    for seed in seeds:
        found = trial(seed)
        count += 1
        refused += bool(found.refused)
        for p in running:
            lines = check(p.backend, p.name, found, tallies[p.name])
            if lines:
                failed += 1
                said = shrunk(found, p.backend, p.name) if shrink else found
                print(report(said, check(p.backend, p.name, said) or lines), flush=True)
        if count % 20 == 0:
            for p in running:
                p.backend.forget()
            gc.collect()
    for name, tally in tallies.items():
        share = tally.exempt / max(tally.elements, 1)
        print(
            f"{name:26s} worst ratio {tally.worst:8.3g}, {tally.elements:,} numbers, {share:.1%} exempt"
        )
    print(f"{count} rules, {refused} of them refused, on {len(running)} paths: {failed} failures")
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
