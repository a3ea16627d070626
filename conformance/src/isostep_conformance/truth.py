"""Runs of a case with everything a backend is compared with: made once, shared by all paths.

The reference (the plain NumPy rule) goes through the scenario step by step. At each step the truth is computed
from the reference's rounded state (teacher-forced), and for long runs also from the truth's own
unrounded state (free-running).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from isostep.backends.numpy import NumpyReference
from isostep.program import PARAMETER, UPDATE, Program, ancestors, trace
from isostep.rule import BoundRule
from isostep.state import State
from isostep.values import BASES, DECOMPOSITIONS
from isostep_conformance import exact
from isostep_conformance.bounds import Bounded, Num, Plain, Shaking
from isostep_conformance.budget import (
    FEWEST_FREE,
    MOST_EXEMPT,
    MOST_EXEMPT_DENORMAL,
    MOST_EXEMPT_FREE,
    SUM_ULPS,
    Expected,
)
from isostep_conformance.cases import Case
from isostep_conformance.formats import Format, ulp, widen
from isostep_conformance.scenarios import Script

#: The scenarios that backends also run through on their own.
FREE = ("run",)
#: How often the gradients of a run may be drawn.
DRAWS = 4
#: Steps ahead whose drift is allowed: what the plain rule drifts by is one draw.
LUCK = 2
#: How often a decomposition or product is shaken to see how far off an honest one may be.
SHAKES = 6
#: What sums over an array or an axis of it.
_SUMMING = {"sum", "sum_units", "sum_axis", "matmul", "over_triangle", *DECOMPOSITIONS, *BASES}
#: What honest backends do in so many ways that the plain rule's error is only one draw.
_SHAKEN = {"matmul", *DECOMPOSITIONS}
#: A rule whose numbers grow past this (as a part of the format's range, in the exponent) gets smaller gradients.
_ROOM = {"float16": 1e3}
_PLENTY = 1e7


@dataclass
class Snapshot:
    """Parameters and state at one moment, as NumPy arrays of the case's dtype."""

    params: list[np.ndarray]
    state: State

    def copy(self) -> Snapshot:
        """A copy that shares no memory."""
        s = self.state
        arrays = [{n: np.array(a) for n, a in one.items()} for one in s.arrays]
        group = {n: np.array(v) for n, v in s.group.items()}
        return Snapshot(
            [np.array(p) for p in self.params], State(s.rule, list(s.t), arrays, group, s.group_t)
        )

    def at(self, t: int) -> Snapshot:
        """The same with ``t`` steps done."""
        moved = replace(self.state, t=[t] * len(self.params), group_t=t)
        return Snapshot(self.params, moved)


@dataclass
class Target:
    """What is expected after one step."""

    arrays: list[dict[str, Expected]]
    group: dict[str, Expected]

    @property
    def elements(self) -> int:
        """How many numbers are compared."""
        return sum(e.v.size for one in self.arrays for e in one.values()) + len(self.group)

    @property
    def exempt(self) -> int:
        """How many of them are exempt."""
        every = [e for one in self.arrays for e in one.values()] + list(self.group.values())
        return int(sum(e.exempt.sum() for e in every))


@dataclass
class Shot:
    """One step: the reference before and after, and what it was fed. The truth is computed when asked for."""

    rule: BoundRule
    form: Format
    before: Snapshot
    grads: list[np.ndarray]
    inputs: dict[str, Any]
    after: Snapshot

    @cached_property
    def forced(self) -> Target:
        """What is expected of a step from the reference's state."""
        items, group = self.befores()
        truth = exact.step(self.rule, items, group, self.before.state.group_t, Bounded(self.form))
        return _target(self, truth, self.before, _shaken(self, items, group))

    def befores(self, arith: Plain | None = None) -> tuple[list[exact.Before], dict[str, Any]]:
        """The reference's state and the step's gradients as operands of the truth."""
        wide = self.form.wide
        arith = arith or Bounded(self.form)

        def exactly(a: np.ndarray) -> Any:
            return arith.array(widen(a, wide))

        s = self.before.state
        items = [
            exact.Before(
                p=exactly(p),
                g=exactly(self.grads[i]),
                state={n: exactly(a) for n, a in s.arrays[i].items()},
                t=s.t[i],
                inputs={n: exactly(self.inputs[n][i]) for n in self.rule.input_names},
            )
            for i, p in enumerate(self.before.params)
        ]
        return items, {n: exactly(self.inputs.get(n, v)) for n, v in s.group.items()}


