"""PCGrad: the gradients of several tasks, each without what pulls against another, as one gradient.

    for each task i:   d = g_i
        for each other task j, in some order, where d . g_j < 0:   d <- d - (d . g_j) / |g_j|**2 * g_j
    the gradient is the sum of all d, or their mean

Follows: Yu, Kumar, Gupta, Levine, Hausman, Finn, "Gradient Surgery for Multi-Task Learning", arXiv 2001.06782,
    Algorithm 1, with dot products over all parameters together.
Departs:
    - The paper's order is random: pass ``rng``. Without it the others are taken as they are numbered.
    - ``"mean"`` divides by the number of tasks where all of them have a gradient, and adds up elsewhere (a task's own
      head), as WeiChengTseng/Pytorch-PCGrad and pytorch_optimizer do. The paper adds up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isostep import nm
from isostep.sharpness import dot, widened
from isostep.state import StepError, arranged, labels


def pcgrad(gradients: Sequence[Any], *, reduction: str = "mean", rng: Any = None) -> Any:
    """One gradient from those of several tasks.

    Args:
        gradients: for each task a list, tuple or dict of arrays, all alike; None where a task has no gradient.
        reduction: ``"mean"`` or ``"sum"``.
        rng: a ``numpy.random.Generator`` that orders the other tasks anew for each task; None for as numbered.

    Returns:
        A list, or a dict where dicts were given; None where no task has a gradient. New arrays.

    Raises:
        StepError: there is no task, or the tasks differ in structure or shapes.
        ValueError: an unknown reduction.
        TypeError: ``rng`` cannot shuffle, such as a seed.
    """
    if reduction not in ("mean", "sum"):
        message = f"pcgrad: reduction must be one of 'mean', 'sum', got {reduction!r}; choose one"
        raise ValueError(message)
    if rng is not None and not hasattr(rng, "shuffle"):
        message = f"pcgrad: rng must be a numpy.random.Generator or None, got {rng!r}"
        raise TypeError(message)
    gradients = list(gradients)
    given = [_flat(g, gradients[0]) for g in gradients]
    tasks = [[None if g is None else widened(g) for g in task] for task in given]
    if not tasks:
        message = "pcgrad: needs the gradients of at least one task, got none"
        raise StepError(message)
    _check_shapes(labels(gradients[0]), tasks)
    projected = []
    for i, task in enumerate(tasks):
        others = [j for j in range(len(tasks)) if j != i]
        if rng is not None:
            rng.shuffle(others)
        own = list(task)
        for j in others:
            own = _without(own, tasks[j])
        projected.append(own)
    # What was projected is not what was given: a task's own head gets zeros from the tasks that it pulls against.
    shared = [all(g is not None for g in each) for each in zip(*tasks, strict=True)]
    merged = [
        _narrowed(_merged(each, mean=reduction == "mean" and s), like)
        for each, like, s in zip(
            zip(*projected, strict=True), zip(*given, strict=True), shared, strict=True
        )
    ]
    return arranged(gradients[0], merged)


def _flat(gradient: Any, first: Any) -> list[Any]:
    """One task's arrays in the first task's order."""
    if isinstance(first, Mapping):
        if isinstance(gradient, Mapping) and set(gradient) == set(first):
            return [gradient[k] for k in first]
    elif isinstance(gradient, list | tuple) and len(gradient) == len(first):
        return list(gradient)
    message = "pcgrad: the gradients of all tasks must be lists, or dicts, of the same arrays"
    raise StepError(message)


def _check_shapes(labels: list[str], tasks: list[list[Any]]) -> None:
    """Raise unless what the tasks have of a parameter is of one shape."""
    for label, each in zip(labels, zip(*tasks, strict=True), strict=True):
        shapes = {tuple(g.shape) for g in each if g is not None}
        if len(shapes) > 1:
            got = " and ".join(map(str, sorted(shapes)))
            message = f"pcgrad: the gradients of {label} must have one shape, got {got}"
            raise StepError(message)


def _narrowed(merged: Any, given: tuple[Any, ...]) -> Any:
    """A merged gradient in the dtype of those given, if it was widened."""
    halves = [g for g in given if g is not None and widened(g) is not g]
    if merged is None or not halves:
        return merged
    return nm.namespace(merged).astype(merged, halves[0].dtype)


def _without(own: list[Any], other: list[Any]) -> list[Any]:
    """``own`` minus what of it points against ``other``."""
    shared = [(a, b) for a, b in zip(own, other, strict=True) if a is not None and b is not None]
    present = [b for b in other if b is not None]
    if not shared:
        return own
    product, square = _total(shared), _total([(b, b) for b in present])
    against = product < 0
    part = nm.where(against, product / nm.where(against, square, 1.0), 0.0)

    def less(a: Any, b: Any) -> Any:
        if b is None:
            return a
        return -(part * b) if a is None else a - part * b

    return [less(a, b) for a, b in zip(own, other, strict=True)]


def _total(pairs: list[tuple[Any, Any]]) -> Any:
    return dot([a for a, _ in pairs], [b for _, b in pairs])


def _merged(arrays: tuple[Any, ...], *, mean: bool) -> Any:
    given = [a for a in arrays if a is not None]
    if not given:
        return None
    total = 1.0 * given[0]
    for a in given[1:]:
        total = total + a
    return total / len(arrays) if mean else total


__all__ = ["pcgrad"]
