"""The contract check of half precision: computed in float32, and rounded once where an array is stored.

The budget cannot tell: in ulps of bfloat16 a step that is computed in bfloat16 is near the truth. But a backend has a
step of the same numbers in float32, and a step in half precision is that one, rounded to nearest even. Where its two
kernels are not the same arithmetic (contracted or not), few results lie so near to a tie that this shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from isostep_conformance.formats import FORMATS
from isostep_conformance.runner import taken
from isostep_conformance.truth import Run, Shot, Snapshot

#: How many of the numbers may be off: those at ties and thresholds, not those of a second rounding.
MOST_OFF = 0.02
#: A few of them prove nothing where there are few.
FEW_OFF = 3


def rounded_once(backend: Any, found: Run) -> Iterator[str]:
    """A step in half precision is the same backend's step in float32 of the same numbers, rounded once."""
    for form in FORMATS.values():
        if form is form.compute or not {form.name, form.compute.name} <= set(backend.dtypes):
            continue
        shot = _stored(found.shots[4], form.name)
        got = _arrays(taken(backend, found.rule, shot))
        wide = _arrays(taken(backend, found.rule, _stored(shot, form.compute.name)))
        with np.errstate(all="ignore"):
            wanted = {n: a.astype(form.numpy) for n, a in wide.items()}
        off = {n: _off(got[n], wanted[n]) for n in got}
        count, size = sum(int(o.sum()) for o in off.values()), sum(o.size for o in off.values())
        if count > max(FEW_OFF, MOST_OFF * size):
            name = max(off, key=lambda n: int(off[n].sum()))
            index = tuple(int(i) for i in np.argwhere(off[name])[0])
            yield (
                f"{count} of {size} numbers are not the step in {form.compute.name} rounded once to {form.name}, "
                f"{name} element {index}: got {float(got[name][index]):.9g}, "
                f"expected {float(wanted[name][index]):.9g} of {float(wide[name][index]):.9g}"
            )


def _stored(shot: Shot, dtype: str) -> Shot:
    """The same step of arrays in another dtype; numbers of the group stay as they are."""

    def cast(a: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(a.astype(FORMATS[dtype].numpy))

    s = shot.before.state
    state = replace(s, arrays=[{n: cast(a) for n, a in one.items()} for one in s.arrays])
    before = Snapshot([cast(p) for p in shot.before.params], state)
    inputs = {n: [cast(a) for a in v] if isinstance(v, list) else v for n, v in shot.inputs.items()}
    return replace(
        shot, form=FORMATS[dtype], before=before, grads=[cast(g) for g in shot.grads], inputs=inputs
    )


def _arrays(snapshot: Snapshot) -> dict[str, np.ndarray]:
    """Parameters and state, each array by the name that messages have for it."""
    found = {f"params[{i}]": p for i, p in enumerate(snapshot.params)}
    for i, one in enumerate(snapshot.state.arrays):
        found |= {f"state[{i}][{n!r}]": a for n, a in one.items()}
    return found


def _off(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which elements differ; NaN is NaN."""
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    return np.asarray((a != b) & ~(np.isnan(a) & np.isnan(b)))