def begun(shot: Shot, rule: BoundRule, start: Snapshot) -> Shot:
    """The same gradients and inputs in a step of ``rule`` (of the same structure) from elsewhere."""
    before, done = start.copy(), start.copy()
    params, state = NumpyReference().step(rule, done.params, shot.grads, done.state, **shot.inputs)
    return Shot(rule, shot.form, before, shot.grads, shot.inputs, Snapshot(params, state))


def moved(shot: Shot, rule: BoundRule, t: int) -> Shot:
    """The same step taken by ``rule`` (of the same structure) after ``t`` steps."""
    return begun(shot, rule, shot.before.at(t))


def _chooses(shot: Shot) -> bool:
    """Whether a step makes something of which there are several right ones."""
    shapes = {p.shape for p in shot.before.params}
    phases = {shot.rule.phase(t + 1) for t in shot.before.state.t}
    programs = (trace(shot.rule, phase, shape) for phase in phases for shape in shapes)
    return any(n.op in BASES for program in programs for n in program.live)


@dataclass
class Run:
    """A scenario of a case: the reference's steps, and the truth of a free run through them."""

    case: Case
    scenario: str
    rule: BoundRule
    script: Script
    shots: list[Shot]

    @cached_property
    def free(self) -> list[Target]:
        """What is expected after each step of a backend that goes on from its own state; only of long runs.

        In half precision drift may bring most of a run to thresholds, from where on it tells little: it ends there.
        """
        found = self.whole
        if self.case.form is self.case.form.compute or _exempt(found) <= MOST_EXEMPT_FREE:
            return found
        told = [k for k in range(len(found) + 1) if _exempt(found[:k]) <= MOST_EXEMPT_FREE]
        return found[: max(told)] if max(told) >= FEWEST_FREE else found

    @cached_property
    def whole(self) -> list[Target]:
        """The same to the last step.

        None of rules with a state that each library chooses: two right runs part there.
        """
        if self.scenario not in FREE or any(_chooses(shot) for shot in self.shots):
            return []
        found, carried = [], None
        for shot in self.shots:
            target, carried = _free(shot, carried)
            found.append(target)
        return _with_drift(found)


@lru_cache(maxsize=64)
def run(case: Case, scenario: str) -> Run:
    """The run of one scenario; cached, because every path needs the same.

    In half precision a square that is lost in rounding can leave a whole array at its threshold, from where a free run
    tells nothing; of huge gradients a whole array may or may not overflow, and of tiny ones a product may or may not be
    zero. Then other gradients are drawn, ``DRAWS`` times at most, and the best of them are kept; what is still exempt
    is counted as ever.
    """
    rule = case.rule(scenario)
    drawn: list[Run] = []
    for draw in range(DRAWS):
        script, snapshots = _played(case, rule, scenario, draw)
        drawn.append(Run(case, scenario, rule, script, _shots(rule, case.form, script, snapshots)))
        if not _untold(drawn[-1]):
            return drawn[-1]
    return min(drawn, key=_untold)


def _untold(found: Run) -> float:
    """The part of a run's elements that is exempt, where that is too much; only of runs that may be drawn again.

    A run that leaves its format's range tells least of all.
    """
    extreme = {"huge": MOST_EXEMPT, "denormals": MOST_EXEMPT_DENORMAL}
    if found.scenario in extreme:
        part, most = _exempt([shot.forced for shot in found.shots]), extreme[found.scenario]
    elif found.case.form is not found.case.form.compute:
        if found.scenario in FREE and not all(np.isfinite(_largest(s.after)) for s in found.shots):
            return np.inf
        part, most = _exempt(found.whole), MOST_EXEMPT_FREE
    else:
        return 0.0
    return part if part > most else 0.0


def _exempt(targets: list[Target]) -> float:
    """The part of the elements that is exempt."""
    return sum(t.exempt for t in targets) / max(sum(t.elements for t in targets), 1)


def shots(rule: BoundRule, form: Format, script: Script) -> list[Shot]:
    """The steps of a script."""
    return _shots(rule, form, script, play(rule, script))


def _shots(
    rule: BoundRule, form: Format, script: Script, snapshots: list[tuple[Snapshot, Snapshot]]
) -> list[Shot]:
    return [
        Shot(rule, form, before, script.grads[k], script.inputs[k], after)
        for k, (before, after) in enumerate(snapshots)
    ]


def _played(
    case: Case, rule: BoundRule, scenario: str, draw: int
) -> tuple[Script, list[tuple[Snapshot, Snapshot]]]:
    """The reference's run; gradients are made smaller until an ordinary scenario stays in range."""
    scale = 1.0
    room = _ROOM.get(case.dtype, _PLENTY)
    while True:
        script = case.script(scenario, scale, draw)
        snapshots = play(rule, script)
        if scenario not in ("run", "odd") or scale < 1e-12:
            return script, snapshots
        largest = max((_largest(after) for _, after in snapshots), default=0.0)
        if largest <= room:
            return script, snapshots
        scale *= 0.1


