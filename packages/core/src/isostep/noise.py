"""Random arrays like the parameters: the noise that ``isostep.pieces.gradient_noise`` adds.

    rng = np.random.default_rng(0)
    params, state = backend.step(rule, params, grads, state, noise=isostep.noise.normal(params, rng))

A generator's own state is all there is to save: with it a run that is resumed draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from isostep.backend import backend as find_backend
from isostep.state import arranged, as_list


def normal(params: Any, rng: np.random.Generator, *, backend: Any = "numpy:reference") -> Any:
    """Standard normal numbers: one array like each parameter, a list or dict as they are, for the input ``noise``.

    Args:
        params: a list or dict of arrays, whose shapes and dtypes are taken.
        rng: where the numbers come from, in the order of the arrays.
        backend: of the parameters' framework, to make arrays of them.
    """
    made = find_backend(backend) if isinstance(backend, str) else backend
    return arranged(params, drawn(rng.standard_normal, as_list(params), made))


def drawn(draw: Callable[[tuple[int, ...]], Any], arrays: Sequence[Any], backend: Any) -> list[Any]:
    """What ``draw(shape)`` gives for every array, in its dtype and on its framework."""
    numbers = (np.asarray(draw(tuple(a.shape))) for a in arrays)
    return [
        backend.cast(backend.asarray(n), backend.dtype(a))
        for n, a in zip(numbers, arrays, strict=True)
    ]


__all__ = ["drawn", "normal"]
