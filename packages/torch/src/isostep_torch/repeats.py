"""Steps on stacks that differ from the last one in numbers and in where new gradients lie: a short look is enough.

For the states of optimizers, which answer for their arrays (``State.sealed``). All else has been checked by the last
step, which took the long look (``isostep.execute``). A step of any other kind takes it again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from isostep import scalars
from isostep.lower.overlap import Written
from isostep.lower.plan import equal, same
from isostep.lower.stacked import Part, check_apart, part_of, run, written_by
from isostep.rule import BoundRule
from isostep.state import State
from isostep.storage import PLAIN
from isostep_torch.addresses import finder
from isostep_torch.looks import looks
from isostep_torch.memory import all_have_memory

#: What is computed with as it is.
WHOLE = {torch.float32, torch.float64}


@dataclass(eq=False)
class Repeat:
    """What a step has found that the next one may find again; ``ways`` by phase."""

    params: list[Any]
    structure: Any
    find: Callable[[], np.ndarray]
    places: np.ndarray
    looks: np.ndarray
    ways: dict[Any, Way] = field(default_factory=dict)


@dataclass(eq=False)
class Way:
    """Parts, with their places in the list; what they write; which gradients lie as they are, with their bytes."""

    parts: list[tuple[Part, list[int]]]
    written: Written
    flat: list[int]
    sizes: np.ndarray


def remember(rule: BoundRule, params: Any, grads: Any, state: State) -> None:
    """Leave with a state what its last step has found."""
    state.repeat = None
    if not state.sealed or type(params) is not list or type(grads) is not list or not params:
        return
    given = rule.input_names or rule.group_input_names
    if given or rule.sequential or not {p.dtype for p in params} <= WHOLE:
        return
    arrays = [*params, *(a for own in state.arrays for a in own.values())]
    look = looks(grads)
    # Tensors that only stand for others (fakes) have no place, and torch warns of whoever asks for it.
    find = finder(arrays) if look is not None and all_have_memory(arrays) else None
    if look is not None and find is not None:
        state.repeat = Repeat(list(params), rule.structure(), find, find(), look.numbers)


def again(backend: Any, rule: BoundRule, params: Any, grads: Any, state: Any) -> bool:
    """Take a step, if it is like the last one; whether it was."""
    known = getattr(state, "repeat", None)
    if known is None or type(params) is not list or type(grads) is not list:
        return False
    t = state.t[0]
    if not (same(known.params, params) and len(grads) == len(params) == state.t.count(t)):
        return False
    if rule.observed or state.storage != PLAIN or known.structure != rule.structure():
        return False
    look = looks(grads)
    if (
        look is None
        or not equal(look.numbers, known.looks)
        or not equal(known.find(), known.places)
    ):
        return False
    hyper, phase = backend._at(rule, t + 1)
    with backend.quiet():
        if phase not in known.ways:
            known.ways[phase] = _way(backend, rule, phase, params, grads, state)
        way, tasks = known.ways[phase], []
        check_apart(rule, way.written, look.addresses[way.flat], way.sizes)
        for part, members in way.parts:
            more = {"g": [grads[i] for i in members]}
            tasks += part.stacks(scalars.evaluate(part.program, hyper, t + 1), more)
        group = run(backend, rule, tasks, dict(state.group), state.group_t + 1)
    backend._count(state, [True] * len(params), group)
    state.figures = None
    return True


def _way(
    backend: Any, rule: BoundRule, phase: Any, params: list[Any], grads: list[Any], state: State
) -> Way:
    bins: dict[Any, list[int]] = defaultdict(list)
    for i, p in enumerate(params):
        bins[p.dtype, p.device, p.shape].append(i)
    found = []
    for members in bins.values():
        arrays = {"p": [params[i] for i in members], "g": [grads[i] for i in members]}
        arrays |= {n: [state.arrays[i][n] for i in members] for n in rule.state_names}
        found.append((part_of(backend, rule, phase, arrays), members))
    written = written_by(rule, [part for part, _ in found])
    for part, _ in found:
        del part.arrays["g"]  # it is freed when its owner wants it to be
    flat = [i for i, g in enumerate(grads) if g.is_contiguous()]
    return Way(found, written, flat, np.array([grads[i].nbytes for i in flat], np.int64))