def _largest(snapshot: Snapshot) -> float:
    arrays = [*snapshot.params, *snapshot.state.group.values()]
    arrays += [a for one in snapshot.state.arrays for a in one.values()]
    sizes = [float(np.abs(widen(a, np.dtype(np.float64))).max(initial=0.0)) for a in arrays]
    return max((np.inf if np.isnan(s) else s for s in sizes), default=0.0)


def play(rule: BoundRule, script: Script) -> list[tuple[Snapshot, Snapshot]]:
    """The plain NumPy rule through a script: the moment before and after each step."""
    backend = NumpyReference()
    params = [np.array(p) for p in script.params]
    now = Snapshot(params, backend.init(rule, params))
    found = []
    for k, grads in enumerate(script.grads):
        if k in script.jumps:
            now = now.at(script.jumps[k])
        if k in script.resets:
            now = Snapshot([np.array(p) for p in script.resets[k]], now.state)
        before = now.copy()
        params, state = backend.step(rule, now.params, grads, now.state, **script.inputs[k])
        now = Snapshot(params, state)
        found.append((before, now.copy()))
    return found


def _free(shot: Shot, carried: Any) -> tuple[Target, Any]:
    """One step of the truth from its own state; ``carried`` is that state, the largest that its values were, and
    the states of the runs whose decompositions are shaken."""
    items, group = shot.befores()
    peaks: list[dict[str, Any]] = [{} for _ in (*items, group)]
    shaken = None
    given = {n: group[n] for n in shot.rule.group_input_names}
    if carried is not None:
        arrays, group, peaks, shaken = carried
        group = group | given
        for item, own in zip(items, arrays, strict=True):
            item.p = own[PARAMETER]
            item.state = {n: own[n] for n in item.state}
    done, after_group = exact.step(
        shot.rule, items, group, shot.before.state.group_t, Bounded(shot.form)
    )
    start = Snapshot(
        [i.p.v for i in items],
        replace(
            shot.before.state,
            arrays=[{n: a.v for n, a in i.state.items()} for i in items],
            group={n: v.v for n, v in group.items()},
        ),
    )
    shaken = _shaken(shot, items, group, shaken)
    target = _target(shot, (done, after_group), start, shaken, bounded=False)
    plain = shot.after
    olds = [
        *({PARAMETER: start.params[i], **start.state.arrays[i]} for i in range(len(done))),
        start.state.group,
    ]
    peaks = [
        {n: np.fmax(peak.get(n, 0.0), np.abs(v)) for n, v in old.items()}
        for peak, old in zip(peaks, olds, strict=True)
    ]
    stored = [
        {
            n: _stored(
                a,
                {PARAMETER: plain.params[i], **plain.state.arrays[i]}[n],
                shot.form,
                peaks[i][n],
            )
            for n, a in one.arrays.items()
        }
        for i, one in enumerate(done)
    ]
    kept = {
        n: _stored(v, plain.state.group[n], shot.form.compute, peaks[-1][n])
        for n, v in after_group.items()
    }
    return target, (stored, kept, peaks, shaken)


def _with_drift(targets: list[Target]) -> list[Target]:
    """Allow what the plain rule has drifted in any array of this name, so far and in the ``LUCK`` steps from here.

    Arrays and steps share their luck: where a number that all share was nearly right in the plain rule, the next
    steps show how far off it may be.
    """
    own: list[dict[str, float]] = []
    for target in targets:
        worst: dict[str, float] = {}
        for one in (*target.arrays, target.group):
            for n, e in one.items():
                worst[n] = max(worst.get(n, 0.0), e.worst)
        own.append(worst)
    found = []
    for k, target in enumerate(targets):
        seen = own[: k + 1 + LUCK]
        drift = {n: max(worst[n] for worst in seen) for n in own[k]}
        *arrays, group = (
            {n: e.at_least(drift[n]) for n, e in one.items()}
            for one in (*target.arrays, target.group)
        )
        found.append(Target(arrays, group))
    return found


def _stored(x: Num, plain: np.ndarray, form: Format, peak: Any) -> Num:
    """What the next step of a free run starts from, and how far off an honest backend may be by then.

    First-order bounds grow without limit over many steps. The plain rule's own drift says how far honest
    arithmetic really is: twice what all but a tenth of its array stay below. In ulps of the largest value that
    the element has had (``peak``): a sum that has shrunk since still has the rounding of the time when it was large,
    until the rule itself forgets it, which the first-order bound follows.
    """
    spacing = ulp(np.fmax(np.abs(x.v), np.where(np.isfinite(peak), peak, 0)), form)
    with np.errstate(all="ignore"):
        drift = np.abs(widen(plain, x.v.dtype) - x.v) / spacing
        usual = drift[np.isfinite(drift) & ~np.broadcast_to(x.f, x.v.shape)]
        most = float(np.quantile(usual.astype(np.float64), 0.9)) if usual.size else 0.0
        e = np.minimum(x.e + spacing * (form is not form.compute), (1 + 2 * most) * spacing)
    return Num(
        x.v, np.where(np.isfinite(x.v) & ~((np.asarray(x.e) == 0) & (drift == 0)), e, 0), x.f
    )


def _target(
    shot: Shot,
    truth: tuple[list[exact.After], dict[str, Num]],
    start: Snapshot,
    shaken: list[Shaken],
    *,
    bounded: bool = True,
) -> Target:
    """The truth with what it allows; ``start`` is where the truth's own step began."""
    done, group = truth
    form, plain = shot.form, shot.after
    wide = form.wide
    sizes = [p.size for p in start.params]
    arrays = []
    for i, one in enumerate(done):
        old = {PARAMETER: start.params[i], **start.state.arrays[i]}
        new = {PARAMETER: plain.params[i], **plain.state.arrays[i]}
        program = trace(
            shot.rule, shot.rule.phase(shot.before.state.t[i] + 1), start.params[i].shape
        )
        reach = _sums(program)
        limits = {
            n: SUM_ULPS * (sizes[i] * own or sum(sizes) * group) ** 0.5
            for n, (own, group) in reach.items()
        }
        arrays.append(
            {
                n: Expected.of(
                    x,
                    widen(old[n], wide),
                    [widen(new[n], wide), *(one.arrays[i][n] for one in shaken)],
                    form,
                    limits.get(n, 0.0),
                    bounded=bounded,
                )
                for n, x in one.arrays.items()
            }
        )
    groups = {}
    for n, x in group.items():
        old_value, new_value = widen(start.state.group[n], wide), widen(plain.state.group[n], wide)
        limit = SUM_ULPS * sum(sizes) ** 0.5
        groups[n] = Expected.of(x, old_value, [new_value], form.compute, limit, bounded=bounded)
    return Target(arrays, groups)


@dataclass
class Shaken:
    """What a step makes of its state where decompositions and products are those of matrices within rounding."""

    arrays: list[dict[str, np.ndarray]]
    group: dict[str, np.ndarray]


def _shaken(
    shot: Shot,
    items: list[exact.Before],
    group: dict[str, Num],
    carried: list[Shaken] | None = None,
) -> list[Shaken]:
    """The step several times, from ``carried`` or from the truth's own state; never without matrices."""
    programs = (trace(shot.rule, shot.rule.phase(i.t + 1), i.p.v.shape) for i in items)
    if not carried and not any(n.op in _SHAKEN for p in programs for n in p.live):
        return []
    bare = [{PARAMETER: i.p.v, **{n: a.v for n, a in i.state.items()}} for i in items]
    starts = carried or [Shaken(bare, {n: v.v for n, v in group.items()})] * SHAKES
    given = [
        replace(i, g=i.g.v, inputs={n: a.v for n, a in i.inputs.items()}, state={}) for i in items
    ]
    found = []
    for seed, start in enumerate(starts):
        own = [
            replace(i, p=a[PARAMETER], state={n: x for n, x in a.items() if n != PARAMETER})
            for i, a in zip(given, start.arrays, strict=True)
        ]
        arith = Shaking(shot.form, seed)
        done, after = exact.step(shot.rule, own, start.group, shot.before.state.group_t, arith)
        found.append(Shaken([one.arrays for one in done], after))
    return found


def sums_of(shot: Shot, p: np.ndarray) -> dict[str, tuple[bool, bool]]:
    """For each output of a parameter's step, whether it depends on a sum over its array, and on one over the group."""
    return _sums(trace(shot.rule, shot.rule.phase(shot.before.state.group_t + 1), p.shape))


@lru_cache(maxsize=256)
def _sums(program: Program) -> dict[str, tuple[bool, bool]]:
    """For each output, whether it depends on a sum over its array, and on one over the group."""
    found = {}
    for name, node in program.outputs.items():
        ops = {n.op for n in ancestors([node])}
        own = bool(ops & _SUMMING) and "sum_group" not in ops
        found[PARAMETER if name == UPDATE else name] = own, "sum_group" in ops
    return found
